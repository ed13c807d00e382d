#!/usr/bin/env bash
# images/recipes/guest.sh DIR: makes DIR/guest/vmlinuz and DIR/guest/initrd.gz, a Linux that boots under TCG in
# seconds and works on its disk until it is told to stop. What is there already is kept.
#
# Kernel: kernel.sh's. Userland: a static busybox.
# By the word guest.mode= on the kernel's command line the guest is
#   writer   (the default) mounts /dev/vda (ext4) and then, for ever: writes 256 KiB, syncs them, gives them a name
#            of number and MD5 sum (the last 16 stay), compares what it wrote, and prints "beat N" to the serial line.
#            "stop" on the serial line ends it: the page cache is dropped, all files are compared with their names,
#            the disk is unmounted, "guest: ok" or "guest: bad ..." is printed, and the machine powers off.
#            QEMU's guest agent runs where there is a port for it.
#   reader   mounts /dev/vda as it was left by whatever happened to a writer, compares all files with their names,
#            and prints "guest: ok N" with the highest number, or "guest: bad ...".
#   proxy    disks come and go. "sum SERIAL" on the serial line waits for the disk with that serial number, tries to
#            write to it, and prints "sum SERIAL SHA256 read-only" or "... written"; "gone SERIAL" waits until it is
#            not there, and prints "gone SERIAL".
set -euo pipefail
recipes=$(realpath "$(dirname "$0")")
mkdir -p "$1"
cd "$1"
[[ guest/initrd.gz -nt $recipes/guest.sh ]] && exit
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d ./guest.XXXXXX)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work" # apt downloads as another user
"$recipes/kernel.sh" .

root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,disk,tmp,modules,lib64}
cp "$(command -v busybox)" "$root/bin/busybox"
# In the order in which they are loaded.
number=100
for module in virtio_pci virtio_blk virtio_scsi vmw_pvscsi sd_mod virtio_console; do
    modprobe -d kernel -S "$(basename kernel/lib/modules/*)" --show-depends "$module" >"$work/depends"
    while read -r kind found _; do
        [[ $kind == insmod && ! -e $root/modules/seen-${found##*/} ]] || continue # built in, or there
        : >"$root/modules/seen-${found##*/}"
        cp "$found" "$root/modules/$number-${found##*/}"
        number=$((number + 1))
    done <"$work/depends"
done
rm -f "$root"/modules/seen-*
(cd "$work" && apt-get -qq download qemu-guest-agent 2>apt.log) || { cat "$work/apt.log" >&2; exit 1; }
dpkg-deb -x "$work"/qemu-guest-agent_*.deb "$work/agent"
cp "$work/agent/usr/sbin/qemu-ga" "$root/bin/"
ldd "$root/bin/qemu-ga" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
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
end() {
    echo "guest: $1"
    sleep 1
    poweroff -f
}
with_serial() {
    for disk in /sys/block/vd* /sys/block/sd*; do
        if [ -e "$disk/serial" ]; then
            read -r found <"$disk/serial"
        elif [ -e "$disk/device/vpd_pg80" ]; then
            found=$(tail -c +5 "$disk/device/vpd_pg80")
        else
            continue
        fi
        [ "$found" = "$1" ] && echo "/dev/${disk##*/}" && return
    done
}
compare() {
    bad=
    last=-1
    count=0
    for file in /disk/[0-9]*-*; do
        count=$((count + 1))
        sum=$(md5sum <"$file")
        [ "${sum%% *}" = "${file##*-}" ] || bad=${file##*/}
        n=${file#/disk/}
        [ "${n%-*}" -gt "$last" ] && last=${n%-*}
    done
    [ "$count" -ge 16 ] || [ "$count" -gt "$last" ] || bad="one of $count files up to $last"
    [ "$last" -ge 0 ] || bad=nothing
}
case $(cat /proc/cmdline) in
*guest.mode=proxy*)
    echo "guest: ready"
    while read -r word serial; do
        case $word in
        sum)
            until disk=$(with_serial "$serial") && [ -n "$disk" ]; do sleep 0.1; done
            sum=$(sha256sum "$disk")
            written=read-only
            echo x | dd of="$disk" conv=notrunc,fsync 2>/dev/null && written=written
            echo "sum $serial ${sum%% *} $written"
            ;;
        gone)
            while [ -n "$(with_serial "$serial")" ]; do sleep 0.1; done
            echo "gone $serial"
            ;;
        esac
    done </dev/console
    ;;
esac
mount -t ext4 -o errors=panic /dev/vda /disk || end "bad disk"
case $(cat /proc/cmdline) in
*guest.mode=reader*)
    compare
    umount /disk || bad=unmount
    [ -z "$bad" ] || end "bad $bad"
    end "ok $last"
    ;;
esac
for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name" 2>/dev/null)" = org.qemu.guest_agent.0 ] || continue
    qemu-ga -d -t /tmp -f /tmp/agent.pid -p "/dev/${port##*/}"
done
(read -r word </dev/console; : >/tmp/stop) &
n=0
bad=
while [ ! -e /tmp/stop ]; do
    head -c 262144 /dev/urandom >/tmp/block
    sum=$(md5sum </tmp/block)
    file=/disk/$n-${sum%% *}
    cp /tmp/block /disk/new && sync && mv /disk/new "$file" && sync || bad="write $n"
    cmp -s /tmp/block "$file" || bad="content $n"
    rm -f /disk/$((n - 16))-*
    echo "beat $n"
    n=$((n + 1))
done
wrong=$bad
sync
echo 3 >/proc/sys/vm/drop_caches
compare
umount /disk || bad="${bad:-unmount}"
bad=${wrong:-$bad}
end "${bad:+bad }${bad:-ok}"
INIT
chmod 755 "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz"
mkdir -p guest
cp kernel/vmlinuz guest/vmlinuz
mv "$work/initrd.gz" guest/initrd.gz
