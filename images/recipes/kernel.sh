#!/usr/bin/env bash
# images/recipes/kernel.sh DIR: makes DIR/kernel/vmlinuz and DIR/kernel/lib/modules/VERSION: Debian's cloud kernel,
# fetched and unpacked, not installed. What is there already is kept.
set -euo pipefail
mkdir -p "$1"
cd "$1"
exec 9>kernel.lock
flock 9 # tests run beside each other
[[ -e kernel/vmlinuz ]] && exit
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d ./kernel.XXXXXX)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2; exit }')
if [[ -z $package ]] || ! (cd "$work" && apt-get -qq download "$package" 2>apt.log); then
    cat "$work/apt.log" >&2 || true
    echo "kernel.sh: cannot download the Debian package linux-image-cloud-amd64; run: sudo apt-get update" >&2
    exit 1
fi
dpkg-deb -x "$work"/linux-image-*.deb "$work/image"
version=$(basename "$work"/image/lib/modules/*)
depmod -b "$work/image" "$version" # what installing the package would do: guestfish asks for it
mkdir "$work/kernel"
mv "$work/image/lib" "$work/kernel/lib"
mv "$work"/image/boot/vmlinuz-* "$work/kernel/vmlinuz"
rm -rf kernel
mv "$work/kernel" kernel
