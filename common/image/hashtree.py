# SPDX-License-Identifier: Apache-2.0
"""The hashes in a dm-verity tree: proven by the root hash, merely read from a slot, or made from the hashes
of the data blocks.

Layout (cryptsetup's "DMVerity" on-disk format, version 1; see common.image.verity for what is accepted): one
block of superblock, then the levels of the tree from the top, which is a single block, down to the leaves. A
block holds the SHA-256 of 128 blocks of the level below, or of the data; the rest of a level's last block is
zero. What is in memory at a time is small, however large the tree.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from common import files
from common.errors import AgentError
from common.image import verity
from common.image.errors import NotAnImage, misbuilt

HASH_BYTES = 32
_BLOCK = verity.BLOCK_BYTES
_PER_BLOCK = _BLOCK // HASH_BYTES
_NO_HASH = bytes(HASH_BYTES)


class Hashes(Protocol):
    """SHA-256 of each block of 4096 bytes, or the first `width` bytes of it (0: they are not known)."""

    @property
    def width(self) -> int: ...

    @property
    def blocks(self) -> int: ...

    def leaves(self, first: int, count: int) -> bytes:
        """`width` bytes for each of `count` blocks, one after the other. Raises AgentError."""


class Unknown:
    """Blocks of which nothing is known."""

    width = 0

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    def leaves(self, first: int, count: int) -> bytes:
        return b""


class _Levels:
    """Where the blocks of a tree are; level 0 are the leaves."""

    def __init__(self, blocks: int) -> None:
        self.counts = []
        below = blocks
        while below > 1:
            below = -(-below // _PER_BLOCK)
            self.counts.append(below)
        self.begins = [(1 + sum(self.counts[level + 1 :])) * _BLOCK for level in range(len(self.counts))]
        self.size_bytes = (1 + sum(self.counts)) * _BLOCK


class HashTree:
    """Tree at `offset` of a file or device that is open as `fd`; nothing of it is trusted but `root_hash`.

    blocks: data blocks of 4096 bytes that it covers. size_bytes: of the tree itself, with its superblock.
    For one thread at a time. Raises NotAnImage if it is no such tree or not that of `root_hash` (64 hex
    digits), else AgentError.
    """

    width = HASH_BYTES

    def __init__(self, fd: int, offset: int, *, root_hash: str, name: str) -> None:
        self._fd, self._offset, self._name = fd, offset, name
        found = verity.read(self._read(0, verity.HEAD_BYTES), name=name)
        if found.root_hash != root_hash.lower():
            raise misbuilt(name, "the root hash of its hash tree is not the one that was signed")
        self.blocks = found.data_bytes // _BLOCK
        self._root = bytes.fromhex(found.root_hash)
        self._levels = _Levels(self.blocks)
        self.size_bytes = self._levels.size_bytes
        self._proven: list[tuple[int, bytes]] = [(-1, b"")] * len(self._levels.counts)

    def leaf(self, block: int) -> bytes:
        """SHA-256 (32 bytes) of a data block. Raises NotAnImage if it does not lead to the root hash."""
        return self.leaves(block, 1)

    def leaves(self, first: int, count: int) -> bytes:
        """The hashes of `count` data blocks, one after the other. Raises NotAnImage, AgentError.

        Asking for blocks that the tree does not cover is an error of its data: NotAnImage.
        """
        if first < 0 or count < 0 or first + count > self.blocks:
            raise misbuilt(
                self._name, f"its hash tree covers {self.blocks} blocks and not block {first + count}"
            )
        if not count:
            return b""
        end = first + count
        index, last = first // _PER_BLOCK, -(-end // _PER_BLOCK)
        begin = (first - index * _PER_BLOCK) * HASH_BYTES
        found = []
        while index < last:
            stop = min(last, index - index % _PER_BLOCK + _PER_BLOCK)  # those below one block of level 1
            found.append(self._blocks(0, index, stop))
            index = stop
        whole = found[0] if len(found) == 1 else b"".join(found)
        return whole[begin : begin + count * HASH_BYTES]

    def __iter__(self) -> Iterator[bytes]:
        """The hash of each data block, in order."""
        for first in range(0, self.blocks, _PER_BLOCK):
            some = self.leaves(first, min(_PER_BLOCK, self.blocks - first))
            for at in range(0, len(some), HASH_BYTES):
                yield some[at : at + HASH_BYTES]

    def prove(self) -> None:
        """Check every block of the tree. Raises NotAnImage, AgentError."""
        step = _PER_BLOCK * _PER_BLOCK
        for first in range(0, self.blocks, step):
            self.leaves(first, min(step, self.blocks - first))

    def _blocks(self, level: int, index: int, stop: int) -> bytes:
        """Blocks of a level that lie below one block of the next, proven by those above them."""
        known, data = self._proven[level]
        if known == index and stop == index + 1:
            return data
        if level + 1 == len(self._proven):
            expected = self._root
        else:
            above, at = divmod(index, _PER_BLOCK)
            hashes = self._blocks(level + 1, above, above + 1)
            expected = hashes[at * HASH_BYTES : (at + stop - index) * HASH_BYTES]
        offset = self._levels.begins[level] + index * _BLOCK
        data = self._read(offset, (stop - index) * _BLOCK)
        found = _hashes_of(data)
        if found != expected:
            at = offset + _first_wrong(found, expected) * _BLOCK
            raise misbuilt(self._name, f"its hash tree contradicts itself at byte {at}")
        if level == 0 and stop == self._levels.counts[0]:
            self._require_end(data[-_BLOCK:])
        self._proven[level] = (stop - 1, data[-_BLOCK:])
        return data

    def _require_end(self, last: bytes) -> None:
        """The last hash must be in its place: the root hash then proves the number of blocks, too."""
        end = ((self.blocks - 1) % _PER_BLOCK + 1) * HASH_BYTES
        if last[end - HASH_BYTES : end] == _NO_HASH or any(last[end:]):
            raise misbuilt(self._name, f"its hash tree does not end with block {self.blocks - 1}")

    def _read(self, offset: int, size: int) -> bytes:
        try:
            data = files.read_at(self._fd, size, self._offset + offset)
        except OSError as error:
            raise AgentError(
                f"{self._name} cannot be read at byte {self._offset + offset}: {error.strerror}."
            ) from error
        if len(data) != size:
            raise NotAnImage(
                f"{self._name} is damaged: its hash tree ends early; copy or download it again."
            )
        return data


class RawTree:
    """The tree that a slot's tree partition seems to hold, open as `fd`: good for proposals only.

    root_hash: of its top block, 64 hex digits. Leaves that cannot be read are all zero, which no block's
    hash is. Raises NotAnImage if there is no tree or it does not fit the partition, AgentError.
    """

    width = HASH_BYTES

    def __init__(self, fd: int, *, name: str) -> None:
        self._fd = fd
        try:
            head = os.pread(fd, verity.HEAD_BYTES, 0)
            room_bytes = os.lseek(fd, 0, os.SEEK_END)
        except OSError as error:
            raise AgentError(f"{name} cannot be read: {error.strerror}.") from error
        found = verity.read(head, name=name)
        self.root_hash = found.root_hash
        self.blocks = found.data_bytes // _BLOCK
        levels = _Levels(self.blocks)
        if levels.size_bytes > room_bytes:
            raise misbuilt(name, "its hash tree is larger than its partition")
        self._begin = levels.begins[0]

    def leaves(self, first: int, count: int) -> bytes:
        """The hashes of `count` data blocks; `first` and `count` may go beyond what there is."""
        size = count * HASH_BYTES
        there = max(0, min(count, self.blocks - first)) * HASH_BYTES
        try:
            data = os.pread(self._fd, there, self._begin + first * HASH_BYTES)
        except OSError:
            data = b""
        return data if len(data) == size else data.ljust(size, b"\0")

    def close(self) -> None:
        os.close(self._fd)


def open_raw(path: Path) -> RawTree | None:
    """The tree in a slot's tree partition, to be closed by the caller; None if there is none to read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return RawTree(fd, name=str(path))
    except AgentError:
        os.close(fd)
        return None


