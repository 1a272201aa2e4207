# SPDX-License-Identifier: Apache-2.0
"""What the agents cost at boot: the same installed image with them and with all their units masked, in turn.

    python3 -m tests.bench.boot [--boots 5]

The time is what systemd-analyze calls userspace: from the start of systemd in the root file system until
all jobs of the boot are done, the verdict and the blessing among them. Needs root, packaging/install-tools
--tests and an image of the VM tests, which it builds if it is not there.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers import machine_text
from tests.vm import releases
from tests.vm.releases import REPOSITORY, START, TEST_UNITS
from tests.vm.server import BOOT_SEC, Server, running_server

RATIO = 1.15
QUIET_SEC = 20.0
"""How long after the login prompt nothing is asked of the guest, so that no question slows its boot."""

_SHOW = ("/bin/systemctl", "show", "--value")
_MASKS = f"{TEST_UNITS}/{START}"
_MASK = f"""
mkdir -p {_MASKS}
for unit in /usr/lib/systemd/system/hypernet*.*; do
    [ -d "$unit" ] || ln -sf /dev/null {_MASKS}/"${{unit##*/}}"
done
sync
"""


def reboot(server: Server, *, masked: bool) -> float:
    """Boot once with or without the agents; returns the seconds in userspace. Raises MachineError."""
    server.shell(_MASK if masked else f"rm -rf {_MASKS}; sync")
    before, place = server.boot_id(), server.watch.now()
    server.machine.run("/bin/systemctl", "reboot")
    server.watch.wait("login: ", place, BOOT_SEC)
    time.sleep(QUIET_SEC)
    server.wait_settled(after=before)
    runs = server.shell("ls -d /sys/fs/cgroup/system.slice/hypernet-* 2>/dev/null || true")
    loaded = server.machine.check(*_SHOW, "--property=LoadState", "hypernet-boot-health.service").strip()
    assert (loaded, runs) == ("masked", "") if masked else loaded == "loaded", (loaded, runs)
    times = (f"--property={name}TimestampMonotonic" for name in ("Userspace", "Finish"))
    began, ended = (int(server.machine.check(*_SHOW, name)) / 1e6 for name in times)
    return ended - began


def own_units(server: Server) -> Sequence[str]:
    """How long each of our units took to start, as systemd-analyze says."""
    lines = server.machine.check("/bin/systemd-analyze", "--no-pager", "blame").splitlines()
    return [line.strip() for line in lines if "hypernet" in line]


def observe(server: Server, boots: int) -> None:
    found: dict[bool, list[float]] = {False: [], True: []}
    units: Sequence[str] = ()
    for _ in range(boots):
        for masked in (True, False):
            found[masked].append(reboot(server, masked=masked))
            print(f"{'without' if masked else 'with'} agents: {found[masked][-1]:.2f} s", flush=True)
        units = own_units(server)
    with_agents, without = (statistics.median(found[masked]) for masked in (False, True))
    ratio = with_agents / without
    print("\n| userspace, median of a boot | seconds | range |\n|---|---|---|")
    for what, masked in (("without agents", True), ("with agents", False)):
        times = found[masked]
        print(f"| {what} | {statistics.median(times):.2f} | {min(times):.2f} to {max(times):.2f} |")
    print(f"\nRatio {ratio:.3f}, wanted at most {RATIO}: {'met' if ratio <= RATIO else 'missed'}.")
    print("Units of the last boot: " + "; ".join(units))


def main() -> int:
    parser = argparse.ArgumentParser(description="What the agents cost at boot.")
    parser.add_argument("--boots", type=int, default=5, help="with and without the agents, each")
    options = parser.parse_args()
    cache = Path(os.environ.get("HYPERNET_TEST_CACHE", REPOSITORY / "build/test-cache")) / "vm"
    made = releases.prepare(cache, (START,))
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as folder,
        running_server(made, Path(folder), START) as server,
    ):
        print(f"{machine_text()}.")
        observe(server, options.boots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
