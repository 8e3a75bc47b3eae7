#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # also when started as: sh SCRIPT
USAGE="usage: bash scripts/train_an4.sh [SOURCE] [GROUP.FIELD=VALUE]...

The AN4 recipe on the CPU: sets up .venv (or uses DS2_PYTHON), prepares the corpus into data/ from SOURCE (a folder or
tar archive; without it the official one is downloaded), trains with configs/an4.yaml, evaluates the average of the last
checkpoints on the dev speakers, and draws the curves. Started again after an interruption, it goes on where it was.

Settings are handed to the training, e.g. TrainingConfig.seed=1 with folders of its own:
TrainingConfig.log_dir=logs_an4_1 CheckpointConfig.ckpt_path=checkpoints_an4_1."
. "$(dirname "$0")/common.sh"

help_if_asked "$@"
SOURCE=
if [ $# -gt 0 ] && ! is_passed_on "$1"; then
    SOURCE=$1
    shift
fi
for setting in "$@"; do
    { [[ $setting != -* ]] && is_passed_on "$setting"; } ||
        usage_error "'$setting' is not of the form GROUP.FIELD=VALUE"
done
[[ -z $SOURCE || $SOURCE == /* ]] || SOURCE=$CALLER_DIR/$SOURCE
[ -z "$SOURCE" ] || [ -e "$SOURCE" ] || fail "SOURCE $SOURCE does not exist"

# of NAME DEFAULT: the value of setting NAME in SETTINGS, or the default.
of() {
    local setting value=$2
    for setting in "${SETTINGS[@]}"; do [[ $setting != "$1="* ]] || value=${setting#*=}; done
    echo "$value"
}
SETTINGS=("$@")
CHECKPOINTS=$(of CheckpointConfig.ckpt_path checkpoints_an4)
LOGS=$(of TrainingConfig.log_dir logs_an4)

# run COMMAND...: a step's command; its failure ends the script with its exit code.
run() { run_job "$@" || exit; }

bash scripts/setup_env.sh
find_python
say "corpus"
run "$PYTHON" -m data.an4 ${SOURCE:+--source "$SOURCE"}
say "training into $CHECKPOINTS"
run "$PYTHON" train.py --config configs/an4.yaml --device_target CPU --resume auto "$@"
MODEL=$CHECKPOINTS/DeepSpeech-average.ckpt
[ -e "$MODEL" ] || MODEL=$CHECKPOINTS/DeepSpeech-last.ckpt      # settings may end a run inside its first epoch
say "evaluation of $MODEL on the dev speakers"
run "$PYTHON" eval.py --pretrain_ckpt "$MODEL" --config configs/an4.yaml \
    --device_target CPU DataConfig.test_manifest=data/an4_val_manifest.csv "TrainingConfig.log_dir=$LOGS"
[ ! -e "$LOGS/metrics.csv" ] || run "$PYTHON" -m tools.plot_log "$LOGS/metrics.csv" --output "$LOGS/curves.png"
