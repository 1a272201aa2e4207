# SPDX-License-Identifier: Apache-2.0
"""Bounded reader of ext4 file systems as `hypernet-image build` makes them, in files and on block devices.

Knows directories (indexed ones can be read in a row, too), symbolic links, and files that are stored in
extents. Format: "ext4 Data Structures and Algorithms" in the documentation of the Linux kernel
(https://www.kernel.org/doc/html/latest/filesystems/ext4/).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from common import filesystem
from common.filesystem import Extent, FileSystemError

SUPERBLOCK_OFFSET = 1024
MAGIC_OFFSET = SUPERBLOCK_OFFSET + 56
MAGIC = bytes.fromhex("53ef")
FEATURES_OFFSET = 96
"""Of the incompatible features in the superblock."""

_SUPERBLOCK_BYTES = 1024
_INODE = struct.Struct("<H2xI24xI4x60s8xI")  # mode, size, flags, block map, upper half of the size
_MAP_BYTES = 60
_ENTRY = struct.Struct("<IHBB")
_EXTENT_HEAD = struct.Struct("<HHHHI")
_EXTENT = struct.Struct("<IHHI")
_INDEX = struct.Struct("<IIHH")
_EXTENT_MAGIC = 0xF30A
_UNWRITTEN = 32768  # longer extents are reserved space that reads as zeros
_MAX_DEPTH = 5
_ROOT = 2
_HAS_EXTENTS = 0x80000
_WIDE = 0x80
# Incompatible features: types in directories, extents, 64 bit, flexible groups, a checksum seed of its own.
_KNOWN_FEATURES = 0x2 | 0x40 | _WIDE | 0x200 | 0x2000


@dataclass(frozen=True, slots=True)
class _Inode:
    """map: what tells where the content lies, or the target of a short symbolic link."""

    number: int
    mode: int
    size: int
    flags: int
    map: bytes


class FileSystem(filesystem.FileSystem[_Inode]):
    """The ext4 in an extent. Raises FileSystemError if there is none."""

    def __init__(self, extent: Extent) -> None:
        super().__init__(extent)
        raw = extent.read(SUPERBLOCK_OFFSET, _SUPERBLOCK_BYTES)

        def field(form: str, offset: int) -> int:
            (value,) = struct.unpack_from(form, raw, offset)
            return int(value)

        if raw[56:58] != MAGIC:
            raise FileSystemError(f"{extent.name} holds no ext4 file system.")
        features = field("<I", FEATURES_OFFSET)
        if features & ~_KNOWN_FEATURES:
            raise FileSystemError(
                f"{extent.name} has an ext4 of another kind than hypernet-image makes (features "
                f"{features:#x}), which cannot be checked; build the image again."
            )
        wide = bool(features & _WIDE)
        self._block_bytes = 1024 << field("<I", 24) if field("<I", 24) <= 6 else 0
        self._inode_bytes = field("<H", 88)
        self._per_group = field("<I", 40)
        self._inodes = field("<I", 0)
        self._group_bytes = field("<H", 254) if wide else 32
        if not self._block_bytes or not 128 <= self._inode_bytes <= self._block_bytes or not self._per_group:
            raise extent.damaged("its superblock names absurd sizes")
        if not 32 <= self._group_bytes <= 1024 or (wide and self._group_bytes < 64):
            raise extent.damaged("its superblock names absurd group descriptors")
        self._wide = wide
        self._groups = (field("<I", 20) + 1) * self._block_bytes
        size = (field("<I", 4) | (field("<I", 336) << 32 if wide else 0)) * self._block_bytes
        if size > extent.size:
            raise extent.damaged(f"it should have {size} bytes and has {extent.size}")
        extent.size = size
        self._top = self._node(_ROOT)
        if not stat.S_ISDIR(self._top.mode):
            raise extent.damaged("its root is not a directory")

    def _root(self) -> _Inode:
        return self._top

    def _node(self, reference: int) -> _Inode:
        if not 0 < reference <= self._inodes:
            raise self._extent.damaged(f"it refers to inode {reference} of {self._inodes}")
        group, index = divmod(reference - 1, self._per_group)
        descriptor = self._extent.read(self._groups + group * self._group_bytes, self._group_bytes)
        (table,) = struct.unpack_from("<I", descriptor, 8)
        if self._wide:
            table |= struct.unpack_from("<I", descriptor, 40)[0] << 32
        offset = table * self._block_bytes + index * self._inode_bytes
        mode, low, flags, block_map, high = _INODE.unpack(self._extent.read(offset, _INODE.size))
        return _Inode(reference, mode, low | high << 32, flags, block_map)

    def _content(self, node: _Inode) -> bytes:
        if stat.S_ISLNK(node.mode) and node.size < _MAP_BYTES:
            return node.map[: node.size]
        if not node.flags & _HAS_EXTENTS:
            raise FileSystemError(
                f"{self._extent.name} stores files without extents, which cannot be checked; build the "
                "image with hypernet-image."
            )
        data = bytearray(node.size)
        end = 0
        for first, count, start in self._extents(node.number, node.map, _MAX_DEPTH):
            if first < end or not count:
                raise self._extent.damaged(f"the extents of inode {node.number} overlap")
            end = first + count
            place = first * self._block_bytes
            if place >= node.size:
                break
            if start is not None:
                size = min(count * self._block_bytes, node.size - place)
                data[place : place + size] = self._extent.read(start * self._block_bytes, size)
        return bytes(data)

    def _extents(self, number: int, raw: bytes, depth_left: int) -> Iterator[tuple[int, int, int | None]]:
        """(first block of the file, number of blocks, where they lie or None for zeros), in their order."""
        magic, count, _, depth, _ = _EXTENT_HEAD.unpack_from(raw)
        if magic != _EXTENT_MAGIC or depth > depth_left or (count + 1) * _EXTENT_HEAD.size > len(raw):
            raise self._extent.damaged(f"the extents of inode {number} are none")
        for place in range(_EXTENT_HEAD.size, (count + 1) * _EXTENT_HEAD.size, _EXTENT_HEAD.size):
            if depth:
                _, low, high, _ = _INDEX.unpack_from(raw, place)
                below = self._extent.read((low | high << 32) * self._block_bytes, self._block_bytes)
                yield from self._extents(number, below, depth - 1)
            else:
                first, length, high, low = _EXTENT.unpack_from(raw, place)
                if length > _UNWRITTEN:
                    yield first, length - _UNWRITTEN, None
                else:
                    yield first, length, low | high << 32

    def _entries(self, node: _Inode) -> Iterator[tuple[bytes, int]]:
        data = self._content(node)
        place = 0
        while place + _ENTRY.size <= len(data):
            number, length, name_bytes, _ = _ENTRY.unpack_from(data, place)
            if length < _ENTRY.size + name_bytes or place % self._block_bytes + length > self._block_bytes:
                raise self._extent.damaged(f"directory {node.number} has no entries where they should be")
            if number:  # else the room is free
                yield data[place + _ENTRY.size : place + _ENTRY.size + name_bytes], number
            place += length
