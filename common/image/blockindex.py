# SPDX-License-Identifier: Apache-2.0
"""The block index of a release: for each block of the root partition the start of its hash.

It tells a machine which blocks its slots hold already, at a quarter of the size of the hash tree, and it
tells an install whose blocks come from anywhere what to expect; what proves the result is the root hash (or
the SHA-256 of the root partition) in the signed manifest.

Layout: MAGIC, the number of blocks (64 bits, little-endian), the 512 bytes of the dm-verity superblock
(zeros for an image without hash tree), then the first 8 bytes of the SHA-256 of each block of 4096 bytes.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from common.errors import AgentError
from common.image import verity
from common.image.errors import misbuilt

MAGIC: Final = b"HYPRIDX1"
WIDTH: Final = 8
HASH_BYTES: Final = 32

_HEAD: Final = struct.Struct(f"<8sQ{verity.SUPERBLOCK_BYTES}s")
HEAD_BYTES: Final = _HEAD.size
_PIECE_BYTES: Final = 1 << 20


def render(superblock: bytes, leaves: Iterable[bytes]) -> Iterator[bytes]:
    """An index in pieces; superblock: 512 bytes, leaves: whole SHA-256 hashes, one or more in each item."""
    prefixes = array("Q")
    for item in leaves:
        words = array("Q")
        words.frombytes(item)
        prefixes.extend(words[:: HASH_BYTES // WIDTH])
    yield _HEAD.pack(MAGIC, len(prefixes), superblock)
    view = memoryview(prefixes).cast("B")
    for at in range(0, len(view), _PIECE_BYTES):
        yield bytes(view[at : at + _PIECE_BYTES])


def size_bytes(blocks: int) -> int:
    """Of the index of so many blocks."""
    return HEAD_BYTES + blocks * WIDTH


class BlockIndex:
    """The index that is all of a file of `size_bytes`, open as `fd`; only what is asked for is in memory.

    superblock: 512 bytes, all zero for an image without hash tree. Raises NotAnImage, AgentError.
    """

    width = WIDTH

    def __init__(self, fd: int, size_bytes: int, *, name: str) -> None:
        self._fd, self._name = fd, name
        if size_bytes < HEAD_BYTES:
            raise misbuilt(name, "its block index is too short")
        magic, self.blocks, self.superblock = _HEAD.unpack(self._read(0, HEAD_BYTES))
        if magic != MAGIC or HEAD_BYTES + self.blocks * WIDTH != size_bytes:
            raise misbuilt(name, "what it calls its block index is none")
        if any(self.superblock) and verity.covered_blocks(self.superblock, name=name) != self.blocks:
            raise misbuilt(name, "its block index and its hash tree have different numbers of blocks")

    def leaves(self, first: int, count: int) -> bytes:
        """The first 8 bytes of the hashes of `count` blocks. Raises NotAnImage, AgentError."""
        if first < 0 or count < 0 or first + count > self.blocks:
            raise misbuilt(
                self._name, f"its block index has {self.blocks} blocks and not block {first + count}"
            )
        return self._read(HEAD_BYTES + first * WIDTH, count * WIDTH)

    def _read(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, offset)
        except OSError as error:
            raise AgentError(
                f"The block index of {self._name} cannot be read at byte {offset}: {error.strerror}."
            ) from error
        if len(data) != size:
            raise misbuilt(self._name, "its block index ends early")
        return data
