#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # also when started as: sh SCRIPT
USAGE="usage: bash scripts/run_tests.sh [--all | --faults] [PYTEST ARGUMENT]...

Sets up .venv when needed (or uses DS2_PYTHON), checks the style with ruff and the imports with
import-linter, and runs the tests with pytest, in two processes (--numprocesses=0: in one). With
--all it installs PyTorch too, which some tests need, and a test that would be skipped fails. With
--faults it runs tests/faults instead, the random moments in two processes, the others one after the
other, which takes hours (DS2_TRIALS=5: less)."
. "$(dirname "$0")/common.sh"

help_if_asked "$@"
bash scripts/setup_env.sh --dev
find_python
if [ "${1:-}" = --all ]; then
    shift
    export DS2_ALL_TESTS=1
    [ -n "${DS2_PYTHON:-}" ] || "$PYTHON" -m pip install --quiet --requirement=requirements-benchmark.txt
fi
if [ "${1:-}" = --faults ]; then
    shift
    "$PYTHON" -m pytest -rP --numprocesses=2 tests/faults/test_signals.py "$@"
    exec "$PYTHON" -m pytest -rP --ignore=tests/faults/test_signals.py tests/faults "$@"
fi
"$PYTHON" -m ruff check .
"$PYTHON" -c 'from importlinter import cli; cli.lint_imports_command()'
exec "$PYTHON" -m pytest --numprocesses=2 --dist=loadfile "$@"
