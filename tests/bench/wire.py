# SPDX-License-Identifier: Apache-2.0
"""How many bytes an update brings over the network, ours and casync's; needs root for the releases.

    python3 -m tests.bench.wire [--folder DIR] [--chunks default,32768,16384]

Ours: block index, frame table, and the frames that the planner of an install asks for, as the code of the
servers counts them for a web server (with the gaps that it prefers to fetch), the old system in the running
slot. casync: the new chunks as they are stored, and the new index, for several file systems with the same
content and several chunk sizes. Neither counts the heads of HTTP requests. Full download: the archive,
against `zstd -19` of the image.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.slot_manager.plan import CHAPTER_BLOCKS, plan
from common import gpt
from common.image import frames, source
from common.image.blockindex import BlockIndex
from common.image.hashtree import open_raw
from common.image.origin import LocalOrigin, Region
from common.image.ranges import grouped, whole
from common.image.remote import Rules
from common.manifest import Transport
from hypernet_release import config, disk, transport
from hypernet_release.framecache import FrameCompressor
from tests.bench import releases

MB = 1e6
LAYOUT = "erofs noinline"
CASYNC_LAYOUTS = (LAYOUT, "squashfs stored", "squashfs zstd, no fragments")
DEFAULT = "default"
TARGETS = {"security": 0.82, "small": 0.85}
FULL_TARGET = 1.1
CPU_TARGET = 0.1


@dataclass(frozen=True)
class Image:
    """A disk image of a release, and the hash tree of its root file system."""

    path: Path
    tree: Path
    transport: Transport
    archive: Transport


@dataclass(frozen=True)
class Ours:
    """What an update takes: bytes, and seconds of CPU for finding the blocks."""

    index: int
    table: int
    frames: int
    requests: int
    cpu_sec: float

    @property
    def total(self) -> int:
        return self.index + self.table + self.frames


@dataclass(frozen=True)
class Casync:
    """The same for casync: chunks and index; CPU of making both indexes and of extracting."""

    layout: str
    chunk: str
    total: int
    cpu_sec: float


class Served(LocalOrigin):
    """A file that costs what it would on a web server."""

    requests = 0

    def cost(self, ranges: Iterable[tuple[int, int]]) -> int:
        gap = Rules(hosts=()).gap_bytes
        spans = [whole(group) for group in grouped(ranges, gap, size_bytes=self.size_bytes, name=self.name)]
        self.requests += len(spans)
        return sum(end - start for start, end in spans)


def image(folder: Path, name: str, layout: str = LAYOUT) -> Image:
    """The image of one of releases.NAMES with an empty ESP, its hash tree and its compressed form."""
    root = releases.root(folder, name, layout)
    path, tree = (root.with_name(f"{root.name}.{suffix}") for suffix in ("img", "verity"))
    esp = folder / "esp.fat"
    esp.write_bytes(bytes(1 << 20))
    root_hash = disk.make_hash_tree(root, tree)
    root_uuid, tree_uuid = disk.part_uuids(root_hash)
    parts = [
        disk.Part("esp", gpt.ESP, disk.esp_uuid(root_hash), esp),
        disk.Part("root", gpt.ROOT_X86_64, root_uuid, root),
        disk.Part("root-verity", gpt.ROOT_X86_64_VERITY, tree_uuid, tree),
    ]
    disk.assemble(parts, path, root_hash)
    path.chmod(0o644)
    compressor = FrameCompressor(config.MAX_COMPRESSION_LEVEL, folder / "frames")
    return Image(path, tree, *transport.write(path, compressor))


def ours(old: Image, new: Image) -> Ours:
    """What a server with `old` in its running slot fetches to get `new`."""
    stated = new.transport
    with source.opened(str(new.path)) as opened:
        root = source.layout(opened).root
        image_bytes = opened.size_bytes
    packed = new.path.with_name(stated.name)
    spooled = packed.with_name(f"{packed.name}.index")
    with packed.open("rb") as file, spooled.open("w+b") as index_file:
        origin = Served(file.fileno(), stated.size_bytes, packed.name)
        index_file.write(origin.read(stated.index.offset_bytes, stated.index.size_bytes))
        index_file.flush()
        table = frames.parse_table(
            origin.read(stated.frames.offset_bytes, stated.frames.size_bytes),
            image_bytes=image_bytes,
            transport=stated,
            name=packed.name,
        )
        framed = frames.FrameOrigin(origin, table, packed.name)
        part = Region(framed, root.offset_bytes, root.size_bytes, packed.name)
        begin, wanted = time.process_time(), []
        expected = BlockIndex(index_file.fileno(), stated.index.size_bytes, name=packed.name)
        running = open_raw(old.tree)
        for first in range(0, expected.blocks, CHAPTER_BLOCKS):
            count = min(CHAPTER_BLOCKS, expected.blocks - first)
            wanted.append(list(plan(expected, first, count, running=running).fetch_ranges()))
        cpu_sec = time.process_time() - begin
        cost = sum(map(part.cost, wanted))
        return Ours(stated.index.size_bytes, stated.frames.size_bytes, cost, origin.requests, cpu_sec)


def children_sec() -> float:
    """CPU of the programs that were run so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_casync(verb: str, chunk: str, *words: str) -> None:
    argv = ["casync", verb, *([] if chunk == DEFAULT else [f"--chunk-size={chunk}"]), *words]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def casync(folder: Path, layout: str, chunk: str) -> Iterator[tuple[str, Casync]]:
    """What each of releases.PAIRS takes."""
    work = folder / "casync"
    store, copy = work / "store", work / "extracted"
    shutil.rmtree(work, ignore_errors=True)
    store.mkdir(parents=True)
    stored = f"--store={store}"
    old = releases.root(folder, "sec-old", layout)
    begin = children_sec()
    run_casync("make", chunk, stored, str(work / "old.caibx"), str(old))
    old_sec = children_sec() - begin
    kept = chunks(store)
    for kind, (_, name) in releases.PAIRS.items():
        index, begin = work / f"{name}.caibx", children_sec()
        run_casync("make", chunk, stored, str(index), str(releases.root(folder, name, layout)))
        run_casync("extract", chunk, stored, f"--seed={old}", str(index), str(copy))
        took = children_sec() - begin
        new = {path: size for path, size in chunks(store).items() if path not in kept}
        yield kind, Casync(layout, chunk, sum(new.values()) + index.stat().st_size, old_sec + took)
        for path in (*new, copy):
            path.unlink()
    shutil.rmtree(work)


