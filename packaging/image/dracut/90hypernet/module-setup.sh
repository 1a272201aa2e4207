#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# dracut module: the machine's identity (machine-id, host name) from the config partition, and watchdogs, see
# dracut.modules(7).

check() {
    return 0
}

depends() {
    echo systemd systemd-veritysetup fs-lib
}

installkernel() {
    # Watchdogs, with the buses that some are found on: QEMU, Intel, AMD, HPE, ACPI, IPMI. A module that the kernel does
    # not have is left out; udev loads those whose device is there.
    hostonly='' instmods i6300esb iTCO_wdt lpc_ich i2c_i801 sp5100_tco hpwdt wdat_wdt ipmi_watchdog ipmi_si
}

install() {
    inst_multiple mount mkdir mv sync e2fsck
    inst_script "$moddir/identity.sh" /usr/lib/hypernet/identity
    inst_simple "$moddir/hypernet-identity.service" "$systemdsystemunitdir/hypernet-identity.service"
    inst_simple "$moddir/10-hypernet.conf" /etc/systemd/system.conf.d/10-hypernet.conf
    $SYSTEMCTL -q --root "$initdir" add-wants initrd.target hypernet-identity.service
}
