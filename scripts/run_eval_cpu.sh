#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # also when started as: sh SCRIPT
USAGE="usage: sh scripts/run_eval_cpu.sh [PATH_CHECKPOINT] [OPTION | GROUP.FIELD=VALUE]...

Evaluates a model (.ckpt, .mindir or .onnx) on the CPU. Everything behind its path is passed on to eval.py,
e.g. DataConfig.test_manifest=data/an4_val_manifest.csv."
. "$(dirname "$0")/common.sh"

help_if_asked "$@"
take_checkpoint "$@"
find_python
run_logged eval_cpu "$PYTHON" eval.py --device_target CPU --pretrain_ckpt "$CHECKPOINT" "${REST[@]}"
