# SPDX-License-Identifier: Apache-2.0
"""How fast the write path is, as ratios to what the machine can do at best; needs root.

    python3 -m tests.bench.write_path [--size-mib 1024] [--rounds 5] [--on tmpfs|disk]

The bound is the slower of (a) `dd oflag=direct` and `dd iflag=direct` of the same bytes on the same
loop device and (b) hashing them once with hashlib. All cases of a round run one after the other, in an order
that alternates; medians over the rounds. The source is in memory (tmpfs), as after a download.
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
TARGET_RATIO = 1.15

INSTALL = """
import json, os, sys, threading, time
from pathlib import Path
from agents.slot_manager.pipeline import FileSource, LeafCheck, StreamCheck, transfer
from common.image.hashtree import HashTree
path, target, size, tree, root_hash = sys.argv[1:]
fd, size = os.open(path, os.O_RDONLY), int(size)
begin = time.perf_counter()
if tree:
    check = LeafCheck(HashTree(os.open(tree, os.O_RDONLY), 0, root_hash=root_hash, name=tree), name=path)
else:
    check = StreamCheck()
source = FileSource(fd, 0, size, name=path)
report = transfer(source, Path(target), size, check_piece=check, cancel=threading.Event())
took = time.perf_counter() - begin
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([took, int(peak) / 1024, report.direct, report.zero_bytes]))
"""


def run(*argv: str) -> str:
    return subprocess.run(argv, cwd=TOP, check=True, capture_output=True, text=True).stdout.strip()


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
    run(*argv)
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
) -> dict[str, float]:
    with loop_device(FOLDERS[where], size, direct=where == "disk") as device:
        peaks: list[float] = []

        def install(*tree_arguments: str) -> float:
            arguments = (str(payload), device, str(size), *(tree_arguments or ("", "")))
            took, peak, direct, zero = json.loads(run(sys.executable, "-c", INSTALL, *arguments))
            assert direct, f"{device} took no O_DIRECT"
            assert zero, f"{device} took no discard"
            peaks.append(peak)
            return float(took)

        cases: dict[str, Callable[[], float]] = {
            "dd write": lambda: timed(
                "dd", f"if={payload}", f"of={device}", "bs=4M", "oflag=direct", "conv=fsync"
            ),
            "dd read": lambda: timed("dd", f"if={device}", "of=/dev/null", "bs=4M", "iflag=direct"),
            "hashlib": lambda: hash_once(payload),
            "install, stream hash": install,
            "install, hash tree": lambda: install(str(tree), root_hash),
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(rounds):
            for name in sorted(cases, reverse=bool(number % 2)):
                times[name].append(cases[name]())
        result = {name: statistics.median(values) for name, values in times.items()}
        result["peak MiB"] = max(peaks)
        return result


def show(where: str, found: dict[str, float]) -> None:
    bound = max(found["dd write"] + found["dd read"], found["hashlib"])
    print(f"\n{where}: bound {bound:.3f} s; peak memory {found['peak MiB']:.1f} MiB")
    for name in ("dd write", "dd read", "hashlib", "install, stream hash", "install, hash tree"):
        verdict = ""
        if name.startswith("install"):
            verdict = "met" if found[name] <= TARGET_RATIO * bound else f"missed (at most {TARGET_RATIO})"
        print(f"  {name:22} {found[name]:7.3f} s   {found[name] / bound:5.2f} of the bound   {verdict}")


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
            show(where, measure(where, payload, size, options.rounds, tree, root_hash))
    return 0


if __name__ == "__main__":
    sys.exit(main())
