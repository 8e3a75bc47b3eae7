#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # also when started as: sh SCRIPT
USAGE="usage: sh scripts/run_standalone_train_gpu.sh [DEVICE_ID] [OPTION | GROUP.FIELD=VALUE]...

Trains on one GPU. Everything behind its number (default 0) is passed on to train.py,
e.g. --config configs/an4.yaml --resume auto."
. "$(dirname "$0")/common.sh"

help_if_asked "$@"
take_device_id "$@"
find_python
export CUDA_VISIBLE_DEVICES=$DEVICE_ID
run_logged standalone_train_gpu "$PYTHON" train.py --device_target GPU "${REST[@]}"
