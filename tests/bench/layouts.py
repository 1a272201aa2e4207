# SPDX-License-Identifier: Apache-2.0
"""Which root file system is best on the whole: download, install and reading; needs root.

    python3 -m tests.bench.layouts [--folder DIR] [--rounds 5]

Downloads are counted as by tests.bench.wire, in MB; all else is seconds. Written: by dd, to a loop device
with direct I/O. Reading is from the file system mounted on such a device, with cold caches: a walk over all
inodes, the libraries and programs that a boot needs, all files in order, and blocks of 4 KiB at random
places of random files. Medians; the layouts alternate.
"""

from __future__ import annotations

import argparse
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

from tests.bench import releases, wire

LAYOUTS = ("erofs noinline", "erofs inline", "erofs lz4hc", "squashfs zstd", "ext4")
READINGS = 2000
_BOOT = ("usr/lib/systemd", "usr/lib/x86_64-linux-gnu", "usr/sbin", "etc")
_BUFFER_BYTES = 1 << 20


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    argv = ["losetup", "--find", "--show", "--read-only", "--direct-io=on", str(image)]
    device = releases.run(argv).strip()
    try:
        with tempfile.TemporaryDirectory() as folder:
            releases.run(["mount", "-o", "ro", device, folder])
            try:
                yield Path(folder)
            finally:
                releases.run(["umount", folder])
    finally:
        releases.run(["losetup", "--detach", device])


def files_below(*folders: Path) -> list[Path]:
    found = []
    for top in folders:
        for folder, _, names in os.walk(top):
            paths = (Path(folder, name) for name in sorted(names))
            found += [path for path in paths if path.is_file() and not path.is_symlink()]
    return found


def walk(top: Path) -> None:
    for folder, _, names in os.walk(top):
        for name in names:
            os.lstat(os.path.join(folder, name))


def read_all(paths: list[Path]) -> None:
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def read_some(paths: list[Path]) -> None:
    chance = random.Random(1)
    for path in chance.choices(paths, k=READINGS):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(fd, 4096, chance.randrange(max(1, os.fstat(fd).st_size // 4096)) * 4096)
        os.close(fd)


def cold(action: Callable[[], None]) -> float:
    """Seconds that something takes when nothing is in the caches."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def read_once(image: Path) -> dict[str, float]:
    with mounted(image) as top:
        every, boot = files_below(top), files_below(*(top / name for name in _BOOT))
        return {
            "walk": cold(lambda: walk(top)),
            "boot files": cold(lambda: read_all(boot)),
            "all files": cold(lambda: read_all(every)),
            "random 4 KiB": cold(lambda: read_some(every)),
        }


def reading(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Medians in seconds, by layout."""
    found: dict[str, list[dict[str, float]]] = {layout: [] for layout in LAYOUTS}
    for number in range(rounds):
        for layout in LAYOUTS if number % 2 else reversed(LAYOUTS):
            found[layout].append(read_once(releases.root(folder, "sec-new", layout)))
    return {
        layout: {name: statistics.median(each[name] for each in results) for name in results[0]}
        for layout, results in found.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare root file systems.")
    parser.add_argument("--folder", type=Path, default=releases.FOLDER, help=f"default: {releases.FOLDER}")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    folder: Path = options.folder.absolute()
    os.umask(0o022)
    rows = []
    for layout in LAYOUTS:
        images = {name: wire.image(folder, name, layout) for name in releases.NAMES}
        row = [f"{releases.root(folder, 'sec-new', layout).stat().st_size / wire.MB:.0f}"]
        row.append(f"{images['sec-new'].transport.size_bytes / wire.MB:.1f}")
        for old, new in releases.PAIRS.values():
            found = wire.ours(images[old], images[new])
            row.append(f"{found.total / wire.MB:.1f}")
        row += written(folder, layout)
        rows.append((layout, row))
    times = reading(folder, options.rounds)
    names = list(times[LAYOUTS[0]])
    head = ["root file system", "MB", "full download", *releases.PAIRS, "written", *names]
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for layout, row in rows:
        cells = [layout, *row, *(f"{times[layout][name]:.2f}" for name in names)]
        print("| " + " | ".join(cells) + " |")
    return 0


def written(folder: Path, layout: str) -> list[str]:
    """Seconds of writing the whole file system to a loop device on the disk with direct I/O."""
    image = releases.root(folder, "sec-new", layout)
    with tempfile.NamedTemporaryFile(dir=folder) as backing:
        os.posix_fallocate(backing.fileno(), 0, image.stat().st_size)
        argv = ["losetup", "--find", "--show", "--direct-io=on", backing.name]
        device = releases.run(argv).strip()
        try:
            taken = []
            for _ in range(3):
                begin = time.perf_counter()
                argv = ["dd", f"if={image}", f"of={device}", "bs=4M", "oflag=direct", "conv=fsync"]
                subprocess.run(argv, check=True, capture_output=True)
                taken.append(time.perf_counter() - begin)
        finally:
            releases.run(["losetup", "--detach", device])
    return [f"{statistics.median(taken):.2f}"]


if __name__ == "__main__":
    sys.exit(main())
