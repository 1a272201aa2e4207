#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Both slots are one machine: machine-id and host name lie on the config partition and are put over
# those of the read-only root before it is switched to (machine-id(5)).
set -u

device=/dev/disk/by-partlabel/config
state=/sysroot/config/state

fail() {
    echo "hypernet-identity: $1; this boot gets a machine-id that does not last" >&2
    exit 1
}

[ -b "$device" ] || fail "there is no partition labelled config"
e2fsck -p "$device" >&2
[ $? -lt 4 ] || fail "the file system on the config partition has errors that need fsck by hand"
mount -t ext4 -o nodev,nosuid,noexec "$device" /sysroot/config || fail "the config partition cannot be mounted"
if [ ! -s "$state/machine-id" ]; then
    IFS=- read -r a b c d e < /proc/sys/kernel/random/uuid
    new=$state/.machine-id.new
    { mkdir -p "$state" && echo "$a$b$c$d$e" > "$new" && sync "$new" && mv "$new" "$state/machine-id" && sync "$state"; } \
        || fail "the machine-id cannot be saved on the config partition"
fi
mount --bind "$state/machine-id" /sysroot/etc/machine-id || fail "the machine-id cannot be put in place"
if [ -s /sysroot/config/hypernet/hostname ]; then
    mount --bind /sysroot/config/hypernet/hostname /sysroot/etc/hostname || fail "the host name cannot be put in place"
fi
