# SPDX-License-Identifier: Apache-2.0
"""How fast the write path is, as ratios to what the machine can do at best; needs root.

    python3 -m tests.bench.write_path [--size-mib 1024] [--rounds 5] [--on tmpfs|disk]

The bound is the slower of (a) `dd oflag=direct` and `dd iflag=direct` of the same bytes on the same
loop device and (b) hashing them once with hashlib; for a system that the slot holds already, (a) is reading
only. All cases of a round run one after the other, in an order that alternates; medians over the rounds.
The source is in memory (tmpfs), as after a download. Memory is that of a process with the service loaded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).parents[2]
MIB = 1 << 20
FOLDERS = {"tmpfs": "/dev/shm", "disk": "/var/tmp"}
MAX_PEAK_MIB = 64
CASES = {
    "stream": ("install, one hash", 1.15, ("dd write", "dd read")),
    "leaf": ("install, hash tree", 0.0, ("dd write", "dd read")),
    "skip": ("the same system again", 1.2, ("dd read",)),
}

INSTALL = """
import json, os, sys, threading, time
from pathlib import Path
import agents.slot_manager.service
from agents.slot_manager.assembly import assemble, stream
from common.image.hashtree import HashTree
from common.image.origin import LocalOrigin
case, path, target, size, tree, digest, root_hash = sys.argv[1:]
size = int(size)
def peak(key):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(key))) / 1024
before = peak("VmHWM")
begin = time.perf_counter()
origin = LocalOrigin(os.open(path, os.O_RDONLY), size, path)
if case == "stream":
    found = stream(Path(target), size, origin, sha256=digest, cancel=threading.Event())
else:
    expected = HashTree(os.open(tree, os.O_RDONLY), 0, root_hash=root_hash, name=tree)
    found = assemble(Path(target), size, expected, origin=origin, in_place=case == "skip",
        leaf=lambda block, leaves: None, cancel=threading.Event())
took = time.perf_counter() - begin
assert found.skipped == (size if case == "skip" else 0), found
assert case == "skip" or found.zero, found
print(json.dumps([took, peak("VmHWM"), before]))
"""


def run(*argv: str) -> str:
    return subprocess.run(argv, cwd=TOP, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def make_payload(path: Path, size: int) -> None:
    """3/8 random, 3/8 half-compressible, 1/8 text, 1/8 zeros, in pieces of 4 MiB."""
    noise = random.Random(1)
    text = (b"The quick brown fox jumps over the lazy dog.\n" * 100_000)[: 4 * MIB]
    with path.open("wb") as file:
        for piece in range(size // (4 * MIB)):
            kind = piece % 8
            if kind < 3:
                file.write(noise.randbytes(4 * MIB))
            elif kind < 6:
                file.write((noise.randbytes(2048) + bytes(2048)) * (MIB // 1024))
            else:
                file.write(text if kind == 6 else bytes(4 * MIB))


@contextmanager
def loop_device(folder: str, size: int, *, direct: bool) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(dir=folder) as backing:
        os.posix_fallocate(backing.fileno(), 0, size)
        flag = "on" if direct else "off"
        device = run("losetup", "--find", "--show", f"--direct-io={flag}", backing.name)
        try:
            yield device
        finally:
            run("losetup", "--detach", device)


def timed(*argv: str) -> float:
    begin = time.perf_counter()
    run(*argv, "status=none")
    return time.perf_counter() - begin


def hash_once(path: Path) -> float:
    digest, begin = hashlib.sha256(), time.perf_counter()
    buffer = memoryview(bytearray(4 * MIB))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return time.perf_counter() - begin


def measure(
    where: str, payload: Path, size: int, rounds: int, tree: Path, root_hash: str
) -> tuple[dict[str, float], list[float]]:
    digest = run("sha256sum", str(payload)).split()[0]
    peaks: list[float] = []
    with loop_device(FOLDERS[where], size, direct=where == "disk") as device:

        def install(case: str) -> float:
            arguments = (case, str(payload), device, str(size), str(tree), digest, root_hash)
            took, *memory = json.loads(run(sys.executable, "-c", INSTALL, *arguments))
            peaks[:] = max(peaks, memory)
            return float(took)

        cases: dict[str, Callable[[], float]] = {
            "dd write": lambda: timed(
                "dd", f"if={payload}", f"of={device}", "bs=4M", "oflag=direct", "conv=fsync"
            ),
            "dd read": lambda: timed("dd", f"if={device}", "of=/dev/null", "bs=4M", "iflag=direct"),
            "hashlib": lambda: hash_once(payload),
            **{case: lambda case=case: install(case) for case in CASES},  # type: ignore[misc]
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(rounds):
            for name in sorted(cases, reverse=bool(number % 2)):
                times[name].append(cases[name]())
        return {name: statistics.median(values) for name, values in times.items()}, peaks


def show(where: str, found: dict[str, float], peaks: list[float]) -> None:
    verdict = "met" if peaks[0] < MAX_PEAK_MIB else f"missed (below {MAX_PEAK_MIB})"
    print(f"\n{where}: peak memory {peaks[0]:.1f} MiB, {peaks[1]:.1f} of them before   {verdict}")
    for name in ("dd write", "dd read", "hashlib"):
        print(f"  {name:22} {found[name]:7.3f} s")
    for name, (title, most, parts) in CASES.items():
        ratio = found[name] / max(sum(found[part] for part in parts), found["hashlib"])
        verdict = "" if not most else "met" if ratio <= most else f"missed (at most {most})"
        print(f"  {title:22} {found[name]:7.3f} s   {ratio:5.2f} of the bound   {verdict}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Ratios of the write path of an install.")
    parser.add_argument("--size-mib", type=int, default=1024, help="size of the payload, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--on", choices=sorted(FOLDERS), action="append", help="default: both")
    options = parser.parse_args()
    size = options.size_mib * MIB
    with tempfile.TemporaryDirectory(dir=FOLDERS["tmpfs"]) as folder:
        payload, tree = Path(folder, "payload"), Path(folder, "tree")
        make_payload(payload, size)
        answer = run("veritysetup", "format", "--salt=-", str(payload), str(tree))
        root_hash = next(line.split()[-1] for line in answer.splitlines() if line.startswith("Root hash"))
        for where in options.on or sorted(FOLDERS, reverse=True):
            show(where, *measure(where, payload, size, options.rounds, tree, root_hash))
    return 0


if __name__ == "__main__":
    sys.exit(main())
