#!/usr/bin/env bash
# images/recipes/ova.sh DIR: puts tty_tiny.ova into DIR, unless it is there.
#
# A virtual machine that a vCenter exported in 2014: an OVF, its manifest, one streamOptimized disk of 15 MiB
# that boots a tiny Linux to a login prompt. Debian ships it among the examples of a Go package, which is
# fetched and unpacked, not installed.
set -euo pipefail
mkdir -p "$1"
cd "$1"
[[ -e tty_tiny.ova ]] && exit
package=golang-github-vmware-photon-controller-go-sdk-dev
work=$(mktemp -d ./ova.XXXXXX)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
(
    cd "$work"
    if ! apt-get -qq download "$package" 2>apt.log && ! { [[ $EUID -eq 0 ]] && apt-get -qq update && apt-get -qq download "$package" 2>apt.log; }; then
        cat apt.log >&2
        echo "ova.sh: cannot download the Debian package $package; run: sudo apt-get update" >&2
        exit 1
    fi
    dpkg-deb -x ./"$package"_*.deb .
)
mv "$(find "$work" -name tty_tiny.ova -print -quit)" tty_tiny.ova
