# SPDX-License-Identifier: Apache-2.0
"""Bounded reader of squashfs 4.0 file systems, in files and on block devices.

Knows directories, symbolic links and regular files, stored as they are or compressed with zlib or zstd.
Format: "Squashfs Binary Format" (https://dr-emann.github.io/squashfs/squashfs.html) and the kernel's
fs/squashfs/squashfs_fs.h.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import zstandard

from common import filesystem
from common.filesystem import Extent, FileSystemError

MAGIC_OFFSET = 0
MAGIC = b"hsqs"
COMPRESSOR_OFFSET = 20

# magic, block bytes, fragments, compressor, version, root, bytes used; inode, directory, fragment table
_SUPERBLOCK = struct.Struct("<4s8xIIH6xHHQQ16xQQQ8x")
_ZLIB, _ZSTD = 1, 6
_METADATA_BYTES = 8192  # unpacked, of all blocks of a table but the last
_PLAIN_METADATA = 0x8000
_PLAIN_DATA = 1 << 24
_MAX_BLOCK_BYTES = 1 << 20
_CACHED_BLOCKS = 32
_NO_FRAGMENT = 0xFFFFFFFF
_FRAGMENT = struct.Struct("<QI4x")
_FRAGMENTS_PER_BLOCK = _METADATA_BYTES // _FRAGMENT.size

_INODE = struct.Struct("<HH12x")
_DIRECTORY, _LONG_DIRECTORY = struct.Struct("<I4xHH4x"), struct.Struct("<4xIII2xH4x")
_FILE, _LONG_FILE = struct.Struct("<IIII"), struct.Struct("<QQ12xII4x")
_LINK = struct.Struct("<4xI")
_ENTRY_HEAD = struct.Struct("<III")
_ENTRY = struct.Struct("<H4xH")
_DOTS_BYTES = 3  # what '.' and '..' add to the size of a directory without being in it
# By type of inode; the wide forms follow in the same order.
_KINDS = (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK)


class _Cursor:
    """A place in a table of packed blocks: where its block begins, and the offset in that, unpacked."""

    def __init__(self, files: FileSystem, block: int, offset: int) -> None:
        self.block = block
        self.offset = offset
        self._files = files

    def read(self, size: int) -> bytes:
        parts = b""
        while True:
            data, following = self._files.metadata(self.block)
            part = data[self.offset : self.offset + size - len(parts)]
            parts += part
            self.offset += len(part)
            if len(parts) == size:
                return parts
            if self.offset != _METADATA_BYTES:
                raise self._files.damaged("a table ends early")
            self.block, self.offset = following, 0


@dataclass(frozen=True, slots=True)
class _Inode:
    """place: of a file's blocks in the file system, or of a directory in its table (block, offset).

    tail: fragment that holds the end of a file, and where in it. rest: what follows the inode in its table,
    the sizes of a file's blocks or the target of a link.
    """

    mode: int
    size: int
    place: tuple[int, int]
    tail: tuple[int, int]
    rest: tuple[int, int]


class FileSystem(filesystem.FileSystem[_Inode]):
    """The squashfs in an extent. Raises FileSystemError if there is none."""

    def __init__(self, extent: Extent) -> None:
        super().__init__(extent)
        raw = extent.read(0, _SUPERBLOCK.size)
        magic, block, fragments, compressor, major, minor, root, used, *tables = _SUPERBLOCK.unpack(raw)
        if magic != MAGIC:
            raise FileSystemError(f"{extent.name} holds no squashfs file system.")
        if (major, minor) != (4, 0) or compressor not in (_ZLIB, _ZSTD):
            raise FileSystemError(
                f"{extent.name} has a squashfs of another kind than version 4.0 with zlib or zstd, which "
                "cannot be checked; build the image with hypernet-image."
            )
        if not 4096 <= block <= _MAX_BLOCK_BYTES:
            raise extent.damaged(f"its superblock names blocks of {block} bytes")
        if used > extent.size:
            raise extent.damaged(f"it should have {used} bytes and has {extent.size}")
        extent.size = used
        self._zstd = compressor == _ZSTD
        self._block_bytes = block
        self._fragment_count = fragments
        self._inodes, self._directories, self._fragments = tables
        self._cache: dict[int, tuple[bytes, int]] = {}
        self._top = self._node(root)
        if not stat.S_ISDIR(self._top.mode):
            raise extent.damaged("its root is not a directory")

    def damaged(self, why: str) -> FileSystemError:
        return self._extent.damaged(why)

    def metadata(self, place: int) -> tuple[bytes, int]:
        """The unpacked block of a table at `place`, and where the next one begins."""
        self._extent.spend(0)
        if place not in self._cache:
            if len(self._cache) == _CACHED_BLOCKS:
                del self._cache[next(iter(self._cache))]
            (word,) = struct.unpack("<H", self._extent.read(place, 2))
            size = word & ~_PLAIN_METADATA or _PLAIN_METADATA
            raw = self._extent.read(place + 2, size)
            data = raw if word & _PLAIN_METADATA else self._unpacked(raw, _METADATA_BYTES)
            if len(data) > _METADATA_BYTES:
                raise self.damaged(f"the table at byte {place} has a block of {len(data)} bytes")
            self._cache[place] = data, place + 2 + size
        return self._cache[place]

    def _root(self) -> _Inode:
        return self._top

    def _node(self, reference: int) -> _Inode:
        cursor = _Cursor(self, self._inodes + (reference >> 16), reference & 0xFFFF)
        number, permissions = _INODE.unpack(cursor.read(_INODE.size))
        if not 1 <= number <= 2 * len(_KINDS):
            raise self.damaged(f"an inode has the unknown type {number}")
        wide, kind = divmod(number - 1, len(_KINDS))
        mode = _KINDS[kind] | permissions & 0o7777
        size, place, tail = 0, (0, 0), (_NO_FRAGMENT, 0)
        if stat.S_ISDIR(mode) and wide:
            size, block, _, offset = _LONG_DIRECTORY.unpack(cursor.read(_LONG_DIRECTORY.size))
            size, place = max(size - _DOTS_BYTES, 0), (block, offset)
        elif stat.S_ISDIR(mode):
            block, size, offset = _DIRECTORY.unpack(cursor.read(_DIRECTORY.size))
            size, place = max(size - _DOTS_BYTES, 0), (block, offset)
        elif stat.S_ISREG(mode) and wide:
            start, size, *fragment = _LONG_FILE.unpack(cursor.read(_LONG_FILE.size))
            place, tail = (start, 0), (fragment[0], fragment[1])
        elif stat.S_ISREG(mode):
            start, *fragment, size = _FILE.unpack(cursor.read(_FILE.size))
            place, tail = (start, 0), (fragment[0], fragment[1])
        elif stat.S_ISLNK(mode):
            (size,) = _LINK.unpack(cursor.read(_LINK.size))
        return _Inode(mode, size, place, tail, (cursor.block, cursor.offset))

    def _content(self, node: _Inode) -> bytes:
        cursor = _Cursor(self, *node.rest)
        if stat.S_ISLNK(node.mode):
            return cursor.read(node.size)
        place, _ = node.place
        parts = []
        left = node.size
        while left > 0 if node.tail[0] == _NO_FRAGMENT else left >= self._block_bytes:
            (word,) = struct.unpack("<I", cursor.read(4))
            expected = min(left, self._block_bytes)
            parts.append(self._block(place, word, expected))
            place += word & ~_PLAIN_DATA
            left -= expected
        if left:
            parts.append(self._fragment(node.tail, left))
        return b"".join(parts)

    def _block(self, place: int, word: int, expected: int) -> bytes:
        """A block of data of `expected` bytes, by its place and the word that tells how it is stored."""
        size = word & ~_PLAIN_DATA
        if not size:
            return bytes(expected)
        if size > self._block_bytes:
            raise self.damaged(f"the block at byte {place} has {size} bytes")
        raw = self._extent.read(place, size)
        data = raw if word & _PLAIN_DATA else self._unpacked(raw, self._block_bytes)
        if len(data) < expected:
            raise self.damaged(f"the block at byte {place} is too short")
        return data[:expected]

    def _fragment(self, tail: tuple[int, int], size: int) -> bytes:
        number, offset = tail
        if number >= self._fragment_count or offset + size > self._block_bytes:
            raise self.damaged(f"it refers to fragment {number} of {self._fragment_count}")
        index, entry = divmod(number, _FRAGMENTS_PER_BLOCK)
        (table,) = struct.unpack("<Q", self._extent.read(self._fragments + 8 * index, 8))
        raw = _Cursor(self, table, entry * _FRAGMENT.size).read(_FRAGMENT.size)
        place, word = _FRAGMENT.unpack(raw)
        return self._block(place, word, offset + size)[offset:]

    def _entries(self, node: _Inode) -> Iterator[tuple[bytes, int]]:
        block, offset = node.place
        cursor = _Cursor(self, self._directories + block, offset)
        left = node.size
        while left > 0:
            count, inodes, _ = _ENTRY_HEAD.unpack(cursor.read(_ENTRY_HEAD.size))
            left -= _ENTRY_HEAD.size
            for _ in range(count + 1):
                if left <= 0:
                    raise self.damaged("a directory ends early")
                place, length = _ENTRY.unpack(cursor.read(_ENTRY.size))
                left -= _ENTRY.size + length + 1
                yield cursor.read(length + 1), inodes << 16 | place

    def _unpacked(self, raw: bytes, max_bytes: int) -> bytes:
        self._extent.spend(max_bytes)
        try:
            if self._zstd:
                unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_BLOCK_BYTES)
                data = unpacker.stream_reader(raw).read(max_bytes + 1)
            else:
                data = zlib.decompressobj().decompress(raw, max_bytes + 1)
        except (zlib.error, zstandard.ZstdError) as error:
            raise self.damaged(f"a block cannot be unpacked ({error})") from error
        if len(data) > max_bytes:
            raise self.damaged(f"a block unpacks to more than {max_bytes} bytes")
        return data
