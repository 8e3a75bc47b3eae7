#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # also when started as: sh SCRIPT
USAGE="usage: sh scripts/run_eval_gpu.sh [DEVICE_ID] [PATH_CHECKPOINT] [OPTION | GROUP.FIELD=VALUE]...

Evaluates a model (.ckpt or .mindir) on one GPU. Everything behind its path is passed on to eval.py,
e.g. DataConfig.test_manifest=data/an4_val_manifest.csv."
. "$(dirname "$0")/common.sh"

help_if_asked "$@"
take_device_id "$@"
take_checkpoint "${REST[@]}"
find_python
export CUDA_VISIBLE_DEVICES=$DEVICE_ID
run_logged eval_gpu "$PYTHON" eval.py --device_target GPU --pretrain_ckpt "$CHECKPOINT" "${REST[@]}"
