# SPDX-License-Identifier: Apache-2.0
"""`hypernet-image delta`: make the static delta from one release to another, see common.image.staticdelta.

The same two images give the same file, byte by byte, with the same version of zstd. It is applied once
before it gets its name.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import IO, Final

import zstandard

from common import files
from common.errors import InvalidArgument
from common.gpt import NoPartitionTable
from common.image import source, staticdelta, verity
from common.image.errors import NotAnImage
from common.image.hashtree import HashTree
from common.image.origin import LocalOrigin, fill
from common.image.staticdelta import MAX_FRAME_BLOCKS
from common.image.verity import BLOCK_BYTES
from hypernet_release import deltaplan, listing, tools
from hypernet_release.deltaplan import ZERO_HASH, Frame
from hypernet_release.errors import BuildError
from hypernet_release.listing import Run

SUFFIX: Final = ".delta"
LEVEL: Final = 19
WINDOW_LOG: Final = 23  # dictionary and content of a frame
_READ_BYTES: Final = 4 << 20
_NO_SUPERBLOCK: Final = bytes(verity.SUPERBLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class System:
    """A root file system at `offset_bytes` of `fd`: its first `blocks` blocks of 4096 bytes count.

    identity: its root hash, or the SHA-256 of the root partition if it has no dm-verity (then superblock is
    zeros), as 64 hex digits. hashes: SHA-256 of each block.
    """

    name: str
    fd: int
    offset_bytes: int
    blocks: int
    identity: str
    superblock: bytes
    hashes: Sequence[bytes]

    def read(self, run: Run) -> bytes:
        """The bytes of a run of blocks."""
        size = run.count * BLOCK_BYTES
        raw = files.read_at(self.fd, size, self.offset_bytes + run.first * BLOCK_BYTES)
        if len(raw) != size:
            raise BuildError(f"{self.name} ended while its delta was made; copy or download it again.")
        return raw


def make(old: Path, new: Path, output: Path) -> Path:
    """Write the delta from the image `old` to the image `new` into a folder; returns its path.

    Both may also be root file systems without their image. Raises InvalidArgument, NotAnImage, Truncated,
    BuildError, AgentError, OSError.
    """
    with opened(old) as before, opened(new) as after:
        if before.identity == after.identity:
            raise InvalidArgument(f"{old} and {new} hold the same system; name two releases.")
        output.mkdir(parents=True, exist_ok=True)
        path = output / f"{new.name.removesuffix('.img')}.from-{before.identity[:16]}{SUFFIX}"
        with tempfile.TemporaryDirectory(prefix=".delta-", dir=output) as folder:
            hidden = Path(folder) / path.name
            with hidden.open("w+b") as target:
                with tools.step("Compressing what is new"):
                    write(before, after, target)
                with tools.step("Applying the delta"):
                    prove(before, after, target)
                os.fchmod(target.fileno(), 0o644)
                os.fsync(target.fileno())
            hidden.replace(path)
    return path


@contextmanager
def opened(path: Path) -> Iterator[System]:
    """The system in an image, or in a file with a root file system only. Raises as `make`."""
    with source.opened(str(path.absolute())) as image:
        try:
            layout = source.layout(image)
        except NotAnImage as error:
            if not isinstance(error.__cause__, NoPartitionTable):
                raise
            yield _plain(path.name, image.fd, 0, image.size_bytes)
            return
        if layout.tree is None:
            yield _plain(path.name, image.fd, layout.root.offset_bytes, layout.root.size_bytes)
            return
        head = files.read_at(image.fd, verity.HEAD_BYTES, layout.tree.offset_bytes)
        found = verity.read(head, name=path.name)
        blocks = found.data_bytes // BLOCK_BYTES
        hashes = list(_hashes(image.fd, layout.root.offset_bytes, found.data_bytes, path.name))
        tree = HashTree(image.fd, layout.tree.offset_bytes, root_hash=found.root_hash, name=path.name)
        if found.data_bytes > layout.root.size_bytes or b"".join(hashes) != tree.leaves(0, blocks):
            raise NotAnImage(f"{path} does not have the content of its hash tree; copy or build it again.")
        superblock = head[: verity.SUPERBLOCK_BYTES]
        offset = layout.root.offset_bytes
        yield System(path.name, image.fd, offset, blocks, found.root_hash, superblock, hashes)


def _plain(name: str, fd: int, offset: int, size: int) -> System:
    """A system without dm-verity."""
    if size % BLOCK_BYTES:
        raise NotAnImage(f"{name} holds no whole blocks of {BLOCK_BYTES} bytes; name an image.")
    digest = sha256()
    for piece in _read(fd, offset, size, name):
        digest.update(piece)
    hashes = list(_hashes(fd, offset, size, name))
    return System(name, fd, offset, size // BLOCK_BYTES, digest.hexdigest(), _NO_SUPERBLOCK, hashes)


def write(old: System, new: System, target: IO[bytes]) -> None:
    """Write the delta between two systems into an empty file. Raises BuildError, OSError."""
    old_files, new_files = (
        listing.files(
            system.fd,
            offset_bytes=system.offset_bytes,
            size_bytes=system.blocks * BLOCK_BYTES,
            name=system.name,
        )
        for system in (old, new)
    )
    found = deltaplan.sources(old.hashes, new.hashes, new_files)
    steps = list(deltaplan.steps(found))
    frames = deltaplan.frames(found, old_files, new_files, old.blocks)
    with tempfile.TemporaryFile(dir=Path(target.name).parent) as spool:
        sizes = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # zstd works without Python's lock
            for packed in pool.map(lambda frame: _compress(old, new, frame), frames):
                spool.write(packed)
                sizes.append(len(packed))
        table = _table(steps, frames, sizes)
        read = sum(run.count for frame in frames for run in frame.dictionary)
        if len(table) > staticdelta.MAX_TABLE_BYTES or read > staticdelta.MAX_READINGS * old.blocks:
            raise BuildError(f"{old.name} and {new.name} have too little in common for a delta; make none.")
        packed = zstandard.ZstdCompressor(level=LEVEL).compress(table)
        target.write(
            staticdelta.HEAD.pack(
                staticdelta.MAGIC,
                new.blocks,
                old.blocks,
                len(packed),
                len(table),
                bytes.fromhex(old.identity),
                bytes.fromhex(new.identity),
                new.superblock,
            )
        )
        target.write(packed)
        spool.seek(0)
        shutil.copyfileobj(spool, target, _READ_BYTES)
    target.flush()


def prove(old: System, new: System, delta: IO[bytes]) -> None:
    """Apply a delta as a server does, and compare the hash of each block.

    Raises BuildError, DeltaInvalid.
    """
    name = Path(delta.name).name
    origin = LocalOrigin(delta.fileno(), os.fstat(delta.fileno()).st_size, name)
    reader = staticdelta.StaticDelta(origin, name=name)
    fetch = reader.fetcher(old.fd, old.offset_bytes)
    for step in chain.from_iterable(reader.chapters()):
        for first in range(step.block, step.block + step.count, MAX_FRAME_BLOCKS):
            count = min(MAX_FRAME_BLOCKS, step.block + step.count - first)
            if step.action == staticdelta.DATA:
                content = bytearray(count * BLOCK_BYTES)
                fill(fetch, memoryview(content), first * BLOCK_BYTES)
                made = list(_block_hashes(memoryview(content)))
            elif step.action == staticdelta.ZERO:
                made = [ZERO_HASH] * count
            else:
                source_block = step.source + first - step.block
                made = list(old.hashes[source_block : source_block + count])
            if made != new.hashes[first : first + count]:
                raise BuildError(f"The delta {name} does not give {new.name}; report this, it is a defect.")


def _compress(old: System, new: System, frame: Frame) -> bytes:
    content = b"".join(map(new.read, frame.new))
    raw = b"".join(map(old.read, frame.dictionary))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        source_size=len(content),
        dict_size=len(raw),
        window_log=WINDOW_LOG,
        strategy=zstandard.STRATEGY_BTULTRA2,
    )
    dictionary = zstandard.ZstdCompressionDict(raw, zstandard.DICT_TYPE_RAWCONTENT) if raw else None
    return zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters).compress(content)


def _table(steps: Sequence[tuple[int, int]], frames: Sequence[Frame], sizes: Sequence[int]) -> bytes:
    """The table of contents."""
    ranges = [run for frame in frames for run in frame.dictionary]
    parts = [staticdelta.COUNTS.pack(len(steps), len(frames), len(ranges))]
    parts += [staticdelta.STEP.pack(count, source) for count, source in steps]
    parts += [
        staticdelta.FRAME.pack(frame.blocks, size, len(frame.dictionary))
        for frame, size in zip(frames, sizes, strict=True)
    ]
    parts += [staticdelta.RANGE.pack(run.first, run.count) for run in ranges]
    return b"".join(parts)


def _hashes(fd: int, offset: int, size: int, name: str) -> Iterator[bytes]:
    for piece in _read(fd, offset, size, name):
        yield from _block_hashes(piece)


def _block_hashes(data: memoryview) -> Iterator[bytes]:
    for at in range(0, len(data), BLOCK_BYTES):
        yield sha256(data[at : at + BLOCK_BYTES]).digest()


def _read(fd: int, offset: int, size: int, name: str) -> Iterator[memoryview]:
    end = offset + size
    while offset < end:
        piece = files.read_at(fd, min(_READ_BYTES, end - offset), offset)
        if len(piece) != min(_READ_BYTES, end - offset):
            raise NotAnImage(f"{name} ended while it was read; copy or build it again.")
        yield memoryview(piece)
        offset += len(piece)
