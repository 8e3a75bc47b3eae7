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
take_recipe_arguments "$@"
[ -z "$SOURCE" ] || [ -e "$SOURCE" ] || fail "SOURCE $SOURCE does not exist"

bash scripts/setup_env.sh
find_python
say "corpus"
run "$PYTHON" -m data.an4 ${SOURCE:+--source "$SOURCE"}
train_recipe an4 data/an4_val_manifest.csv
