#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# dracut module: the machine's identity (machine-id, host name) from the config partition, see dracut.modules(7).

check() {
    return 0
}

depends() {
    echo systemd systemd-veritysetup fs-lib
}

install() {
    inst_multiple mount mkdir mv sync e2fsck
    inst_script "$moddir/identity.sh" /usr/lib/hypernet/identity
    inst_simple "$moddir/hypernet-identity.service" "$systemdsystemunitdir/hypernet-identity.service"
    inst_simple "$moddir/10-hypernet.conf" /etc/systemd/system.conf.d/10-hypernet.conf
    $SYSTEMCTL -q --root "$initdir" add-wants initrd.target hypernet-identity.service
}
