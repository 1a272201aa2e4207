# SPDX-License-Identifier: Apache-2.0
"""The compressed form of an image, hypernet-X.Y.Z.img.zst: small zstd frames, any of which can be fetched
and decompressed alone.

The file is: zstd frames (RFC 8878) that together are the image, each with its size in its head, of at most
MAX_CONTENT_BYTES and a multiple of 4096 (but for the last); a skippable frame with the block index
(common.image.blockindex); a skippable frame with the seek table of zstd's "seekable format", version 0.1.0,
without checksums, whose last entry is that of the index. zstd(1) decompresses it to the image.

The manifest has the SHA-256 of table and index. Frames have none: what they give is checked as any block of
the image is, and here only that it is bounded.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

import zstandard

from common.image.errors import ChecksumMismatch, misbuilt
from common.image.origin import Fetcher, Origin, fill, require_inside
from common.image.verity import BLOCK_BYTES
from common.manifest import SKIPPABLE_HEAD_BYTES, Transport

MAX_CONTENT_BYTES: Final = 4 << 20
MAX_FRAME_BYTES: Final = MAX_CONTENT_BYTES + (64 << 10)
"""Of a compressed frame; zstd adds less than a hundredth to what it cannot compress."""

INDEX_MAGIC: Final = 0x184D2A50
TABLE_MAGIC: Final = 0x184D2A5E
FOOTER_MAGIC: Final = 0x8F92EAB1

_HEAD: Final = struct.Struct("<II")
_FOOTER: Final = struct.Struct("<IBI")
_ENTRY_BYTES: Final = 8


def skippable(size_bytes: int, magic: int = INDEX_MAGIC) -> bytes:
    """The head (SKIPPABLE_HEAD_BYTES) of a skippable frame whose content has so many bytes."""
    return _HEAD.pack(magic, size_bytes)


def table_bytes(frames: Iterable[tuple[int, int]], *, index_bytes: int) -> bytes:
    """The whole frame with the seek table, from (compressed bytes, content bytes) of the image's frames.

    index_bytes: of the index without the head of its frame.
    """
    entries = array("I")
    for frame in frames:
        entries.extend(frame)
    entries.extend((SKIPPABLE_HEAD_BYTES + index_bytes, 0))
    content = entries.tobytes() + _FOOTER.pack(len(entries) // 2, 0, FOOTER_MAGIC)
    return skippable(len(content), TABLE_MAGIC) + content


class FrameTable:
    """Where the frames of an image are: for each, and for the end, the bytes before it in image and file.

    content: sorted, from 0 to the size of the image. compressed: sorted, from 0 to the end of the frames.
    """

    def __init__(self, content: array[int], compressed: array[int]) -> None:
        self.content, self.compressed = content, compressed

    @property
    def image_bytes(self) -> int:
        return self.content[-1]

    def frame_at(self, offset: int) -> int:
        """Number of the frame that holds a byte of the image."""
        return bisect_right(self.content, offset) - 1

    def pieces(self, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Ranges (offset, length) of the file that ranges of the image need; adjacent ones are joined."""
        begin = end = -1
        for offset, length in ranges:
            first = self.compressed[self.frame_at(offset)]
            stop = self.compressed[self.frame_at(offset + length - 1) + 1]
            if first > end:
                if end >= 0:
                    yield begin, end - begin
                begin = first
            end = stop
        if end >= 0:
            yield begin, end - begin


