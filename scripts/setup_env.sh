#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # also when started as: sh SCRIPT
USAGE="usage: bash scripts/setup_env.sh [--dev]

Makes the virtual environment .venv in the repository root and installs requirements.txt into it (--dev: also
requirements-dev.txt). Does nothing when that is done already; installs again when the requirements or Python changed;
makes an environment that was left half finished anew. With DS2_PYTHON=/path/to/python nothing is made or installed:
that Python is used as it is."
. "$(dirname "$0")/common.sh"

help_if_asked "$@"
case "$*" in
    '') FILES=(requirements.txt) ;;
    --dev) FILES=(requirements.txt requirements-dev.txt) ;;
    *) usage_error "unexpected arguments: $*" ;;
esac
UNFINISHED=$VENV/ds2-unfinished     # there while packages are being installed

# supported PYTHON: whether it runs, is a version that the code and MindSpore's wheels are for, and has the MODULEs.
supported() { "$1" -c "import sys, $2; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))" 2>/dev/null; }

find_base_python() {
    local name
    for name in python3.11 python3.12 python3; do
        if supported "$name" venv; then
            supported "$name" 'ensurepip, venv' ||
                fail "$name cannot make virtual environments; on Debian/Ubuntu: apt-get install $(package "$name")"
            BASE=$name
            return
        fi
    done
    fail "Python 3.11 or 3.12 is needed; on Debian/Ubuntu: apt-get install python3.11 python3.11-venv" \
        "(or set DS2_PYTHON to a Python that has requirements.txt installed)"
}

# package PYTHON: the Debian package with its venv.
package() { "$1" -c 'import sys; print(f"python3-venv (or python3.{sys.version_info[1]}-venv)")'; }

# stamp FILE: where it is recorded what was installed. fingerprint FILE: what has to be recorded there.
stamp() { echo "$VENV/ds2-$1.sha256"; }
fingerprint() { { "$VENV/bin/python" -VV && cat "$1"; } | sha256sum; }

# outdated: print those of FILES whose content is not what is installed.
outdated() {
    local file
    for file in "${FILES[@]}"; do
        [ "$(cat "$(stamp "$file")" 2>/dev/null)" = "$(fingerprint "$file")" ] || echo "$file"
    done
}

make_venv() {
    if [ -e "$VENV" ] && [ ! -e "$VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$VENV")" ]; then
        fail "$VENV is in the way: it is no virtual environment"
    fi
    find_base_python
    say "making the virtual environment .venv with $("$BASE" --version)"
    "$BASE" -m venv --clear "$VENV" || fail "$BASE could not make $VENV"
}

# check_import: MindSpore needs libraries of the system, which pip cannot install; say which are missing.
check_import() {
    local missing output
    if ! output=$("$VENV/bin/python" -c 'import mindspore, librosa, soundfile, espeakng_loader' 2>&1); then
        missing=$(ldd "$VENV"/lib/python*/site-packages/mindspore/_c_expression*.so 2>/dev/null |
            awk '/not found/ { print $1 }' | sort -u | tr '\n' ' ')
        case $missing in
            *libgomp.so*) fail "MindSpore needs the library libgomp; on Debian/Ubuntu: apt-get install libgomp1" ;;
            *) printf '%s\n' "$output" >&2
               fail "the installed packages cannot be imported${missing:+; missing libraries:} $missing" ;;
        esac
    fi
}

if [ -n "${DS2_PYTHON:-}" ]; then
    find_python
    say "using $PYTHON as it is"
    exit 0
fi
exec 9<requirements.txt     # one set-up at a time
flock 9
if [ -e "$UNFINISHED" ] || ! supported "$VENV/bin/python" pip; then
    make_venv
fi
mapfile -t OUTDATED < <(outdated)
if [ ${#OUTDATED[@]} -gt 0 ]; then
    say "installing ${OUTDATED[*]} (the first time: 1 GB to download, 3 GB on disk)"
    touch "$UNFINISHED"
    "$VENV/bin/python" -m pip install --disable-pip-version-check "${OUTDATED[@]/#/--requirement=}" 9<&- ||
        fail "pip could not install ${OUTDATED[*]}; its messages stand above"
    rm "$UNFINISHED"
    check_import
    for file in "${OUTDATED[@]}"; do
        fingerprint "$file" >"$(stamp "$file")"
    done
fi
