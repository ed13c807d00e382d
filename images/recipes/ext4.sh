#!/usr/bin/env bash
# images/recipes/ext4.sh DIR: makes DIR/ext4.raw, a 64 MiB ext4 disk with known files, and the same disk in every
# format that ioflt stores, each in DIR/ext4-<format>/. What is there already is kept.
#
# On the disk: canary.txt (one line, to be searched for), data/0 … data/7 (4 KiB … 512 KiB, from a counter), and
# SHA256SUMS over all of these.
set -euo pipefail
mkdir -p "$1"
cd "$1"
[[ -e ext4.done ]] && exit
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d ./ext4.XXXXXX)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/root/data"
echo "The quick brown canary IOFLT-CANARY-5e0c2d stays in its cage." >"$work/root/canary.txt"
for n in 0 1 2 3 4 5 6 7; do
    seq -f "file $n line %.0f" 1 1000000 | head -c $((4096 << n)) >"$work/root/data/$n" || true # head ends seq
done
(cd "$work/root" && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS)
mke2fs -q -F -t ext4 -L ioflt -E root_owner=0:0,lazy_itable_init=0 -d "$work/root" "$work/ext4.raw" 64M >/dev/null
mv "$work/ext4.raw" ext4.raw

for format in monolithicSparse monolithicFlat twoGbMaxExtentSparse twoGbMaxExtentFlat streamOptimized; do
    rm -rf "ext4-$format" && mkdir "ext4-$format"
    qemu-img convert -f raw -O vmdk -o "subformat=$format" ext4.raw "ext4-$format/disk.vmdk"
done
rm -rf ext4-vmfs ext4-qcow2 ext4-raw && mkdir ext4-vmfs ext4-qcow2 ext4-raw
qemu-img convert -f raw -O qcow2 ext4.raw ext4-qcow2/disk.qcow2
cp --sparse=always ext4.raw ext4-raw/disk.raw
cp --sparse=always ext4.raw ext4-vmfs/disk-flat.vmdk
cat >ext4-vmfs/disk.vmdk <<'EOF'
# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=5e0c2d01
parentCID=ffffffff
createType="vmfs"

# Extent description
RW 131072 VMFS "disk-flat.vmdk"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "13"
ddb.geometry.cylinders = "64"
ddb.geometry.heads = "64"
ddb.geometry.sectors = "32"
ddb.adapterType = "lsilogic"
EOF
touch ext4.done
