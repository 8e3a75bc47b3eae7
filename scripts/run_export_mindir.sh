#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # also when started as: sh SCRIPT
USAGE="usage: sh scripts/run_export_mindir.sh PATH_CHECKPOINT [FILE_NAME] [OPTION]...

Exports a checkpoint as FILE_NAME.mindir (default deepspeech2), on the CPU. Everything behind is passed on to
export.py, e.g. --batch_size 1."
. "$(dirname "$0")/common.sh"

help_if_asked "$@"
take_checkpoint "$@"
[ -n "$CHECKPOINT" ] || usage_error "PATH_CHECKPOINT is missing"
FILE_NAME=deepspeech2
if [ ${#REST[@]} -gt 0 ] && ! is_passed_on "${REST[0]}"; then
    FILE_NAME=${REST[0]}
    REST=("${REST[@]:1}")
fi
find_python
run_logged export_mindir "$PYTHON" export.py --device_target CPU --pre_trained_model_path "$CHECKPOINT" \
    --file_name "$FILE_NAME" "${REST[@]}"
