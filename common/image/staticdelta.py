# SPDX-License-Identifier: Apache-2.0
"""A static delta, hypernet-NEW.from-<first 16 digits of the old root hash>.delta: the root partition of one
release, made of that of another one and of what is new in it.

The file is a head of 608 bytes, a zstd frame (RFC 8878) with the table of contents, and the zstd frames with
the new data, one after the other up to the end of the file. All numbers are little-endian, and count blocks
of 4096 bytes if nothing else is said. The head is:

    offset  bytes
         0      8  magic, "HYPDLTA1"
         8      8  blocks of the new system
        16      8  blocks of the old system
        24      4  bytes of the frame with the table of contents
        28      4  bytes of the table of contents itself, at most MAX_TABLE_BYTES
        32     32  root hash of the old system (SHA-256 of the root partition if it has no dm-verity)
        64     32  root hash of the new system, likewise
        96    512  dm-verity superblock of the new system, zeros if it has none

The blocks are those that dm-verity covers, or else all of the root partition. The table of contents is three
numbers of 4 bytes, which say how many rows its three lists have, and the lists. All rows are numbers of 4
bytes:

    step    count, source           the next `count` blocks of the new system are those of the old one from
                                    block `source` on, or zeros (ZEROS), or the next new data (NEW_DATA)
    frame   count, bytes, ranges    the next frame has `bytes` bytes, holds the next `count` (1 to
                                    MAX_FRAME_BLOCKS) blocks of new data, and its dictionary is the next so
                                    many ranges, one after the other, at most MAX_DICTIONARY_BLOCKS
                                    (and all dictionaries at most MAX_READINGS times the old system)
    range   first, count            blocks of the old system

So the new data of all steps, in order, is the content of all frames, in order. Each frame states the size of
its content; a dictionary is raw content, without a head. Frames have no checksums: a block of the running
slot that is not what it should be spoils only what was made of it, and the root hash tells.

Nothing in the file is trusted: every number is checked when it is opened, and what is wrong is DeltaInvalid.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import zstandard

from common.errors import AgentError, InvalidArgument
from common.image import verity
from common.image.origin import Fetcher, Origin, fill
from common.image.verity import BLOCK_BYTES

MAGIC: Final = b"HYPDLTA1"
HEAD: Final = struct.Struct("<8sQQII32s32s512s")
COUNTS: Final = struct.Struct("<III")
STEP: Final = struct.Struct("<II")
FRAME: Final = struct.Struct("<III")
RANGE: Final = struct.Struct("<II")

ZEROS: Final = 0xFFFFFFFF
NEW_DATA: Final = 0xFFFFFFFE
MAX_BLOCKS: Final = 0xFFFFFFFD
MAX_TABLE_BYTES: Final = 2 << 20
MAX_FRAME_BLOCKS: Final = (4 << 20) // BLOCK_BYTES
MAX_DICTIONARY_BLOCKS: Final = (4 << 20) // BLOCK_BYTES
MAX_READINGS: Final = 4
"""All dictionaries together are at most so many times the old system, so that none takes for ever."""

SPARE_BYTES: Final = 64 << 10
"""A frame has at most so many bytes more than its content; zstd adds less than a hundredth to what it cannot
compress.
"""

COPY_RUNNING: Final = "copy-running"
ZERO: Final = "zero"
DATA: Final = "data"

CHAPTER_BLOCKS: Final = 1 << 16
_CHAPTER_STEPS = 1 << 13
_MAX_WINDOW_BYTES = 8 << 20
_ACTIONS = {ZEROS: ZERO, NEW_DATA: DATA}


class DeltaInvalid(AgentError):
    """The delta contradicts itself or cannot be read: install the release without it."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where `count` blocks of the new system from `block` on come from: one of COPY_RUNNING, ZERO, DATA.

    source: first block of the running system to copy, else 0.
    """

    action: str
    block: int
    count: int
    source: int = 0


class StaticDelta:
    """The delta in `origin`, checked as a whole but for its new data; `name` is for messages.

    old_root_hash, new_root_hash: 64 hex digits. superblock: 512 bytes, b"" if the new system has no
    dm-verity. blocks, old_blocks: of 4096 bytes. size_bytes: of the file.
    Raises DeltaInvalid, and what reading the origin raises.
    """

    def __init__(self, origin: Origin, *, name: str) -> None:
        self._origin, self._name = origin, name
        self.size_bytes = origin.size_bytes
        if origin.size_bytes < HEAD.size:
            raise self._invalid(f"it has {origin.size_bytes} bytes only")
        head = HEAD.unpack(origin.read(0, HEAD.size))
        magic, self.blocks, self.old_blocks, frame_bytes, table_bytes, old, new, superblock = head
        if magic != MAGIC:
            raise self._invalid("it does not begin as a delta does")
        if not 0 < self.blocks <= MAX_BLOCKS or not 0 < self.old_blocks <= MAX_BLOCKS:
            raise self._invalid("it is for systems of an impossible size")
        self.old_root_hash, self.new_root_hash = old.hex(), new.hex()
        self.superblock = superblock if any(superblock) else b""
        if self.superblock and self._covered(self.superblock) != self.blocks:
            raise self._invalid("the superblock of its hash tree is for a system of another size")
        if not COUNTS.size <= table_bytes <= MAX_TABLE_BYTES:
            raise self._invalid("its table of contents has an impossible size")
        if not 0 < frame_bytes <= min(origin.size_bytes - HEAD.size, table_bytes + SPARE_BYTES):
            raise self._invalid("its table of contents has an impossible size")
        self._begin = HEAD.size + frame_bytes
        raw = origin.read(HEAD.size, frame_bytes)
        table = self._decompress(raw, table_bytes, "its table of contents", None)
        del raw
        self._split(table)
        self._check()

    def chapters(self) -> Iterator[list[Step]]:
        """Steps for all blocks, ascending and without a gap; each list covers at most CHAPTER_BLOCKS."""
        chapter: list[Step] = []
        block = end = 0
        for count, source in STEP.iter_unpack(self._steps):
            while count:
                if chapter and (block == end or len(chapter) == _CHAPTER_STEPS):
                    yield chapter
                    chapter = []
                if not chapter:
                    end = block + CHAPTER_BLOCKS
                part = min(count, end - block)
                action = _ACTIONS.get(source, COPY_RUNNING)
                chapter.append(Step(action, block, part, source if action == COPY_RUNNING else 0))
                block += part
                count -= part
                if action == COPY_RUNNING:
                    source += part
        yield chapter

    def fetcher(self, running_fd: int, running_offset: int = 0) -> Fetcher:
        """For the blocks of the DATA steps; offsets in bytes of the new system.

        running_fd: what holds the old system from byte `running_offset` on. At most one dictionary, one
        frame and its content are in memory.

        Raises DeltaInvalid, AgentError, and what reading the origin raises.
        """
        pieces = self._pieces(running_fd, running_offset)
        start, piece = 0, memoryview(b"")

        def give(view: memoryview, offset: int) -> int:
            nonlocal start, piece
            while start + len(piece) <= offset:
                piece = memoryview(b"")  # so that the frame before is not in memory with the next one
                start, piece = next(pieces, (self.blocks * BLOCK_BYTES, piece))
                if not piece:
                    break
            if not start <= offset < start + len(piece):
                raise InvalidArgument(f"Byte {offset} of the new system is not in the data of {self._name}.")
            part = piece[offset - start :][: len(view)]
            view[: len(part)] = part
            return len(part)

        return give

    def _pieces(self, running_fd: int, running_offset: int) -> Iterator[tuple[int, memoryview]]:
        """(offset in the new system, bytes): the new data, cut where a run of it or a frame ends."""
        contents = self._contents(running_fd, running_offset)
        content = memoryview(b"")
        block = 0
        for count, source in STEP.iter_unpack(self._steps):
            at, block = block * BLOCK_BYTES, block + count
            while source == NEW_DATA and at < block * BLOCK_BYTES:
                if not content:
                    content = memoryview(b"")
                    content = memoryview(next(contents))
                size = min(len(content), block * BLOCK_BYTES - at)
                yield at, content[:size]
                content = content[size:]
                at += size

    def _contents(self, running_fd: int, running_offset: int) -> Iterator[bytes]:
        """The content of each frame, in order."""
        fetch = self._origin.fetcher([(self._begin, self.size_bytes - self._begin)])
        ranges = RANGE.iter_unpack(self._ranges)
        offset = self._begin
        for count, size, range_count in FRAME.iter_unpack(self._frames):
            dictionary = self._dictionary(running_fd, running_offset, list(islice(ranges, range_count)))
            raw = bytearray(size)
            fill(fetch, memoryview(raw), offset)
            content = [self._decompress(raw, count * BLOCK_BYTES, f"its frame at byte {offset}", dictionary)]
            del raw, dictionary
            yield content.pop()
            offset += size

    def _split(self, table: bytes) -> None:
        # No views: Python 3.11 crashes when it collects an iter_unpack over one that was not used up.
        steps, frames, ranges = COUNTS.unpack_from(table)
        frames_at = COUNTS.size + steps * STEP.size
        ranges_at = frames_at + frames * FRAME.size
        if ranges_at + ranges * RANGE.size != len(table):
            raise self._invalid("its table of contents has another size than its lists")
        self._steps = table[COUNTS.size : frames_at]
        self._frames = table[frames_at:ranges_at]
        self._ranges = table[ranges_at:]

    def _check(self) -> None:
        """Whether all numbers of the table of contents fit together."""
        blocks = data = 0
        for count, source in STEP.iter_unpack(self._steps):
            if not count:
                raise self._invalid("it has a step without blocks")
            if source == NEW_DATA:
                data += count
            elif source != ZEROS and source + count > self.old_blocks:
                raise self._invalid("it copies blocks that the old system does not have")
            blocks += count
        if blocks != self.blocks:
            raise self._invalid(f"its steps give {blocks} blocks instead of {self.blocks}")
        ranges = RANGE.iter_unpack(self._ranges)
        end, named, there = self._begin, 0, len(self._ranges) // RANGE.size
        most = MAX_READINGS * self.old_blocks
        for count, size, range_count in FRAME.iter_unpack(self._frames):
            if not 0 < count <= MAX_FRAME_BLOCKS or not 0 < size <= count * BLOCK_BYTES + SPARE_BYTES:
                raise self._invalid("it has a frame of an impossible size")
            data -= count
            end += size
            named += range_count
            if named > there:
                raise self._invalid("it has fewer dictionary ranges than its frames need")
            room = MAX_DICTIONARY_BLOCKS
            for first, length in islice(ranges, range_count):
                room -= length
                if not length or room < 0 or first + length > self.old_blocks:
                    raise self._invalid("it has a dictionary of an impossible size or place")
                most -= length
        if most < 0:
            raise self._invalid(f"it reads the old system more than {MAX_READINGS} times")
        if data:
            raise self._invalid("its frames do not hold as many blocks as its steps need")
        if named != there:
            raise self._invalid("it has more dictionary ranges than its frames need")
        if end != self.size_bytes:
            raise self._invalid(f"it has {self.size_bytes} bytes and its frames end at byte {end}")

    def _dictionary(
        self, fd: int, begin: int, ranges: list[tuple[int, int]]
    ) -> zstandard.ZstdCompressionDict | None:
        if not ranges:
            return None
        whole = memoryview(bytearray(sum(count for _, count in ranges) * BLOCK_BYTES))
        at = 0
        for first, count in ranges:
            end = at + count * BLOCK_BYTES
            offset = begin + first * BLOCK_BYTES - at
            while at < end:
                try:
                    got = os.preadv(fd, [whole[at:end]], offset + at)
                except OSError as error:
                    raise AgentError(
                        f"The running system cannot be read at byte {offset + at}: {error.strerror}."
                    ) from error
                if not got:
                    raise self._invalid("it is for an old system that is larger than the running one")
                at += got
        return zstandard.ZstdCompressionDict(whole, dict_type=zstandard.DICT_TYPE_RAWCONTENT)

    def _decompress(
        self,
        raw: bytes | bytearray,
        size: int,
        what: str,
        dictionary: zstandard.ZstdCompressionDict | None,
    ) -> bytes:
        """The content of one whole frame, which must have exactly `size` bytes."""
        try:
            head = zstandard.get_frame_parameters(raw)
            if head.content_size != size or head.dict_id:
                raise self._invalid(f"{what} has another size than it should")
            content = zstandard.ZstdDecompressor(dictionary, _MAX_WINDOW_BYTES).decompress(raw)
        except zstandard.ZstdError as error:
            raise self._invalid(f"{what} cannot be decompressed") from error
        if len(content) != size:
            raise self._invalid(f"{what} has another size than it should")
        return content

    def _covered(self, superblock: bytes) -> int:
        try:
            return verity.covered_blocks(superblock, name=self._name)
        except AgentError as error:
            raise self._invalid("it has no proper superblock of a hash tree") from error

    def _invalid(self, why: str) -> DeltaInvalid:
        return DeltaInvalid(
            f"{self._name} is damaged or was not built properly: {why}; install the release without it, and "
            "tell the vendor."
        )
