#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # also when started as: sh SCRIPT
USAGE="usage: bash scripts/run_tests.sh [PYTEST ARGUMENT]...

Sets up .venv when needed (or uses DS2_PYTHON), checks the style with ruff, and runs the tests with pytest."
. "$(dirname "$0")/common.sh"

help_if_asked "$@"
bash scripts/setup_env.sh --dev
find_python
"$PYTHON" -m ruff check .
exec "$PYTHON" -m pytest "$@"