def chunks(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in store.rglob("*") if path.is_file()}


def zstd_bytes(path: Path) -> int:
    """Size of the file at `zstd -19`; kept beside it, for it takes minutes."""
    kept = path.with_name(f"{path.name}.zstd-19")
    if not kept.exists():
        packed = path.with_name(f"{path.name}.whole")
        subprocess.run(["zstd", "-19", "--force", "--quiet", str(path), "-o", str(packed)], check=True)
        kept.write_text(str(packed.stat().st_size))
        packed.unlink()
    return int(kept.read_text())


def verdict(ratio: float, target: float) -> str:
    return f"{ratio:.3f} ({'met' if ratio <= target else 'missed'}: at most {target})"


def show(kind: str, mine: Ours, theirs: Sequence[Casync]) -> None:
    parts = [f"{size / MB:.2f}" for size in (mine.total, mine.index, mine.table, mine.frames)]
    print(
        f"\n{kind}: ours {parts[0]} MB = index {parts[1]} + table {parts[2]} + frames {parts[3]}, "
        f"{mine.requests} requests; {mine.cpu_sec:.2f} s of CPU"
    )
    for each in theirs:
        print(f"  casync {each.layout}, chunks {each.chunk}: {each.total / MB:.2f} MB, {each.cpu_sec:.1f} s")
    best = min((each for each in theirs if each.chunk == DEFAULT), key=lambda each: each.total)
    tuned = min(theirs, key=lambda each: each.total)
    print(f"  of casync's best ({best.layout}): {verdict(mine.total / best.total, TARGETS[kind])}")
    print(
        f"  of its best with any chunk size ({tuned.layout}, {tuned.chunk}): "
        f"{verdict(mine.total / tuned.total, TARGETS[kind])}"
    )
    print(f"  CPU of casync's best: {verdict(mine.cpu_sec / best.cpu_sec, CPU_TARGET)}")
    print(
        f"  | {kind} | {mine.total / MB:.1f} | {best.total / MB:.1f} | {mine.total / best.total:.2f} | "
        f"{tuned.total / MB:.1f} | {mine.total / tuned.total:.2f} | "
        f"{mine.cpu_sec:.2f} | {best.cpu_sec:.1f} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Bytes over the network, ours and casync's.")
    parser.add_argument("--folder", type=Path, default=releases.FOLDER, help=f"default: {releases.FOLDER}")
    parser.add_argument("--chunks", default="default,32768,16384,8192", help="casync's chunk sizes")
    options = parser.parse_args()
    folder: Path = options.folder.absolute()
    os.umask(0o022)
    for kind in releases.PAIRS:
        print(releases.describe(folder, kind), flush=True)
    images = {name: image(folder, name) for name in releases.NAMES}
    theirs: dict[str, list[Casync]] = {kind: [] for kind in releases.PAIRS}
    for layout in CASYNC_LAYOUTS:
        for chunk in options.chunks.split(","):
            for kind, result in casync(folder, layout, chunk):
                theirs[kind].append(result)
    for kind, (old, new) in releases.PAIRS.items():
        show(kind, ours(images[old], images[new]), theirs[kind])
    whole_image = images["sec-new"]
    size, bound = whole_image.archive.size_bytes, zstd_bytes(whole_image.path)
    print(f"\nfull download: {size / MB:.1f} MB, zstd -19 of the image {bound / MB:.1f} MB: ", end="")
    print(verdict(size / bound, FULL_TARGET))
    return 0


if __name__ == "__main__":
    sys.exit(main())
