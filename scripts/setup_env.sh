#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"   # also when started as: sh SCRIPT
USAGE="usage: bash scripts/setup_env.sh [--dev]

Makes the virtual environment .venv in the repository root, with Python 3.10, 3.11 or 3.12, and
installs requirements.txt into it (--dev: also requirements-dev.txt). Does nothing when that is
done already. Installs again when the requirements or Python changed. Makes an environment anew
that was left half finished. A .venv that you made yourself (venv, uv) is used if its Python fits.
With DS2_PYTHON=/path/to/python nothing is made or installed: that Python is used as it is."
. "$(dirname "$0")/common.sh"

help_if_asked "$@"
case "$*" in
    '') FILES=(requirements.txt) ;;
    --dev) FILES=(requirements.txt requirements-dev.txt) ;;
    *) usage_error "unexpected arguments: $*" ;;
esac

# supported PYTHON MODULES: whether it runs, MindSpore has wheels for its version, and it has the
# modules.
supported() {
    "$1" -c "import sys, $2; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))" 2>/dev/null
}

# find_base_python: set BASE to a Python that can make an environment: the one that .venv was made
# with, the machine's default, or any other.
find_base_python() {
    local name incomplete= own
    # Python 3.10 that is started through its link in .venv would link the new .venv to itself
    own=$(readlink -f "$VENV/bin/python" || true)
    for name in "$own" python3 python3.11 python3.12 python3.10; do
        supported "$name" venv || continue
        BASE=$name
        ! supported "$name" 'ensurepip, venv' || return 0
        incomplete=${incomplete:-$name}
    done
    [ -z "$incomplete" ] || fail "$incomplete cannot make virtual environments;" \
        "on Debian/Ubuntu: apt-get install $(venv_package "$incomplete")"
    fail_without_python
}

# venv_package PYTHON: the Debian package with its venv.
venv_package() {
    "$1" -c 'import sys; print(f"python3-venv (or python3.{sys.version_info[1]}-venv)")'
}

# python_versions: the versions of all python3 and python3.N on PATH.
python_versions() {
    local name
    for name in $(compgen -c python3 | grep -xE 'python3(\.[0-9]+)?' | sort -u); do
        "$name" --version 2>/dev/null || true
    done | sort -uV | paste -sd , | sed 's/,/, /g'
}

fail_without_python() {
    local found clear=
    found=$(python_versions)
    [ ! -e "$VENV" ] || clear=" --clear"
    fail "MindSpore needs Python 3.10, 3.11 or 3.12. Found here: ${found:-no Python 3}.
Get one of those, then run this script again:
  Debian 12, Ubuntu 22.04 or 24.04:  apt-get install python3 python3-venv
  with uv (https://docs.astral.sh/uv):  uv venv --python 3.11 --seed$clear $(printf %q "$VENV")
Or set DS2_PYTHON to a Python that has requirements.txt installed."
}

# stamp FILE: where the script records what it installed. fingerprint FILE: what it records there.
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

# add_pip: put pip into an environment whose Python fits, such as one from `uv venv` without --seed.
add_pip() {
    supported "$VENV/bin/python" ensurepip && "$VENV/bin/python" -m ensurepip >/dev/null 2>&1
}

# install_failed STATUS: end with code 2. What pip gave up itself, before it changed anything, leaves a whole environment.
install_failed() {
    [ "$1" != 1 ] || ! "$VENV/bin/python" -m pip check >/dev/null 2>&1 || rm "$UNFINISHED"
    fail "pip could not install ${OUTDATED[*]}; its messages stand above"
}

# check_import: MindSpore needs libraries of the system, which pip cannot install. Name the missing
# ones.
check_import() {
    local missing output modules='mindspore, librosa, soundfile, espeakng_loader'
    if ! output=$("$VENV/bin/python" -c "import $modules" 2>&1); then
        missing=$(ldd "$VENV"/lib/python*/site-packages/mindspore/_c_expression*.so 2>/dev/null |
            awk '/not found/ { print $1 }' | sort -u | tr '\n' ' ')
        [[ $missing != *libgomp.so* ]] ||
            fail "MindSpore needs the library libgomp; on Debian/Ubuntu: apt-get install libgomp1"
        printf '%s\n' "$output" >&2
        fail "the installed packages cannot be imported${missing:+; missing libraries: $missing}"
    fi
}

if [ -n "${DS2_PYTHON:-}" ]; then
    find_python
    say "using $PYTHON as it is"
    exit 0
fi
exec 9>>requirements.txt    # one set-up at a time; NFS locks only what is open for writing
flock --nonblock 9 || {
    say "waiting for another set-up to end"
    flock 9
}
if [ -e "$UNFINISHED" ] || ! { supported "$VENV/bin/python" pip || add_pip; }; then
    make_venv
fi
mapfile -t OUTDATED < <(outdated)
if [ ${#OUTDATED[@]} -gt 0 ]; then
    say "installing ${OUTDATED[*]} (the first time: 1 GB to download, 3 GB on disk)"
    touch "$UNFINISHED"
    "$VENV/bin/python" -m pip install --disable-pip-version-check \
        "${OUTDATED[@]/#/--requirement=}" || install_failed $?
    rm "$UNFINISHED"
    check_import
    for file in "${OUTDATED[@]}"; do
        fingerprint "$file" >"$(stamp "$file")"
    done
fi
