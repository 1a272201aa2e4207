# SPDX-License-Identifier: Apache-2.0
"""The hashes in a dm-verity tree, each proven by the root hash before it is used.

Layout (cryptsetup's "DMVerity" on-disk format, version 1; see common.image.verity for what is accepted): one
block of superblock, then the levels of the tree from the top, which is a single block, down to the leaves. A
block holds the SHA-256 of 128 blocks of the level below, or of the data; the rest of a level's last block is
zero. Only one block of each level is in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256

from common.errors import AgentError
from common.image import verity
from common.image.errors import NotAnImage, misbuilt

HASH_BYTES = 32
_PER_BLOCK = verity.BLOCK_BYTES // HASH_BYTES


class HashTree:
    """Tree at `offset` of a file or device that is open as `fd`; nothing of it is trusted but `root_hash`.

    blocks: data blocks of 4096 bytes that it covers. size_bytes: of the tree itself, with its superblock.
    For one thread at a time. Raises NotAnImage if it is no such tree or not that of `root_hash` (64 hex
    digits), else AgentError.
    """

    def __init__(self, fd: int, offset: int, *, root_hash: str, name: str) -> None:
        self._fd, self._offset, self._name = fd, offset, name
        found = verity.read(self._read(0, verity.HEAD_BYTES), name=name)
        if found.root_hash != root_hash.lower():
            raise misbuilt(name, "the root hash of its hash tree is not the one that was signed")
        self.blocks = found.data_bytes // verity.BLOCK_BYTES
        self._root = bytes.fromhex(found.root_hash)
        counts = []
        below = self.blocks
        while below > 1:
            below = -(-below // _PER_BLOCK)
            counts.append(below)
        self.size_bytes = (1 + sum(counts)) * verity.BLOCK_BYTES
        self._begins = [(1 + sum(counts[level + 1 :])) * verity.BLOCK_BYTES for level in range(len(counts))]
        self._proven: list[tuple[int, bytes]] = [(-1, b"")] * len(counts)

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
        found = []
        end = first + count
        while first < end:
            index, begin = divmod(first, _PER_BLOCK)
            stop = min(_PER_BLOCK, begin + end - first)
            found.append(self._block(0, index)[begin * HASH_BYTES : stop * HASH_BYTES])
            first += stop - begin
        return b"".join(found)

    def __iter__(self) -> Iterator[bytes]:
        """The hash of each data block, in order."""
        for first in range(0, self.blocks, _PER_BLOCK):
            some = self.leaves(first, min(_PER_BLOCK, self.blocks - first))
            for at in range(0, len(some), HASH_BYTES):
                yield some[at : at + HASH_BYTES]

    def prove(self) -> None:
        """Check every block of the tree. Raises NotAnImage, AgentError."""
        for first in range(0, self.blocks, _PER_BLOCK):
            self.leaf(first)

    def _block(self, level: int, index: int) -> bytes:
        """A block of a level, counted from the leaves, proven by those above it."""
        known, data = self._proven[level]
        if known == index:
            return data
        if level + 1 == len(self._proven):
            expected = self._root
        else:
            above, at = divmod(index, _PER_BLOCK)
            expected = self._block(level + 1, above)[at * HASH_BYTES : (at + 1) * HASH_BYTES]
        offset = self._begins[level] + index * verity.BLOCK_BYTES
        data = self._read(offset, verity.BLOCK_BYTES)
        if sha256(data).digest() != expected:
            raise misbuilt(self._name, f"its hash tree contradicts itself at byte {offset}")
        self._proven[level] = (index, data)
        return data

    def _read(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, self._offset + offset)
        except OSError as error:
            raise AgentError(
                f"{self._name} cannot be read at byte {self._offset + offset}: {error.strerror}."
            ) from error
        if len(data) != size:
            raise NotAnImage(
                f"{self._name} is damaged: its hash tree ends early; copy or download it again."
            )
        return data
