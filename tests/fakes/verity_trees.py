# SPDX-License-Identifier: Apache-2.0
"""Hash trees made by veritysetup."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from common import process

BLOCK = 4096


@dataclass(frozen=True)
class Formatted:
    """Data, and the file with its tree."""

    data: bytes
    path: Path
    root_hash: str

    def leaf(self, block: int) -> bytes:
        return sha256(self.data[block * BLOCK : (block + 1) * BLOCK]).digest()

    def leaves(self) -> bytes:
        return b"".join(self.leaf(block) for block in range(len(self.data) // BLOCK))


def format_tree(folder: Path, data: bytes, *options: str) -> Formatted:
    """A tree beside its data in a folder; without options one as images have it."""
    payload, tree = folder / "data", folder / "tree"
    payload.write_bytes(data)
    answer = process.run(
        ["veritysetup", "format", *(options or ("--salt=-",)), str(payload), str(tree)], timeout_sec=60
    ).stdout.decode()
    root_hash = next(line.split()[-1] for line in answer.splitlines() if line.startswith("Root hash"))
    return Formatted(data, tree, root_hash)
