# SPDX-License-Identifier: Apache-2.0
"""Bounded reader of uncompressed erofs file systems, in files and on block devices.

Knows directories, symbolic links, and regular files in the flat layouts, plain or with their tail beside the
inode. Format: "EROFS ondisk format", chapter "core", in the documentation of erofs
(https://erofs.docs.kernel.org/en/latest/ondisk/core_ondisk.html).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from common import filesystem
from common.filesystem import Extent, FileSystemError

SUPERBLOCK_OFFSET = 1024
MAGIC_OFFSET = SUPERBLOCK_OFFSET
MAGIC = bytes.fromhex("e2e1f5e0")

# Of each, the fields that are needed; the others are passed over.
_SUPERBLOCK = struct.Struct("<4s8xBxH20xII36xI")
_COMPACT = struct.Struct("<2xHH2xI4xI12x")
_EXTENDED = struct.Struct("<2xHH2xQI44x")
_ENTRY = struct.Struct("<QHBB")
_SLOT_BYTES = 32  # inodes are numbered in units of this
_XATTR_HEADER_BYTES, _XATTR_ENTRY_BYTES = 12, 4
_FLAT_PLAIN, _FLAT_INLINE = 0, 2
# Features that change how file data is stored, never where inodes and directories are; each inode says
# whether it uses them.
_KNOWN_FEATURES = 0x7F


@dataclass(frozen=True, slots=True)
class _Inode:
    """offset: of the data behind inode and attributes (the tail of an inline file), in bytes."""

    number: int
    mode: int
    size: int
    layout: int
    block: int
    offset: int


class FileSystem(filesystem.FileSystem[_Inode]):
    """The erofs in an extent. Raises FileSystemError if there is none."""

    def __init__(self, extent: Extent) -> None:
        super().__init__(extent)
        raw = extent.read(SUPERBLOCK_OFFSET, _SUPERBLOCK.size)
        magic, block_bits, root, blocks, meta, features = _SUPERBLOCK.unpack(raw)
        if magic != MAGIC:
            raise FileSystemError(f"{extent.name} holds no erofs file system.")
        if not 9 <= block_bits <= 16:
            raise extent.damaged(f"its superblock names blocks of 2^{block_bits} bytes")
        if features & ~_KNOWN_FEATURES:
            raise FileSystemError(f"{extent.name} has an erofs of a newer kind (features {features:#x}).")
        self._block_bytes = 1 << block_bits
        if blocks << block_bits > extent.size:
            raise extent.damaged(f"it should have {blocks << block_bits} bytes and has {extent.size}")
        extent.size = blocks << block_bits
        self._meta = meta << block_bits
        self._top = self._node(root)
        if not stat.S_ISDIR(self._top.mode):
            raise extent.damaged("its root is not a directory")

    def _root(self) -> _Inode:
        return self._top

    def _node(self, reference: int) -> _Inode:
        offset = self._meta + reference * _SLOT_BYTES
        (head,) = struct.unpack("<H", self._extent.read(offset, 2))
        layout = head >> 1 & 7
        if head >> 4:
            raise self._extent.damaged(f"inode {reference} has the unknown format {head:#x}")
        form = _EXTENDED if head & 1 else _COMPACT
        attributes, mode, size, block = form.unpack(self._extent.read(offset, form.size))
        offset += form.size
        if attributes:
            offset += _XATTR_HEADER_BYTES + (attributes - 1) * _XATTR_ENTRY_BYTES
        return _Inode(reference, mode, size, layout, block, offset)

    def _content(self, node: _Inode) -> bytes:
        if node.layout not in (_FLAT_PLAIN, _FLAT_INLINE):
            raise FileSystemError(
                f"{self._extent.name} stores files compressed or in chunks, which cannot be checked; build "
                "the image with an uncompressed erofs."
            )
        tail = 0
        if node.layout == _FLAT_INLINE:
            tail = node.size % self._block_bytes
            if node.offset % self._block_bytes + tail > self._block_bytes:
                raise self._extent.damaged(f"the data of inode {node.number} crosses a block")
        flat = b""
        if node.size > tail:
            flat = self._extent.read(node.block * self._block_bytes, node.size - tail)
        return flat + self._extent.read(node.offset, tail) if tail else flat

    def _entries(self, node: _Inode) -> Iterator[tuple[bytes, int]]:
        """A directory is a row of blocks, each with its own entries and names."""
        data = self._content(node)
        for start in range(0, len(data), self._block_bytes):
            yield from self._block_entries(node.number, data[start : start + self._block_bytes])

    def _block_entries(self, directory: int, block: bytes) -> Iterator[tuple[bytes, int]]:
        first = _ENTRY.unpack_from(block)[1] if len(block) >= _ENTRY.size else 0
        if first % _ENTRY.size or not _ENTRY.size <= first <= len(block):
            raise self._extent.damaged(f"directory {directory} has no entries where they should be")
        entries = [_ENTRY.unpack_from(block, place) for place in range(0, first, _ENTRY.size)]
        ends = [entry[1] for entry in entries[1:]] + [len(block)]
        for (number, begin, _, _), end in zip(entries, ends, strict=True):
            if not begin < end <= len(block):
                raise self._extent.damaged(f"directory {directory} has an entry without a proper name")
            yield block[begin:end].split(b"\0", 1)[0], number
