# SPDX-License-Identifier: Apache-2.0
"""The compressed forms of an image, hypernet-X.Y.Z.img.zst for updates and hypernet-X.Y.Z.archive.zst for
machines that hold nothing of it (common.image.frames): where their frames are cut, and how they are written.

A server fetches the frames that hold a block which it lacks, as a whole. So a frame should hold what changes
together: one file, or small files of one folder, or modules of one kernel. What of the root file system
belongs to no file has frames of its own, since it changes with each release, and so have longer runs of
zeros, which nobody fetches. The same image gives the same bytes, with the same version of zstd.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import IO, Final

from common import files
from common.image import blockindex, frames, source, verity
from common.image.frames import FrameOrigin
from common.image.hashtree import HashTree
from common.image.origin import LocalOrigin
from common.image.verity import BLOCK_BYTES
from common.manifest import MAX_TABLE_BYTES, Extent, Transport
from hypernet_release import listing
from hypernet_release.errors import BuildError
from hypernet_release.framecache import FrameCompressor
from hypernet_release.listing import Run

SUFFIX: Final = ".zst"
ARCHIVE_SUFFIX: Final = ".archive.zst"

ARCHIVE_BLOCKS: Final = frames.MAX_CONTENT_BYTES // BLOCK_BYTES
FRAME_BLOCKS: Final = 256
GROUP_BLOCKS: Final = 8
"""Small files of a folder have a frame in common up to this: more would be fetched in vain than saved."""

PLAIN_BLOCKS: Final = 16
"""What no file is known of is cut into frames of this."""

ZERO_BLOCKS: Final = 16

_MODULES = re.compile(r"/(?:usr/)?lib/modules/[^/]+/")
_MAX_FRAMES = MAX_TABLE_BYTES // 8 - 16
_TREE_BLOCKS = 1 << 14
_ZEROS = bytes(BLOCK_BYTES)


def write(image: Path, compressor: FrameCompressor) -> tuple[Transport, Transport]:
    """Write IMAGE.zst and the archive beside the image; returns what the manifest says of them.

    Raises NotAnImage, Truncated, BuildError, AgentError, OSError.
    """
    with source.opened(str(image.absolute())) as opened:
        layout = source.layout(opened)
        archive = image.with_name(image.name.removesuffix(".img") + ARCHIVE_SUFFIX)
        return (
            _write(opened, layout, starts(opened, layout), image.with_name(image.name + SUFFIX), compressor),
            _write(opened, layout, archive_starts(opened, layout), archive, compressor),
        )


def _write(
    image: source.Image,
    layout: source.Layout,
    starting: Sequence[int],
    path: Path,
    compressor: FrameCompressor,
) -> Transport:
    entries = []
    edges = [*(start * BLOCK_BYTES for start in starting), image.size_bytes]
    with path.open("w+b") as target:
        for content_bytes, packed in _compressed(image.fd, edges, compressor):
            target.write(packed)
            entries.append((len(packed), content_bytes))
        index = b"".join(_index(image, layout))
        target.write(frames.skippable(len(index)))
        index_at = target.tell()
        target.write(index)
        table_at = target.tell()
        table = frames.table_bytes(entries, index_bytes=len(index))
        target.write(table)
        target.flush()
        transport = Transport(
            name=path.name,
            size_bytes=target.tell(),
            frames=Extent(table_at, len(table), sha256(table).hexdigest()),
            index=Extent(index_at, len(index), sha256(index).hexdigest()),
        )
        _prove(image, target, transport)
    return transport


def archive_starts(image: source.Image, layout: source.Layout) -> list[int]:
    """The same for the archive: frames as large as they may be."""
    blocks = -(-image.size_bytes // BLOCK_BYTES)
    parts = {part.offset_bytes // BLOCK_BYTES for part in layout.by_role().values()}
    return list(_bounded(sorted({0, *parts}), blocks, ARCHIVE_BLOCKS))


def starts(image: source.Image, layout: source.Layout) -> list[int]:
    """Numbers of the blocks of an image that begin a frame."""
    blocks = -(-image.size_bytes // BLOCK_BYTES)
    root, root_blocks = layout.root.offset_bytes // BLOCK_BYTES, layout.root.size_bytes // BLOCK_BYTES
    files = listing.files(
        image.fd,
        offset_bytes=layout.root.offset_bytes,
        size_bytes=layout.root.size_bytes,
        name=image.path.name,
    )
    found = set(range(0, root, FRAME_BLOCKS))
    found.update(root + start for start in cuts(files, root_blocks))
    found.update(range(root + root_blocks, blocks, FRAME_BLOCKS))
    for part in layout.by_role().values():
        found.add(part.offset_bytes // BLOCK_BYTES)
    for run in _zero_runs(image.fd, blocks):
        found.difference_update(range(run.first, run.end))
        found.update(range(run.first, run.end, FRAME_BLOCKS))
        if run.end < blocks:
            found.add(run.end)
    if len(found) > _MAX_FRAMES:  # more than a server would read: then larger ones, whatever they hold
        return list(range(0, blocks, FRAME_BLOCKS))
    return list(_bounded(sorted(found), blocks))


def cuts(files: Iterable[Run], blocks: int) -> Iterator[int]:
    """Numbers of the blocks of a root file system that begin a frame, ascending.

    files: as listing.files gives them, which may be nothing.
    """
    position, room, family = 0, 0, ""
    for run in (*(file for file in files if not file.path.endswith("/")), Run(blocks, 0)):
        if run.first > position:
            yield from range(position, run.first, PLAIN_BLOCKS)
            room = 0
        modules = _MODULES.match(run.path)
        its_family = modules[0] if modules else run.path.rpartition("/")[0]
        if its_family == family and run.count <= room:
            room -= run.count
        else:
            yield from range(run.first, run.end, FRAME_BLOCKS)
            family, room = its_family, (FRAME_BLOCKS if modules else GROUP_BLOCKS) - run.count
        position = run.end


def _bounded(starting: Sequence[int], blocks: int, most: int = FRAME_BLOCKS) -> Iterator[int]:
    """The same, with more of them where a frame would become too large."""
    for start, end in pairwise([*starting, blocks]):
        yield from range(start, end, most)


def _zero_runs(fd: int, blocks: int) -> Iterator[Run]:
    """Runs of at least ZERO_BLOCKS blocks of zeros."""
    first = None
    for start in range(0, blocks, FRAME_BLOCKS):
        data = files.read_at(fd, FRAME_BLOCKS * BLOCK_BYTES, start * BLOCK_BYTES)
        for at in range(0, len(data), BLOCK_BYTES):
            number = start + at // BLOCK_BYTES
            if data[at : at + BLOCK_BYTES] == _ZEROS:
                first = number if first is None else first
            elif first is not None:
                if number - first >= ZERO_BLOCKS:
                    yield Run(first, number - first)
                first = None
    if first is not None and blocks - first >= ZERO_BLOCKS:
        yield Run(first, blocks - first)


def _compressed(fd: int, edges: Sequence[int], compressor: FrameCompressor) -> Iterator[tuple[int, bytes]]:
    """Size of the content, and the frame, between each edge (in bytes) and the next."""

    def frame(edge: tuple[int, int]) -> tuple[int, bytes]:
        content = files.read_at(fd, edge[1] - edge[0], edge[0])
        if len(content) != edge[1] - edge[0]:
            raise BuildError("The image ended while it was compressed; build it again.")
        return len(content), compressor.compress(content)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # zstd works without Python's lock
        yield from pool.map(frame, pairwise(edges))


def _index(image: source.Image, layout: source.Layout) -> Iterator[bytes]:
    """The block index, see common.image.blockindex."""
    name, root = image.path.name, layout.root
    if layout.tree is None:
        yield from blockindex.render(
            bytes(verity.SUPERBLOCK_BYTES), _hashes(image.fd, root.offset_bytes, root.size_bytes)
        )
        return
    head = files.read_at(image.fd, verity.HEAD_BYTES, layout.tree.offset_bytes)
    root_hash = verity.read(head, name=name).root_hash
    tree = HashTree(image.fd, layout.tree.offset_bytes, root_hash=root_hash, name=name)
    leaves = (
        tree.leaves(first, min(_TREE_BLOCKS, tree.blocks - first))
        for first in range(0, tree.blocks, _TREE_BLOCKS)
    )
    yield from blockindex.render(head[: verity.SUPERBLOCK_BYTES], leaves)


def _hashes(fd: int, offset: int, size_bytes: int) -> Iterator[bytes]:
    for at in range(offset, offset + size_bytes, BLOCK_BYTES):
        yield sha256(files.read_at(fd, BLOCK_BYTES, at)).digest()


def _prove(image: source.Image, target: IO[bytes], transport: Transport) -> None:
    """Decompress it as a server does, and compare. Raises BuildError, NotAnImage, ChecksumMismatch."""
    name = transport.name
    raw = files.read_at(target.fileno(), transport.frames.size_bytes, transport.frames.offset_bytes)
    table = frames.parse_table(raw, image_bytes=image.size_bytes, transport=transport, name=name)
    origin = FrameOrigin(LocalOrigin(target.fileno(), transport.size_bytes, name), table, name)
    fetch = origin.fetcher([(0, image.size_bytes)])
    view, offset = memoryview(bytearray(frames.MAX_CONTENT_BYTES)), 0
    while offset < image.size_bytes:
        count = fetch(view, offset)
        if files.read_at(image.fd, count, offset) != view[:count]:
            raise BuildError(f"{name} does not decompress to the image; report this, it is a defect.")
        offset += count