def parse_table(raw: bytes, *, image_bytes: int, transport: Transport, name: str) -> FrameTable:
    """The table, from the bytes transport.frames of the compressed form of an image of `image_bytes`.

    Raises NotAnImage if it is no such table or does not fit.
    """
    least = SKIPPABLE_HEAD_BYTES + _FOOTER.size
    if len(raw) < least:
        raise misbuilt(name, "its frame table is too short")
    magic, size = _HEAD.unpack_from(raw)
    count, descriptor, footer = _FOOTER.unpack_from(raw, len(raw) - _FOOTER.size)
    if (magic, footer, descriptor) != (TABLE_MAGIC, FOOTER_MAGIC, 0):
        raise misbuilt(name, "what it calls its frame table is none")
    if size != len(raw) - SKIPPABLE_HEAD_BYTES or count * _ENTRY_BYTES != len(raw) - least:
        raise misbuilt(name, "its frame table has another size than it says")
    entries = array("I")
    entries.frombytes(memoryview(raw)[SKIPPABLE_HEAD_BYTES : len(raw) - _FOOTER.size])
    compressed, content = entries[::2], entries[1::2]
    if count < 2 or (compressed.pop(), content.pop()) != (
        SKIPPABLE_HEAD_BYTES + transport.index.size_bytes,
        0,
    ):
        raise misbuilt(name, "its frame table does not end with the block index")
    if min(compressed) < 1 or max(compressed) > MAX_FRAME_BYTES:
        raise misbuilt(name, "its frame table has a frame of an impossible size")
    if min(content) < 1 or max(content) > MAX_CONTENT_BYTES:
        raise misbuilt(
            name, f"its frame table has a frame of more than {MAX_CONTENT_BYTES} bytes, or of none"
        )
    starts = array("Q", accumulate(content, initial=0))
    if any(start % BLOCK_BYTES for start in starts[:-1]):
        raise misbuilt(name, f"its frames do not begin at multiples of {BLOCK_BYTES}")
    offsets = array("Q", accumulate(compressed, initial=0))
    if starts[-1] != image_bytes or offsets[-1] != transport.index.offset_bytes - SKIPPABLE_HEAD_BYTES:
        raise misbuilt(name, "the frames in its frame table are not the whole image")
    return FrameTable(starts, offsets)


class FrameOrigin:
    """The image whose compressed form is `origin`; one frame of it is in memory. `name` is for messages."""

    def __init__(self, origin: Origin, table: FrameTable, name: str) -> None:
        require_inside(origin, 0, table.compressed[-1])
        self.name, self.size_bytes = name, table.image_bytes
        self._origin, self._table = origin, table
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_CONTENT_BYTES)

    @property
    def fetched_bytes(self) -> int:
        return self._origin.fetched_bytes

    def read(self, offset: int, length: int) -> bytes:
        require_inside(self, offset, length)
        data = bytearray(length)
        if length:
            fill(self.fetcher([(offset, length)]), memoryview(data), offset)
        return bytes(data)

    def fetcher(self, ranges: Iterable[tuple[int, int]]) -> Fetcher:
        """Frames that lie side by side are fetched as one range; each is decompressed once."""
        fetch = self._origin.fetcher(self._table.pieces(self._inside(ranges)))
        number, frame = -1, memoryview(b"")

        def give(view: memoryview, offset: int) -> int:
            nonlocal number, frame
            require_inside(self, offset, 1)
            wanted = self._table.frame_at(offset)
            if wanted != number:
                frame = memoryview(b"")
                frame = memoryview(self._frame(fetch, wanted))
                number = wanted
            piece = frame[offset - self._table.content[number] :][: len(view)]
            view[: len(piece)] = piece
            return len(piece)

        return give

    def cost(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Bytes of the frames that the ranges touch, as the origin fetches them."""
        return self._origin.cost(self._table.pieces(self._inside(ranges)))

    def finish(self) -> None:
        self._origin.finish()

    def _frame(self, fetch: Fetcher, number: int) -> bytes:
        """The content of a frame, of exactly the size that the table says."""
        offset = self._table.compressed[number]
        raw = bytearray(self._table.compressed[number + 1] - offset)
        fill(fetch, memoryview(raw), offset)
        expected = self._table.content[number + 1] - self._table.content[number]
        try:
            head = zstandard.get_frame_parameters(raw)
            if head.content_size != expected or head.window_size > MAX_CONTENT_BYTES or head.dict_id:
                raise self._unlike(offset)
            content = self._decompressor.decompress(raw)
        except zstandard.ZstdError as error:
            raise self._unlike(offset) from error
        if len(content) != expected:
            raise self._unlike(offset)
        return content

    def _inside(self, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for offset, length in ranges:
            require_inside(self, offset, length)
            if length:
                yield offset, length

    def _unlike(self, offset: int) -> ChecksumMismatch:
        return ChecksumMismatch(
            f"{self.name} holds at byte {offset} no frame such as its table says; download it again, and if "
            "that does not help, tell the operator of the server."
        )
