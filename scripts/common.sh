# shellcheck shell=bash
# Sourced by the scripts beside it: where the project is, which Python runs, and how a job is run.
# A script sets USAGE before it sources this. From here on the working directory is the repository root.

set +o posix            # where `sh` is bash, it came up without some of what follows
set -euo pipefail

CALLER_DIR=$PWD
ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$ROOT"
VENV=$ROOT/.venv

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
        CHECKPOINT=$1
        REST=("${@:2}")
        [[ $CHECKPOINT == /* || ! -e $CALLER_DIR/$CHECKPOINT ]] || CHECKPOINT=$CALLER_DIR/$CHECKPOINT
    fi
}

# no_positional ARGUMENT...: refuse a first argument that the script does not know.
no_positional() {
    [ $# -eq 0 ] || is_passed_on "$1" || usage_error "unexpected argument '$1'"
}

# find_python: set PYTHON to DS2_PYTHON, else the project's virtual environment, else python3.
find_python() {
    if [ -n "${DS2_PYTHON:-}" ]; then
        PYTHON=$(cd -- "$CALLER_DIR" && command -v -- "$DS2_PYTHON") || fail "DS2_PYTHON=$DS2_PYTHON is not a program"
        [[ $PYTHON == /* ]] || PYTHON=$CALLER_DIR/$PYTHON
    elif [ -x "$VENV/bin/python" ]; then
        PYTHON=$VENV/bin/python
    else
        PYTHON=$(command -v python3) || fail "there is no python3; run: bash scripts/setup_env.sh"
        "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("mindspore") is None)' ||
            fail "$PYTHON has no MindSpore; run: bash scripts/setup_env.sh (or set DS2_PYTHON)"
    fi
}

# log_to NAME: from here on, everything printed also goes to a file LOG below logs/, whose name is printed.
log_to() {
    LOG=logs/$1-$(date +%Y%m%d-%H%M%S).log
    { mkdir -p logs && : >>"$LOG"; } 2>/dev/null || fail "cannot write to $ROOT/$LOG"
    # tee stays until the job has said its last word, also when a signal goes to the whole process group
    exec > >(trap '' INT TERM HUP; exec tee -a -- "$LOG") 2>&1
    LOG_WRITER=$!
    say "log file: $ROOT/$LOG"
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

# job_pids: the processes that get the signals for the job: itself, or the workers that it launched.
job_pids() {
    local child workers=
    for child in $(cat "/proc/$JOB/task/$JOB/children" 2>/dev/null); do
        ! grep -qzx MS_ROLE=MS_WORKER "/proc/$child/environ" 2>/dev/null || workers+=" $child"
    done
    echo "${workers:-$JOB}"
}

# forward SIGNAL: hand it to the job, and let run_job wait on.
forward() {
    SIGNALLED=yes
    # shellcheck disable=SC2046
    kill -s "$1" $(job_pids) 2>/dev/null || true
}

# run_job COMMAND...: run it in the foreground, return its exit code. Ctrl-C, TERM and HUP reach the job, which may
# finish what it is doing (training saves a checkpoint); the script waits for it.
run_job() {
    local status
    JOB=
    trap 'forward INT' INT
    trap 'forward TERM' TERM HUP
    set -m              # a process group of its own: else the shell would make the job deaf to INT
    PYTHONUNBUFFERED=1 "$@" &
    JOB=$!
    set +m
    while
        SIGNALLED=
        wait "$JOB" && status=0 || status=$?
        [ -n "$SIGNALLED" ]     # wait ended for the signal, not for the job
    do :; done
    trap - INT TERM HUP
    return "$status"
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

# free_port PORT: print it if it is free, or any free one for 0.
free_port() {
    "$PYTHON" -c 'import socket, sys; s = socket.socket(); s.bind(("", int(sys.argv[1]))); print(s.getsockname()[1])' \
        "$1" 2>/dev/null
}

# distribute DEVICE ARGUMENT...: train in RANK_SIZE processes through msrun, and exit with the job's exit code.
distribute() {
    local device=$1 total=${RANK_SIZE:-8} hosts=${NODE_COUNT:-1} host=${NODE_RANK:-0} port=${MASTER_PORT:-0}
    local name code status=0 folder patience=120
    shift
    for name in total hosts host port; do
        [[ ${!name} =~ ^[0-9]+$ ]] || usage_error "RANK_SIZE, NODE_COUNT, NODE_RANK and MASTER_PORT are whole numbers"
    done
    [ "$total" -gt 0 ] && [ "$hosts" -gt 0 ] && [ $((total % hosts)) -eq 0 ] ||
        usage_error "RANK_SIZE (=$total) must be a multiple of NODE_COUNT (=$hosts)"
    [ "$host" -lt "$hosts" ] || usage_error "NODE_RANK (=$host) must be below NODE_COUNT (=$hosts)"
    if [ "$hosts" -gt 1 ]; then
        [ -n "${MASTER_ADDR:-}" ] || usage_error "several hosts need MASTER_ADDR"
        [ "$port" -gt 0 ] || port=8118
        patience=600        # seconds until the processes of all hosts must have met
    fi
    find_python
    # on a port that somebody else has, the processes would wait for each other in vain
    [ "$host" -gt 0 ] || port=$(free_port "$port") || fail "MASTER_PORT=$MASTER_PORT is in use here: choose another"
    # msrun starts its processes as `python`
    [ -x "$(dirname -- "$PYTHON")/python" ] ||
        fail "msrun needs a program named python beside $PYTHON: use a virtual environment"
    export PATH="${PYTHON%/*}:$PATH"
    log_to "distribute_train_${device,,}"
    folder=${LOG%.log}
    say "logs of the single processes: $ROOT/$folder"
    run_job "$PYTHON" -m mindspore.parallel.cluster.run --worker_num "$total" --local_worker_num $((total / hosts)) \
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "$port" --cluster_time_out "$patience" \
        --node_rank "$host" --log_dir "$folder" --join True --tail_worker_log $((host * total / hosts)) \
        train.py --is_distributed True --device_target "$device" "$@" || status=$?
    if [ "$status" -ne 0 ]; then
        # msrun answers 1 to whatever happens; the exit code of the first process that failed says more
        code=$(sed -nE 's/.*Worker process .* Error code: ([1-9][0-9]*)\..*/\1/p; T; q' "$LOG")
        status=${code:-$status}
        say "what the processes say about it:"
        grep -hE '^(error|failed|train\.py: error): ' "$folder"/worker_*.log | sort -u ||
            tail -n 20 "$folder"/worker_*.log "$folder"/scheduler.log || true
    fi
    say "exit code $status, log file: $ROOT/$LOG"
    finish "$status"
}
