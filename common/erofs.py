# SPDX-License-Identifier: Apache-2.0
"""Bounded reader of uncompressed erofs file systems, in files and on block devices.

Reads the few files that tell what a system image is, without mounting it: directories, symbolic links, and
regular files in the flat layouts, plain or with their tail beside the inode. Nothing on the disk is trusted:
every length and offset is checked against the partition. Format: "EROFS ondisk format", chapter "core", in
the documentation of erofs (https://erofs.docs.kernel.org/en/latest/ondisk/core_ondisk.html).
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass

from common.errors import AgentError

MAGIC = 0xE0F5E1E2
SUPERBLOCK_OFFSET = 1024
MAX_DIRECTORY_BYTES = 4 << 20
MAX_LINKS = 40
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4096

# Of each, the fields that are needed; the others are passed over.
_SUPERBLOCK = struct.Struct("<I8xBxH20xII36xI")
_COMPACT = struct.Struct("<2xHH2xI4xI12x")
_EXTENDED = struct.Struct("<2xHH2xQI44x")
_ENTRY = struct.Struct("<QHBB")
_SLOT_BYTES = 32  # inodes are numbered in units of this
_XATTR_HEADER_BYTES, _XATTR_ENTRY_BYTES = 12, 4
_FLAT_PLAIN, _FLAT_INLINE = 0, 2
# Features that change how file data is stored, never where inodes and directories are; each inode says
# whether it uses them.
_KNOWN_FEATURES = 0x7F


class ErofsError(AgentError):
    """The file system is damaged, or stored in a way that this reader does not know."""


class NoSuchFile(ErofsError):
    """There is no such file in the file system, or it is of another kind."""


class FileTooLong(ErofsError):
    """The file has more bytes than were asked for."""


@dataclass(frozen=True, slots=True)
class _Inode:
    """offset: of the data behind inode and attributes (the tail of an inline file), in bytes."""

    number: int
    mode: int
    size: int
    layout: int
    block: int
    offset: int


class FileSystem:
    """An erofs in `size_bytes` bytes at `offset_bytes` of `fd`; `name` is used in errors.

    Paths are absolute; symbolic links are followed inside the file system, the last one, too. Every method
    raises ErofsError if what it needs is damaged or compressed. `fd` stays the caller's.
    """

    def __init__(self, fd: int, *, offset_bytes: int, size_bytes: int, name: str) -> None:
        self._fd = fd
        self._start = offset_bytes
        self._size = size_bytes
        self._name = name
        raw = self._pread(SUPERBLOCK_OFFSET, _SUPERBLOCK.size)
        magic, block_bits, root, blocks, meta, features = _SUPERBLOCK.unpack(raw)
        if magic != MAGIC:
            raise ErofsError(f"{name} holds no erofs file system.")
        if not 9 <= block_bits <= 16:
            raise self._damaged(f"its superblock names blocks of 2^{block_bits} bytes")
        if features & ~_KNOWN_FEATURES:
            raise ErofsError(f"{name} has an erofs of a newer kind (features {features:#x}).")
        self._block_bytes = 1 << block_bits
        if blocks << block_bits > size_bytes:
            raise self._damaged(f"it should have {blocks << block_bits} bytes and has {size_bytes}")
        self._size = blocks << block_bits
        self._meta = meta << block_bits
        self._root = self._inode(root)
        if not stat.S_ISDIR(self._root.mode):
            raise self._damaged("its root is not a directory")

    def exists(self, path: str) -> bool:
        """Whether the path leads to something (a dangling or endless symbolic link does not)."""
        return self._walk(path) is not None

    def read(self, path: str, max_bytes: int) -> bytes:
        """Content of a regular file. Raises NoSuchFile, FileTooLong, ErofsError."""
        inode = self._walk(path)
        if inode is None or not stat.S_ISREG(inode.mode):
            raise NoSuchFile(f"{self._name} has no file {path}.")
        if inode.size > max_bytes:
            raise FileTooLong(f"{path} has {inode.size} bytes, at most {max_bytes} are allowed.")
        return self._data(inode)

    def listdir(self, path: str) -> tuple[str, ...]:
        """Sorted names in a directory, without '.' and '..'; empty if there is no such directory."""
        inode = self._walk(path)
        if inode is None or not stat.S_ISDIR(inode.mode):
            return ()
        return tuple(sorted(name for name in self._entries(inode) if name not in (".", "..")))

    def _walk(self, path: str) -> _Inode | None:
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            return None
        trail = [self._root]
        todo = path.split("/")[::-1]
        links = 0
        while todo:
            name = todo.pop()
            here = trail[-1]
            if not stat.S_ISDIR(here.mode):
                return None
            if name in ("", "."):
                continue
            if name == "..":
                if len(trail) > 1:
                    trail.pop()
                continue
            number = self._entries(here).get(name)
            if number is None:
                return None
            inode = self._inode(number)
            if not stat.S_ISLNK(inode.mode):
                trail.append(inode)
                continue
            links += 1
            if links > MAX_LINKS or inode.size > MAX_PATH_BYTES:
                return None
            target = os.fsdecode(self._data(inode))
            if target.startswith("/"):
                trail = [self._root]
            todo += target.split("/")[::-1]
        return trail[-1]

    def _inode(self, number: int) -> _Inode:
        offset = self._meta + number * _SLOT_BYTES
        (head,) = struct.unpack("<H", self._pread(offset, 2))
        layout = head >> 1 & 7
        if head >> 4:
            raise self._damaged(f"inode {number} has the unknown format {head:#x}")
        form = _EXTENDED if head & 1 else _COMPACT
        attributes, mode, size, block = form.unpack(self._pread(offset, form.size))
        offset += form.size
        if attributes:
            offset += _XATTR_HEADER_BYTES + (attributes - 1) * _XATTR_ENTRY_BYTES
        return _Inode(number, mode, size, layout, block, offset)

    def _data(self, inode: _Inode) -> bytes:
        """All bytes of an inode, whose size the caller has checked against a limit of its own."""
        if inode.layout not in (_FLAT_PLAIN, _FLAT_INLINE):
            raise ErofsError(
                f"{self._name} stores files compressed or in chunks, which cannot be checked; build the "
                "image with an uncompressed erofs."
            )
        tail = 0
        if inode.layout == _FLAT_INLINE:
            tail = inode.size % self._block_bytes
            if inode.offset % self._block_bytes + tail > self._block_bytes:
                raise self._damaged(f"the data of inode {inode.number} crosses a block")
        flat = self._pread(inode.block * self._block_bytes, inode.size - tail) if inode.size > tail else b""
        return flat + self._pread(inode.offset, tail) if tail else flat

    def _entries(self, inode: _Inode) -> dict[str, int]:
        """Inode numbers by name. A directory is a row of blocks, each with its own entries and names."""
        if inode.size > MAX_DIRECTORY_BYTES:
            raise self._damaged(f"directory {inode.number} has {inode.size} bytes")
        data = self._data(inode)
        found: dict[str, int] = {}
        for start in range(0, len(data), self._block_bytes):
            self._block_entries(inode.number, data[start : start + self._block_bytes], found)
        return found

    def _block_entries(self, directory: int, block: bytes, found: dict[str, int]) -> None:
        first = _ENTRY.unpack_from(block)[1] if len(block) >= _ENTRY.size else 0
        if first % _ENTRY.size or not _ENTRY.size <= first <= len(block):
            raise self._damaged(f"directory {directory} has no entries where they should be")
        entries = [_ENTRY.unpack_from(block, place) for place in range(0, first, _ENTRY.size)]
        ends = [entry[1] for entry in entries[1:]] + [len(block)]
        for (number, begin, _, _), end in zip(entries, ends, strict=True):
            name = block[begin:end].split(b"\0", 1)[0]
            if not begin < end <= len(block) or not name or len(name) > MAX_NAME_BYTES or b"/" in name:
                raise self._damaged(f"directory {directory} has an entry without a proper name")
            found[os.fsdecode(name)] = number

    def _pread(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes, all of them inside the file system."""
        if offset + size > self._size:
            raise self._damaged(f"it refers to byte {offset + size} of {self._size}")
        try:
            raw = os.pread(self._fd, size, self._start + offset)
        except OSError as error:
            raise ErofsError(f"{self._name} cannot be read: {error.strerror}.") from error
        if len(raw) != size:
            raise self._damaged(f"it ends before byte {offset + size}")
        return raw

    def _damaged(self, why: str) -> ErofsError:
        return ErofsError(f"{self._name} has a damaged file system: {why}; get the image again.")
