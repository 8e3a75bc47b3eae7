# shellcheck shell=bash
# Sourced by the scripts beside it: where the project is, which Python runs, and how a job is run.
# A script sets USAGE before it sources this. From here on the working directory is the repository root, and the
# arguments of the script name the caller's files by their full paths.

set +o posix            # where `sh` is bash, it came up without some of what follows
set -euo pipefail

CALLER_DIR=$PWD
ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$ROOT"
VENV=$ROOT/.venv
UNFINISHED=$VENV/ds2-unfinished     # there while packages are being installed
case ${DS2_PYTHON:-} in
    /*) ;;
    */*) export DS2_PYTHON=$CALLER_DIR/$DS2_PYTHON ;;
esac

say() { printf '== %s\n' "$*"; }

# fail MESSAGE...: the user's mistake, exit code 2.
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

usage_error() {
    printf '%s\n' "$USAGE" >&2
    fail "$@"
}

# of_caller PATH: print its full path if the folder of the caller has such a file, else PATH.
of_caller() {
    [[ $1 == /* || ! -f $CALLER_DIR/$1 ]] && printf '%s' "$1" || printf '%s' "$CALLER_DIR/$1"
}

# find_options_files ARGUMENT...: set ARGUMENTS to them, with the full paths of the caller's files behind options.
find_options_files() {
    local argument option=
    ARGUMENTS=()
    for argument in "$@"; do
        case $option in --config | --resume | --pretrain_ckpt | --pre_trained_model_path)
            argument=$(of_caller "$argument") ;;
        esac
        case $argument in --config=* | --resume=* | --pretrain_ckpt=* | --pre_trained_model_path=*)
            argument=${argument%%=*}=$(of_caller "${argument#*=}") ;;
        esac
        option=$argument
        ARGUMENTS+=("$argument")
    done
}

# help_if_asked ARGUMENT...: print the usage for -h or --help anywhere.
help_if_asked() {
    local argument
    for argument in "$@"; do
        case $argument in -h | --help)
            printf '%s\n' "$USAGE"
            exit 0 ;;
        esac
    done
}

# is_passed_on ARGUMENT: whether it is an option or a GROUP.FIELD=VALUE, which the Python command understands.
is_passed_on() { [[ $1 == -* || $1 =~ ^[A-Za-z]+(\.[A-Za-z0-9_]+)+= ]]; }

# take_device_id ARGUMENT...: set DEVICE_ID (default 0) from the first argument, and REST to the others.
take_device_id() {
    DEVICE_ID=0
    REST=("$@")
    if [ $# -gt 0 ] && ! is_passed_on "$1"; then
        [[ $1 =~ ^[0-9]+$ ]] || usage_error "DEVICE_ID must be a whole number, not '$1'"
        DEVICE_ID=$1
        REST=("${@:2}")
    fi
}

# take_checkpoint ARGUMENT...: set CHECKPOINT (default '') from the first argument, and REST to the others.
take_checkpoint() {
    CHECKPOINT=
    REST=("$@")
    if [ $# -gt 0 ] && ! is_passed_on "$1"; then
        CHECKPOINT=$(of_caller "$1")
        REST=("${@:2}")
    fi
}

# no_positional ARGUMENT...: refuse a first argument that the script does not know.
no_positional() {
    [ $# -eq 0 ] || is_passed_on "$1" || usage_error "unexpected argument '$1'"
}

# find_python: set PYTHON to DS2_PYTHON, else the project's virtual environment, else python3.
find_python() {
    if [ -n "${DS2_PYTHON:-}" ]; then
        PYTHON=$(command -v -- "$DS2_PYTHON") || fail "DS2_PYTHON=$DS2_PYTHON is not a program"
    else
        [ ! -e "$UNFINISHED" ] || fail "$VENV is not finished; run: bash scripts/setup_env.sh"
        PYTHON=$VENV/bin/python
        [ -x "$PYTHON" ] || PYTHON=$(command -v python3) || fail "there is no python3; run: bash scripts/setup_env.sh"
        "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("mindspore") is None)' ||
            fail "$PYTHON has no MindSpore; run: bash scripts/setup_env.sh (or set DS2_PYTHON)"
    fi
}

# say_where: say what paths in settings refer to, to a caller who is somewhere else.
say_where() { [[ $CALLER_DIR == "$ROOT" ]] || say "relative paths in settings start at $ROOT"; }

# log_to NAME: from here on, everything printed also goes to a file LOG below logs/, whose name is printed.
log_to() {
    local stem number=1
    stem=logs/$1-$(date +%Y%m%d-%H%M%S)
    LOG=$stem.log
    mkdir -p logs 2>/dev/null || true
    until (set -o noclobber && : >"$LOG") 2>/dev/null; do     # no other job has this name
        [ -e "$LOG" ] || fail "cannot write to $ROOT/$LOG"
        number=$((number + 1))
        LOG=$stem-$number.log
    done
    # tee stays until the job has said its last word, also when a signal goes to the whole process group
    exec > >(trap '' INT TERM HUP USR1; exec tee -a -- "$LOG") 2>&1
    LOG_WRITER=$!
    say "log file: $ROOT/$LOG"
    say_where
}

# finish STATUS: wait until the log is written, and exit.
finish() {
    exec >&- 2>&-
    local _
    for _ in {1..50}; do    # at most 5 s: a process that the job left behind may hold the log open
        kill -0 "$LOG_WRITER" 2>/dev/null || break
        sleep 0.1
    done
    exit "$1"
}

# forward SIGNAL: hand it to the job, and let run_job wait on.
forward() {
    SIGNALLED=yes
    kill -s "$1" "$JOB" 2>/dev/null || true
}

# run_job COMMAND...: run it in the foreground, return its exit code. Ctrl-C, TERM, HUP and USR1 reach the job, which may
# finish what it is doing (training saves a checkpoint); the script waits for it.
run_job() {
    local status
    JOB=
    trap 'forward INT' INT
    trap 'forward TERM' TERM HUP USR1
    set -m              # a process group of its own: else the shell would make the job deaf to INT
    PYTHONUNBUFFERED=1 "$@" &
    JOB=$!
    set +m
    while
        SIGNALLED=
        wait "$JOB" && status=0 || status=$?
        [ -n "$SIGNALLED" ]     # wait ended for the signal, not for the job
    do :; done
    trap - INT TERM HUP USR1
    return "$status"
}

# run COMMAND...: a step of a recipe; its failure ends the script with its exit code.
run() { run_job "$@" || exit; }

# take_recipe_arguments ARGUMENT...: set SOURCE from the first argument (default ''), and SETTINGS to the others.
take_recipe_arguments() {
    local setting
    SOURCE=
    if [ $# -gt 0 ] && ! is_passed_on "$1"; then
        SOURCE=$1
        shift
    fi
    SETTINGS=("$@")
    for setting in "$@"; do
        { [[ $setting != -* ]] && is_passed_on "$setting"; } ||
            usage_error "'$setting' is not of the form GROUP.FIELD=VALUE"
    done
    [[ -z $SOURCE || $SOURCE == /* ]] || SOURCE=$CALLER_DIR/$SOURCE
}

# setting_or NAME DEFAULT: print the value of setting NAME in SETTINGS, or the default.
setting_or() {
    local setting value=$2
    for setting in "${SETTINGS[@]}"; do [[ $setting != "$1="* ]] || value=${setting#*=}; done
    [[ $value != \~/* ]] || value=$HOME/${value#\~/}
    echo "$value"
}

# saved_state STATE FOLDER: print the path of a run's PREFIX-STATE.ckpt, in FOLDER unless SETTINGS name another; of
# PREFIX-last.ckpt where there is none, because settings may end a run before it.
saved_state() {
    local prefix
    prefix=$(setting_or CheckpointConfig.ckpt_path "$2")/$(setting_or CheckpointConfig.ckpt_file_name_prefix DeepSpeech)
    if [ -e "$prefix-$1.ckpt" ]; then echo "$prefix-$1.ckpt"; else echo "$prefix-last.ckpt"; fi
}

# train_recipe NAME VAL_MANIFEST: train on the CPU with configs/NAME.yaml and SETTINGS, evaluate, and draw the curves.
train_recipe() {
    local config=configs/$1.yaml val=$2 logs model
    logs=$(setting_or TrainingConfig.log_dir "logs_$1")
    say "training into $(setting_or CheckpointConfig.ckpt_path "checkpoints_$1")"
    run "$PYTHON" train.py --config "$config" --device_target CPU --resume auto "${SETTINGS[@]}"
    model=$(saved_state average "checkpoints_$1")
    say "evaluation of $model on $val"
    run "$PYTHON" eval.py --pretrain_ckpt "$model" --config "$config" --device_target CPU "${SETTINGS[@]}" \
        "DataConfig.test_manifest=$val" "TrainingConfig.log_dir=$logs"
    [ ! -e "$logs/metrics.csv" ] || run "$PYTHON" -m tools.plot_log "$logs/metrics.csv" --output "$logs/curves.png"
}

# run_logged NAME COMMAND...: run the job of a launch script, and exit with its exit code.
run_logged() {
    local status=0
    log_to "$1"
    shift
    run_job "$@" || status=$?
    say "exit code $status, log file: $ROOT/$LOG"
    finish "$status"
}

# distribute DEVICE ARGUMENT...: train in RANK_SIZE processes; this process becomes their launcher.
distribute() {
    local device=$1
    shift
    find_python
    say_where
    exec "$PYTHON" -m src.launch "$ROOT/logs/distribute_train_${device,,}-$(date +%Y%m%d-%H%M%S)" \
        train.py --is_distributed True --device_target "$device" "$@"
}

find_options_files "$@"
set -- "${ARGUMENTS[@]}"