class TreeBuilder:
    """Makes the file `path`, which must not exist: the tree of `blocks` data blocks under a superblock.

    superblock: its 512 bytes, which settle all but the hashes. The file is the same as veritysetup(8) makes,
    byte for byte. Raises NotAnImage if superblock and blocks do not fit together, AgentError.
    """

    def __init__(self, path: Path, blocks: int, superblock: bytes) -> None:
        if verity.covered_blocks(superblock, name=path.name) != blocks:
            raise misbuilt(path.name, f"the superblock of its hash tree is not for {blocks} blocks")
        self.size_bytes = _Levels(blocks).size_bytes
        self._path, self._blocks, self._levels = path, blocks, _Levels(blocks)
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._failure(error) from error
        self._write(superblock[: verity.SUPERBLOCK_BYTES], 0)

    def put(self, first_block: int, leaves: bytes) -> None:
        """The hashes of blocks from `first_block` on, in any order and by any thread."""
        if first_block < 0 or first_block + len(leaves) // HASH_BYTES > self._blocks:
            raise misbuilt(self._path.name, f"it has no hash of block {first_block}")
        self._write(leaves, self._levels.begins[0] + first_block * HASH_BYTES)

    def finish(self) -> str:
        """Build the levels above the leaves and close the file; the root hash as 64 hex digits.

        Raises AgentError if the hash of a block did not come.
        """
        below = self._blocks
        root = b""
        for level, count in enumerate(self._levels.counts):
            whole = below * HASH_BYTES
            for at in range(0, count * _BLOCK, _PER_BLOCK * _BLOCK):
                data = self._read(at, min(whole - at, _PER_BLOCK * _BLOCK), level)
                data += bytes(-len(data) % _BLOCK)
                root = _hashes_of(data)
                if level + 1 < len(self._levels.counts):
                    self._write(root, self._levels.begins[level + 1] + at // _BLOCK * HASH_BYTES)
            below = count
        try:
            os.ftruncate(self._fd, self.size_bytes)
        except OSError as error:
            raise self._failure(error) from error
        self.close()
        return root.hex()

    def close(self) -> None:
        """Leave the file as it is; not needed after `finish`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self, at: int, size: int, level: int) -> bytes:
        try:
            data = os.pread(self._fd, size, self._levels.begins[level] + at)
        except OSError as error:
            raise self._failure(error) from error
        if len(data) != size or _NO_HASH in data:
            raise AgentError(f"The hash tree {self._path.name} lacks the hash of a block; try again.")
        return data

    def _write(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        try:
            while view:
                count = os.pwrite(self._fd, view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> AgentError:
        return AgentError(f"{self._path} cannot be written: {error.strerror}; check the disk.")


def _hashes_of(data: bytes) -> bytes:
    """The SHA-256 of each whole block."""
    view = memoryview(data)
    return b"".join([sha256(view[at : at + _BLOCK]).digest() for at in range(0, len(view), _BLOCK)])


def _first_wrong(found: bytes, expected: bytes) -> int:
    """Number of the first hash that differs."""
    return next(
        at // HASH_BYTES
        for at in range(0, len(expected), HASH_BYTES)
        if found[at : at + HASH_BYTES] != expected[at : at + HASH_BYTES]
    )
