#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # also when started as: sh SCRIPT
USAGE="usage: bash scripts/train_english.sh SOURCE [GROUP.FIELD=VALUE]...

The English recipe on the CPU, about half a day on one core: sets up .venv (or uses DS2_PYTHON), prepares the corpora of the
folder SOURCE into data/, trains with configs/librispeech_10h.yaml, evaluates the average of the last checkpoints on the dev
speakers, and draws the curves. Started again after an interruption, it goes on where it was.

SOURCE holds LibriSpeech/ with subsets train-* and dev-* in the official layout and, where they are wanted,
CMU_ARCTIC/cmu_us_*_arctic/ and Kathleen_CC0/ in the Festvox layout. The voice cmu_us_bdl_arctic, and the sentences whose
numbers end in 5, are kept for trials of fine-tuning (docs/experiments.md)."
. "$(dirname "$0")/common.sh"

help_if_asked "$@"
take_recipe_arguments "$@"
[ -n "$SOURCE" ] || usage_error "SOURCE is missing"
[ -d "$SOURCE/LibriSpeech" ] || fail "SOURCE $SOURCE has no folder LibriSpeech"

bash scripts/setup_env.sh
find_python
say "corpora"
run "$PYTHON" -m data.librispeech --source "$SOURCE/LibriSpeech" --max_seconds 40
VOICES=()
for voice in "$SOURCE"/CMU_ARCTIC/cmu_us_*_arctic "$SOURCE"/Kathleen_CC0; do
    [[ ! -d $voice || $voice == *_bdl_* ]] || VOICES+=("$voice")
done
: >data/voices_manifest.csv
if [ ${#VOICES[@]} -gt 0 ]; then
    run_job "$PYTHON" -m data.corpus "${VOICES[@]}" --format festvox --name voices || {
        status=$?  # 2: some recordings were left out, as it has said
        [[ $status -eq 2 && -s data/voices_manifest.csv ]] || exit "$status"
    }
fi
sed -E '/arctic_[ab][0-9]{3}5[^,\/]*,/d' data/voices_manifest.csv |
    cat data/libri_train_manifest.csv - >data/english_train_manifest.csv
train_recipe librispeech_10h data/libri_val_manifest.csv
