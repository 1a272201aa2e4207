# SPDX-License-Identifier: Apache-2.0
"""A full local install beside those of RAUC, SWUpdate and a shell script, as ratios in one run; needs root,
and packaging/install-tools --bench.

    python3 -m tests.bench.peers [--size-mib 1024] [--rounds 5] [--on tmpfs|disk]

All write the same root file system into a loop device on tmpfs or on the disk. Ours is the whole of an
install: signature of the manifest, SHA-256, read-back from the medium, hash tree, kernel image, partition
identities, record, boot entry. RAUC and SWUpdate verify a signature and hashes and read nothing back. The
source is on tmpfs, as after a download; medians over rounds whose order alternates.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench.contestants import Rauc, Script, SwUpdate
from tests.bench.scene import Place, Release, make_release, place
from tests.bench.write_path import FOLDERS, INSTALL, hash_once, run, timed

BOUND = 1.15
BYTES_ONLY = "ours, bytes only"
OURS = "ours, whole install"
TARGETS = {
    "RAUC, squashfs zstd": {"tmpfs": 3.5, "disk": 2.0},
    "RAUC, squashfs gzip": {"tmpfs": 5.0, "disk": 3.0},
    "SWUpdate, signed raw": {"tmpfs": 3.0, "disk": 2.0},
    "gpgv, sha256sum, dd, read-back": {"tmpfs": 7.0, "disk": 7.0},
}
"""How many times as fast as each we want to be."""

_WHOLE = """
import json, sys, time
from pathlib import Path
from agents.slot_manager import install, service
from tests.bench.scene import Place
machine = Place(Path(sys.argv[1]), *sys.argv[2:4]).machine()
begin = time.perf_counter()
done = install.install(machine, sys.argv[4])
took = time.perf_counter() - begin
assert done.state == "armed", done
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([took, int(peak) / 1024]))
"""


def install_whole(machine: Place, release: Release, peaks: list[float]) -> float:
    machine.reset(release)
    arguments = (str(machine.folder), machine.data, machine.tree, str(release.image))
    took, peak = json.loads(python(_WHOLE, *arguments))
    peaks.append(peak)
    return float(took)


def install_bytes(machine: Place, release: Release, digest: str) -> float:
    arguments = ("stream", str(release.root), machine.data, str(release.root_bytes), "", digest, "")
    return float(json.loads(python(INSTALL, *arguments))[0])


def python(script: str, *arguments: str) -> str:
    return run("env", f"PYTHONPATH=.{os.pathsep}packaging", sys.executable, "-c", script, *arguments)


def measure(where: str, release: Release, work: Path, rounds: int) -> tuple[dict[str, float], float]:
    """Median seconds by case, and the peak of our memory in MiB."""
    digest = run("sha256sum", str(release.root)).split()[0]
    peaks: list[float] = []
    with place(where, release) as machine, Rauc(work, release, machine) as rauc:
        source, target = str(release.root), machine.data
        swupdate, script = SwUpdate(work, release, machine), Script(work, release, machine)
        cases: dict[str, Callable[[], float]] = {
            "dd write": lambda: timed(
                "dd", f"if={source}", f"of={target}", "bs=4M", "oflag=direct", "conv=fsync"
            ),
            "dd read": lambda: timed("dd", f"if={target}", "of=/dev/null", "bs=4M", "iflag=direct"),
            "hashlib": lambda: hash_once(release.root),
            OURS: lambda: install_whole(machine, release, peaks),
            BYTES_ONLY: lambda: install_bytes(machine, release, digest),
            "RAUC, squashfs zstd": lambda: rauc.install("zstd"),
            "RAUC, squashfs gzip": lambda: rauc.install("gzip"),
            "SWUpdate, signed raw": swupdate.install,
            "gpgv, sha256sum, dd, read-back": script.install,
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(rounds):
            for name in sorted(cases, reverse=bool(number % 2)):
                times[name].append(cases[name]())
                if name in (OURS, *TARGETS):
                    assert run("sha256sum", target).split()[0] == digest, f"{name} wrote something else"
    return {name: statistics.median(values) for name, values in times.items()}, max(peaks)


def show(where: str, found: dict[str, float], peak: float) -> None:
    """One markdown table."""
    bound = max(found["dd write"] + found["dd read"], found["hashlib"])
    print(f"\n| {where} | seconds | ours is | wanted | |\n|---|---|---|---|---|")
    print(f"| dd write + dd read, both direct | {found['dd write'] + found['dd read']:.3f} | | | |")
    print(f"| SHA-256 once (hashlib) | {found['hashlib']:.3f} | | | |")
    for name in (BYTES_ONLY, OURS):
        ratio = found[name] / bound
        wanted = f"<= {BOUND} | {'met' if ratio <= BOUND else 'missed'}"
        print(f"| {name} | {found[name]:.3f} | {ratio:.2f} of the slower of these | {wanted} |")
    for name, targets in TARGETS.items():
        ratio = found[name] / found[OURS]
        wanted = f">= {targets[where]:g} | {'met' if ratio >= targets[where] else 'missed'}"
        print(f"| {name} | {found[name]:.3f} | {ratio:.1f} times as fast | {wanted} |")
    print(f"\nPeak memory of our install with the service loaded: {peak:.1f} MiB.")


def machine_text() -> str:
    """Date and machine, for the heading of the tables."""
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    return f"{day}, {os.cpu_count()} x {cpu}, Linux {platform.release()}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Full installs, ours and those of others.")
    parser.add_argument("--size-mib", type=int, default=1024, help="of the root partition, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--on", choices=sorted(FOLDERS), action="append", help="default: both")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=FOLDERS["tmpfs"]) as folder:
        release = make_release(Path(folder), options.size_mib)
        print(f"{options.size_mib} MiB; {machine_text()}; medians of {options.rounds} rounds.")
        for where in options.on or sorted(FOLDERS, reverse=True):
            work = Path(folder, f"peers-{where}")
            work.mkdir()
            show(where, *measure(where, release, work, options.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
