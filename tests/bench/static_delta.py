# SPDX-License-Identifier: Apache-2.0
"""How small static deltas are, what making them costs, and what applying them costs a server.

    python3 -m tests.bench.static_delta [--folder DIR] [--rounds 5]

The pairs of releases are those of tests.bench.releases, as uncompressed erofs without inline data. A delta
is applied in a process of its own, which has loaded what the reader needs and nothing else; what is new
comes out of the fetcher and is dropped, so that the disk plays no part. Memory is that of the process, with
Python.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hypernet_release import deltas
from tests.bench import releases

TOP = Path(__file__).parents[2]
MB = 1_000_000

APPLY = """
import json, os, sys, time
from common.image.origin import LocalOrigin, fill
from common.image.staticdelta import DATA, StaticDelta

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) / 1024

fd, old = (os.open(path, os.O_RDONLY) for path in sys.argv[1:])
before, begin, cpu = status("VmRSS"), time.perf_counter(), time.process_time()
delta = StaticDelta(LocalOrigin(fd, os.fstat(fd).st_size, "delta"), name="delta")
fetch = delta.fetcher(old)
view, done = memoryview(bytearray(1 << 20)), 0
for chapter in delta.chapters():
    for step in chapter:
        if step.action == DATA:
            for offset in range(0, step.count * 4096, len(view)):
                part = view[: step.count * 4096 - offset]
                fill(fetch, part, step.block * 4096 + offset)
                done += len(part)
took, cpu = time.perf_counter() - begin, time.process_time() - cpu
print(json.dumps([done, took, cpu, before, status("VmHWM")]))
"""


def apply(delta: Path, old: Path) -> list[float]:
    """Bytes of new data, seconds, seconds of CPU, MiB before and at the peak."""
    argv = [sys.executable, "-c", APPLY, str(delta), str(old)]
    result: list[float] = json.loads(subprocess.run(argv, cwd=TOP, check=True, capture_output=True).stdout)
    return result


def measure(old: Path, new: Path, rounds: int) -> str:
    """One line about the delta between two root file systems."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        begin, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        path = deltas.make(old, new, Path(folder))
        took, now = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
        runs = [apply(path, old) for _ in range(rounds)]
        done, seconds, cpu, before, peak = (statistics.median(column) for column in zip(*runs, strict=True))
        cpu_sec = now.ru_utime - used.ru_utime
        return (
            f"{path.stat().st_size / MB:.2f} MB, made in {took:.0f} s ({cpu_sec:.0f} s of CPU); "
            f"{done / MB:.1f} MB of new data at {done / MB / seconds:.0f} MB/s "
            f"({done / MB / cpu:.0f} MB per second of CPU); memory {before:.1f} MiB, peak {peak:.1f} MiB"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure static deltas.")
    parser.add_argument("--folder", type=Path, default=releases.FOLDER, help=f"default: {releases.FOLDER}")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for kind, (before, after) in releases.PAIRS.items():
        old, new = (releases.root(arguments.folder, name, "erofs noinline") for name in (before, after))
        print(f"{kind}: {measure(old, new, arguments.rounds)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
