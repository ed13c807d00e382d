#!/usr/bin/env bash
# images/recipes/guest.sh DIR: makes DIR/guest/vmlinuz and DIR/guest/initrd.gz, a Linux that boots under TCG in
# seconds and works on its disk until it is told to stop. What is there already is kept.
#
# Kernel: kernel.sh's. Userland: a static busybox.
# The guest mounts /dev/vda (ext4) and then, for ever: writes 256 KiB under a new name (the last 16 stay), syncs
# it, compares it with what it wrote, and prints "beat N" to the serial line. The word "stop" on the serial line
# ends it: all files are compared again after the page cache was dropped, the disk is unmounted, "guest: ok" or
# "guest: bad ..." is printed, and the machine powers off.
set -euo pipefail
recipes=$(realpath "$(dirname "$0")")
mkdir -p "$1"
cd "$1"
[[ -e guest/initrd.gz ]] && exit
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d ./guest.XXXXXX)
trap 'rm -rf "$work"' EXIT
"$recipes/kernel.sh" .

root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,disk,tmp,modules}
cp "$(command -v busybox)" "$root/bin/busybox"
# In the order in which they are loaded.
number=0
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
    found=$(find kernel/lib/modules -name "$module.ko*" -print -quit)
    [[ -n $found ]] || continue # built in
    cp "$found" "$root/modules/$number-${found##*/}"
    number=$((number + 1))
done
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in /modules/*; do insmod "$module"; done
stty -echo </dev/console
if ! mount -t ext4 -o errors=panic /dev/vda /disk; then
    echo "guest: bad disk"
    poweroff -f
fi
(read -r word </dev/console; : >/tmp/stop) &
n=0
bad=
: >/tmp/sums
while [ ! -e /tmp/stop ]; do
    head -c 262144 /dev/urandom >/tmp/block
    cp /tmp/block "/disk/$((n % 16))" || bad="write $n"
    sync
    cmp -s /tmp/block "/disk/$((n % 16))" || bad="content $n"
    grep -v " /disk/$((n % 16))\$" /tmp/sums >/tmp/others
    { cat /tmp/others; md5sum "/disk/$((n % 16))"; } >/tmp/sums
    n=$((n + 1))
    echo "beat $n"
done
sync
echo 3 >/proc/sys/vm/drop_caches
md5sum -c -s /tmp/sums || bad="${bad:-content at the end}"
umount /disk || bad="${bad:-unmount}"
echo "guest: ${bad:+bad }${bad:-ok}"
sleep 1
poweroff -f
INIT
chmod 755 "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz"
mkdir -p guest
cp kernel/vmlinuz guest/vmlinuz
mv "$work/initrd.gz" guest/initrd.gz
