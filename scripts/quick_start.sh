#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # also when started as: sh SCRIPT
USAGE="usage: bash scripts/quick_start.sh [GROUP.FIELD=VALUE]...

The whole recipe on the CPU in a few minutes: sets up .venv (or uses DS2_PYTHON), makes a corpus of synthetic speech,
trains with configs/demo.yaml, evaluates on voices never heard in training, exports MindIR and ONNX models, evaluates
both, and transcribes two recordings. Everything it makes lies in demo/. Started again, it goes on where it was stopped.

Settings are handed to the training: TrainingConfig.epochs=1 for a quick look, TrainingConfig.seed=1
for other random numbers. Such a run has a folder of its own in demo/, and its error rate is not
judged. Without settings, a word error rate above 15 % ends with exit code 1."
. "$(dirname "$0")/common.sh"

MAX_WER=15      # percent

help_if_asked "$@"
RUN=demo/run
for setting in "$@"; do
    { [[ $setting != -* ]] && is_passed_on "$setting"; } ||
        usage_error "'$setting' is not of the form GROUP.FIELD=VALUE"
    RUN=demo/run-$(printf '%s\n' "$@" | cksum | cut -d ' ' -f 1)
done
CHECKPOINTS=$RUN/checkpoints
MINDIR=$RUN/deepspeech2.mindir
ONNX=$RUN/deepspeech2_onnx.onnx
TEST_MANIFEST=demo/data/demo_test_manifest.csv

# step NUMBER WHAT: announce it, with the time that has passed.
step() { say "$1/7 $2  ($((SECONDS / 60)) min $((SECONDS % 60)) s)"; }

# score MODEL FOLDER: evaluate on the test voices, with the list of utterances in FOLDER; set RATES to the summary.
score() {
    run "$PYTHON" eval.py --pretrain_ckpt "$1" --device_target CPU "DataConfig.test_manifest=$TEST_MANIFEST" \
        "TrainingConfig.log_dir=$2" >"$RUN/summary.txt"
    RATES=$(tail -n 1 "$RUN/summary.txt")
    echo "$RATES"
}

# rates SUMMARY: print the WER and the CER.
rates() { sed -E 's/.*WER ([0-9.]+)\tAverage CER ([0-9.]+).*/\1 \2/' <<<"$1"; }

# same_rates SUMMARY SUMMARY: whether they differ by rounding at most, which may change a word of the test set.
same_rates() {
    awk '{ exit !(($1 - $3) ^ 2 <= 0.25 && ($2 - $4) ^ 2 <= 0.25) }' <<<"$(rates "$1") $(rates "$2")"
}

# row PATH WHAT: a line of the closing table.
row() { printf '%8s  %-56s  %s\n' "$(du -sh --apparent-size -- "$1" | cut -f 1)" "$1" "$2"; }

step 1 "environment"
bash scripts/setup_env.sh
find_python

step 2 "corpus: synthetic speech in demo/data"
run "$PYTHON" -m data.demo --target demo/data

step 3 "training into $RUN"
run "$PYTHON" train.py --config configs/demo.yaml --device_target CPU --resume auto \
    DataConfig.train_manifest=demo/data/demo_train_manifest.csv \
    DataConfig.val_manifest=demo/data/demo_val_manifest.csv \
    "TrainingConfig.log_dir=$RUN/logs" "CheckpointConfig.ckpt_path=$CHECKPOINTS" "$@"
SETTINGS=("$@")
MODEL=$(saved_state best "$CHECKPOINTS")

step 4 "evaluation of $MODEL on voices never heard in training"
score "$MODEL" "$RUN/logs"
CHECKPOINT_RATES=$RATES

step 5 "export to $MINDIR and $ONNX"
run "$PYTHON" export.py --pre_trained_model_path "$MODEL" --device_target CPU --file_name "$MINDIR"
run "$PYTHON" export.py --pre_trained_model_path "$MODEL" --device_target CPU --file_name "$ONNX" --file_format ONNX

step 6 "evaluation of both"
for exported in "$MINDIR" "$ONNX"; do
    score "$exported" "$RUN/logs/${exported##*.}"
    same_rates "$RATES" "$CHECKPOINT_RATES" ||
        { echo "failed: $exported scores differently" >&2; exit 1; }
done

step 7 "transcription"
RECORDINGS=(demo/data/demo_dataset/test/wav/*.wav)
AUDIO=("${RECORDINGS[1]}" "${RECORDINGS[4]}")
run "$PYTHON" transcribe.py --pretrain_ckpt "$ONNX" "${AUDIO[@]}" >"$RUN/transcripts.txt"
mapfile -t HYPOTHESES <"$RUN/transcripts.txt"
for i in "${!AUDIO[@]}"; do
    TRANSCRIPT=${AUDIO[i]/\/wav\//\/txt\/}
    printf '%s\n  said:  %s\n  heard: %s\n' "${AUDIO[i]}" "$(cat "${TRANSCRIPT%.wav}.txt")" "${HYPOTHESES[i]}"
done

say "made in $ROOT:"
row demo/data "corpus: recordings, transcripts, manifests"
row "$MODEL" "checkpoint, to go on from or to evaluate"
row "$MINDIR" "model for inference with MindSpore"
row "$ONNX" "model for inference on any CPU"
row "${ONNX%.onnx}.json" "its labels and spectrogram settings"
row "$RUN/logs/metrics.csv" "loss of each epoch, val error rates"
row "$RUN/logs/demo_test_manifest_eval.csv" "reference, hypothesis and errors per utterance"
row "$RUN/transcripts.txt" "what transcribe.py heard"
read -r WER CER <<<"$(rates "$RATES")"
say "WER $WER %, CER $CER % on voices never heard in training; $((SECONDS / 60)) min $((SECONDS % 60)) s in all"
if [ $# -gt 0 ]; then
    say "settings were changed, so the error rate is not judged"
elif ! awk -v wer="$WER" -v limit=$MAX_WER 'BEGIN { exit !(wer <= limit) }'; then
    echo "failed: the WER is above $MAX_WER %; please report it, with $RUN/logs" >&2
    exit 1
fi

say "what to do next, in $ROOT:"
RUN_PYTHON=${PYTHON#"$ROOT/"}
cat <<END
The model above knows synthetic voices only. The English model learned from people who read books.
Try it on your own recordings, with the language model that makes words of what it hears:
    $RUN_PYTHON -m pip install '.[lm]'
    $RUN_PYTHON -m deepspeech2 transcribe --lm english a.wav b.flac
Train on your own recordings (docs/data.md, docs/training.md): check a manifest of them, then
fine-tune the English model:
    $RUN_PYTHON -m data.verify_manifest mine/train.csv mine/val.csv \\
        --config configs/librispeech_10h.yaml
    $RUN_PYTHON train.py --config configs/finetune.yaml --device_target CPU \\
        --pre_trained_model_path pretrained/librispeech_10h.ckpt \\
        DataConfig.train_manifest=mine/train.csv DataConfig.val_manifest=mine/val.csv
Train on AN4, recorded from people: a download, then one to two hours on two cores:
    bash scripts/train_an4.sh
Train on LibriSpeech, read books: 100 of the 960 hours, on a GPU:
    $RUN_PYTHON -m data.librispeech --subsets train-clean-100 dev-clean test-clean
    bash scripts/run_standalone_train_gpu.sh --config configs/librispeech.yaml
END
