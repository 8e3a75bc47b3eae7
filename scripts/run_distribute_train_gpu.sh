#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # also when started as: sh SCRIPT
USAGE="usage: sh scripts/run_distribute_train_gpu.sh [OPTION | GROUP.FIELD=VALUE]...

Trains on RANK_SIZE (default 8) GPUs, one process each. Everything is passed on to train.py.
Environment: RANK_SIZE, MASTER_PORT (any free one). For several hosts, started on each: NODE_COUNT (1), NODE_RANK
(from 0), MASTER_ADDR (of the host with NODE_RANK 0), MASTER_PORT (8118); RANK_SIZE counts the processes of all hosts."
. "$(dirname "$0")/common.sh"

help_if_asked "$@"
no_positional "$@"
distribute GPU "$@"
