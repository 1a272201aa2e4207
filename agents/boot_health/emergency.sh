# SPDX-License-Identifier: Apache-2.0
# Run by hypernet-emergency.service with /bin/sh: success means "stay as it is", failure means "reboot".
# A reboot is of use only if the boot loader counted this boot and had tries left: that ends in the other slot.
# Any other reboot could go on for ever. The variables below are parameters for tests.

efivars=${HYPERNET_EFIVARS:-/sys/firmware/efi/efivars}
report=${HYPERNET_REPORT:-/run/hypernet/health.json}
wait_sec=${HYPERNET_WAIT_SEC:-10}
vendor=4a67b082-0a4c-41cf-b6c7-440b29bb8c4f

variable() {
	if [ -r "$efivars/$1-$vendor" ]; then
		tr -d '\000' <"$efivars/$1-$vendor"
	fi
}

stay() {
	echo "hypernet: this boot failed and the machine stays as it is: $1. See hypernet-boot(7)."
	exit 0
}

if grep -Eq '"state": *"(healthy|degraded)"' "$report" 2>/dev/null; then
	stay "the boot had its verdict before"
fi

selected=$(variable LoaderEntrySelected)
case ${selected##*+} in
0 | 0.* | 0-*) [ "$selected" = "${selected##*+}" ] || stay "its boot entry has no tries left" ;;
esac
if [ -z "$(variable LoaderBootCountPath)" ]; then
	stay "the boot loader did not count it, so that a reboot would not lead to the other slot"
fi

echo "hypernet: this boot failed; the machine reboots in $wait_sec seconds. The kernel option hypernet.stay prevents it."
sleep "$wait_sec"
exit 1
