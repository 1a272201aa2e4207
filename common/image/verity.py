# SPDX-License-Identifier: Apache-2.0
"""The hash tree of dm-verity: superblock and root hash.

Format: cryptsetup's "DMVerity" on-disk format, version 1. The superblock fills the first hash block, the top
of the tree is the second one; without a salt the root hash is the SHA-256 of that top block.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from common.image.errors import misbuilt

BLOCK_BYTES = 4096
HEAD_BYTES = 2 * BLOCK_BYTES
"""As much of a tree partition as `read` needs."""

SUPERBLOCK_BYTES = 512

_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s")


@dataclass(frozen=True, slots=True)
class Tree:
    """What a tree partition says: bytes of data that it covers, and its root hash (64 hex digits)."""

    data_bytes: int
    root_hash: str


def read(head: bytes, *, name: str) -> Tree:
    """Tree whose partition begins with `head` (HEAD_BYTES long). Raises NotAnImage."""
    blocks = covered_blocks(head if len(head) >= HEAD_BYTES else b"", name=name)
    root_hash = hashlib.sha256(head[BLOCK_BYTES:HEAD_BYTES]).hexdigest()
    return Tree(blocks * BLOCK_BYTES, root_hash)


def covered_blocks(superblock: bytes, *, name: str) -> int:
    """Number of data blocks, from what begins with a superblock (SUPERBLOCK_BYTES long).

    Raises NotAnImage if the tree is of a kind that is not accepted.
    """
    if len(superblock) < SUPERBLOCK_BYTES or superblock[:8] != b"verity\0\0":
        raise misbuilt(name, "its root-verity partition holds no dm-verity hash tree")
    _, version, kind, _, algorithm, data_block, hash_block, blocks, salt_size, _ = _SUPERBLOCK.unpack_from(
        superblock
    )
    if (version, kind, algorithm.rstrip(b"\0"), data_block, hash_block, salt_size) != (
        1,
        1,
        b"sha256",
        BLOCK_BYTES,
        BLOCK_BYTES,
        0,
    ):
        raise misbuilt(
            name, "its hash tree must be dm-verity 1 with sha256, blocks of 4096 bytes and no salt"
        )
    if not 1 < blocks < 1 << 40:
        raise misbuilt(name, f"its hash tree covers {blocks} blocks, which is impossible")
    return int(blocks)
