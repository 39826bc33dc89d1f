#!/bin/sh
# Set up .venv from the version lock, once. Called by make; prints one clear line and ends with 1 if something is missing.
#
# PYTHON names the interpreter to use; without it the first usable of python3, python3.12 and python3.11 is taken.
# The environment is made again when the lock, pyproject.toml, this script or the checkout's place changes, and
# when an earlier attempt was cut short: the stamp that says "complete" is written last.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
venv=.venv
stamp=$venv/headrace.stamp
PIP_USER=0 # a user's `pip config` may say otherwise, which fails inside an environment
export PIP_USER
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX

fail() {
    printf 'headrace %s\n' "$*" >&2
    exit 1
}

check_machine() {
    system=$(uname -s)
    processor=$(uname -m)
    [ "$system $processor" = "Linux x86_64" ] ||
        fail "needs Linux on x86-64 (found $system on $processor): use such a machine, or a container on one"
    glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null) ||
        fail "needs glibc 2.35 or newer (found another C library): use Ubuntu 22.04, Debian 12 or a later system"
    printf '%s\n' "$glibc" | awk '{ split($2, v, "."); exit !(v[1] > 2 || (v[1] == 2 && v[2] >= 35)) }' ||
        fail "needs glibc 2.35 or newer (found $glibc): use Ubuntu 22.04, Debian 12 or a later system"
    command -v git >/dev/null || fail "needs git: install git (Debian, Ubuntu: apt install git) and run make again"
    [ -f headrace/pipeline/__init__.py ] ||
        fail "needs symbolic links in its checkout: clone it with git config core.symlinks true"
}

# Says in $version what the interpreter $1 is, and in $problem why it can't be used (empty: it can).
# Shims of version managers exist in PATH and fail when called, so it is tried, not looked up.
inspect() {
    version=$("$1" -I -c 'import platform; print(platform.python_version(), platform.python_implementation())' 2>/dev/null) ||
        version=
    case $version in
    "3.11."*" CPython" | "3.12."*" CPython")
        version=${version% *}
        problem=
        "$1" -I -c 'import venv, ensurepip' 2>/dev/null || {
            minor=${version%.*}
            problem="needs Python's venv module (missing from $1, Python $version): install it (Debian, Ubuntu: apt install python$minor-venv) and run make again"
        }
        ;;
    "") problem="needs Python 3.11 or 3.12 ($1 does not run): install python3.12 and run make PYTHON=python3.12 $goal" ;;
    *) problem="needs Python 3.11 or 3.12 (found ${version% CPython}): install python3.12 and run make PYTHON=python3.12 $goal" ;;
    esac
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        python=$PYTHON
        inspect "$python"
        [ -z "$problem" ] || fail "$problem"
        return
    fi
    first=
    for python in python3 python3.12 python3.11; do
        inspect "$python"
        [ -n "$problem" ] || return 0
        # The most telling problem: a Python that runs says more than one that does not.
        if [ -z "$first" ] || { [ -z "$told" ] && [ -n "$version" ]; }; then
            first=$problem
            told=$version
        fi
    done
    fail "$first"
}

lock_for() {
    echo "requirements/lock-py$(printf '%s' "$1" | cut -d. -f1,2 | tr -d .).txt"
}

key_for() {
    { echo "$root" && cat "$(lock_for "$1")" pyproject.toml tools/bootstrap.sh; } | sha256sum | cut -d' ' -f1
}

is_current() {
    [ -f "$stamp" ] || return 1
    made=$("$venv/bin/python" -I -c 'import platform; print(platform.python_version())' 2>/dev/null) || return 1
    if [ -n "${PYTHON:-}" ]; then
        inspect "$PYTHON"
        [ "${version%.*}" = "${made%.*}" ] || return 1
    fi
    [ "$(cat "$stamp")" = "$(key_for "$made")" ]
}

build() {
    lock=$(lock_for "$version")
    echo "headrace: setting up $venv with Python $version from $lock (once; a minute or two)" >&2
    rm -rf "$venv"
    "$python" -I -m venv "$venv" ||
        fail "could not make $venv with $python: see above, then run make again"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$lock" ||
        fail "could not install the packages of $lock: see above; check the network and pip's configuration, then run make again"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e . ||
        fail "could not install itself into $venv: see above, then run make again"
    key_for "$version" >"$stamp"
}

goal=${1:-demo}
check_machine
is_current && exit 0
find_python
# Two makes at once wait for each other; where there is no flock they must not be run at once.
exec 9>.venv.lock
command -v flock >/dev/null && flock 9
is_current || build
