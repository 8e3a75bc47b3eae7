#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # also when started as: sh SCRIPT
USAGE="usage: sh scripts/run_standalone_train_cpu.sh [OPTION | GROUP.FIELD=VALUE]...

Trains on the CPU. Everything is passed on to train.py, e.g. --config configs/an4.yaml --resume auto."
. "$(dirname "$0")/common.sh"

help_if_asked "$@"
no_positional "$@"
find_python
run_logged standalone_train_cpu "$PYTHON" train.py --device_target CPU "$@"
