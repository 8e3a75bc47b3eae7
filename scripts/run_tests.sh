#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # also when started as: sh SCRIPT
USAGE="usage: bash scripts/run_tests.sh [--all | --faults] [PYTEST ARGUMENT]...

Sets up .venv when needed (or uses DS2_PYTHON), checks the style with ruff and the imports with
import-linter, and runs the tests with pytest, in two processes (--numprocesses=0: in one). With
--all it installs PyTorch too, and Chromium and nginx where apt-get can and the user is root, because
some tests need them; a test that would be skipped then fails, also for want of the real speech that
DS2_SHARED (or ../shared) names. With --faults it runs tests/faults
instead, the random moments in two processes, the others one after the other: three quarters of an
hour on two cores (DS2_TRIALS=50: all trials of docs/reliability.md, more than an hour)."
. "$(dirname "$0")/common.sh"

# install_programs: for the tests that look at pages and proxies, which say what is missing when this
# fails.
install_programs() {
    local missing=() package
    command -v chromium chromium-browser google-chrome || missing+=(chromium)
    command -v nginx || [ -x /usr/sbin/nginx ] || missing+=(nginx-light)
    if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get; then
        say "installing ${missing[*]}"
        apt-get update --quiet || true
        for package in "${missing[@]}"; do
            DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends \
                "$package" || say "$package could not be installed"
        done
    fi
} >&2

help_if_asked "$@"
bash scripts/setup_env.sh --dev
find_python
if [ "${1:-}" = --all ]; then
    shift
    export DS2_ALL_TESTS=1
    if [ -z "${DS2_PYTHON:-}" ]; then
        "$PYTHON" -m pip install --quiet --requirement=requirements-benchmark.txt
        install_programs
    fi
fi
if [ "${1:-}" = --faults ]; then
    shift
    "$PYTHON" -m pytest -rP --numprocesses=2 tests/faults/test_signals.py "$@"
    exec "$PYTHON" -m pytest -rP --ignore=tests/faults/test_signals.py tests/faults "$@"
fi
"$PYTHON" -m ruff check .
"$PYTHON" -c 'from importlinter import cli; cli.lint_imports_command()'
# in the order of the names: the slow ones of tests/integration begin first
exec "$PYTHON" -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder "$@"
