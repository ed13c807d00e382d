#!/usr/bin/env bash
# Makes this machine ready: system packages, virtual environment, C files.
#
#   tools/setup.sh LIST...        LIST names a file of tools/packages (build, test, demo, bench)
#
# As root missing packages are installed; as another user the one line that installs them is printed and
# nothing is done. PYTHON chooses the interpreter (default python3), VENV the environment (default .venv).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}

wanted() {
    local list
    for list in "$@"; do sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "tools/packages/$list.txt"; done | sort -u
}

missing() {
    local package
    for package in "$@"; do
        [[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" == installed ]] || echo "$package"
    done
}

install_packages() {
    local all lacking
    mapfile -t all < <(wanted "$@")
    if ! command -v dpkg-query >/dev/null; then
        echo "setup: not a Debian system; what Debian calls these must be there: ${all[*]}" >&2
        return
    fi
    mapfile -t lacking < <(missing "${all[@]}")
    [[ ${#lacking[@]} -eq 0 ]] && return
    if [[ $EUID -ne 0 ]]; then
        echo "setup: system packages are missing; run this, then try again:" >&2
        echo "sudo apt-get install --no-install-recommends ${lacking[*]}" >&2
        exit 1
    fi
    echo "setup: installing ${lacking[*]}"
    export DEBIAN_FRONTEND=noninteractive
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update
    "${apt[@]}" install --no-install-recommends "${lacking[@]}" >/dev/null </dev/null
}

# What the environment was made from: when this changes, it is made again.
fingerprint() {
    find ioflt \( -name '*.c' -o -name '*.h' -o -name '*build*.py' \) -print0 |
        sort -z | xargs -0 sha256sum setup.cfg setup.py pyproject.toml | sha256sum
    "$1" -VV
}

# The environment has what the tests need beyond `dev` once `test` was asked for, and keeps it.
make_environment() {
    local python=${PYTHON:-python3} stamp=$venv/.ioflt-stamp now extras=dev made
    [[ " $* " == *" test "* ]] && extras=dev,tpm
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "setup: $python is older than Python 3.11; name another by PYTHON=..." >&2
        exit 1
    fi
    now=$(fingerprint "$python")
    made=$(cat "$stamp" 2>/dev/null || true)
    [[ "$made" == "$now $extras" || "$made" == "$now dev,tpm" ]] && return
    "$venv/bin/python" -c 'import pip' 2>/dev/null || "$python" -m venv --clear "$venv"
    echo "setup: building ioflt in $venv"
    # A path, not a module that finds ours: that costs each start of an interpreter 35 ms, of 60.
    "$venv/bin/python" -m pip install -qq --config-settings editable_mode=compat --editable ".[$extras]"
    "$venv/bin/python" -m compileall -q ioflt # as pip does with what it copies
    echo "$now $extras" >"$stamp"
}

install_packages "$@"
make_environment "$@"
