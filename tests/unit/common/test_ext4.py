# SPDX-License-Identifier: Apache-2.0
"""What only ext4 has: its extents and its features. The rest is in test_filesystem.py."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from common import ext4, process
from common.filesystem import Extent, FileSystemError


def read(image: Path, path: str, *, max_bytes: int = 1 << 24) -> bytes:
    with image.open("rb") as stream:
        extent = Extent(stream.fileno(), offset_bytes=0, size_bytes=image.stat().st_size, name="IMG")
        return ext4.FileSystem(extent).read(path, max_bytes)


def make(folder: Path, *options: str) -> Path:
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", *options, "-d", str(folder / "tree"), str(folder / "image")]
    process.run([*argv, "8M"], timeout_sec=60)
    return folder / "image"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(b"content")
    return tmp_path / "tree"


@pytest.mark.parametrize("block", ["1024", "2048", "4096"])
@pytest.mark.parametrize(
    "features", ["^has_journal", "^has_journal,^64bit", "^has_journal,metadata_csum_seed"]
)
def test_file_systems_of_mke2fs_are_read(tree: Path, block: str, features: str) -> None:
    assert read(make(tree.parent, "-b", block, "-O", features), "/file") == b"content"


def test_a_file_in_many_pieces_is_read_through_its_tree_of_extents(tree: Path) -> None:
    """Every other block is a hole, so that no two blocks are one extent."""
    content = b"".join(random.Random(n).randbytes(4096) + bytes(4096) for n in range(400))
    (tree / "scattered").write_bytes(content)

    assert read(make(tree.parent, "-O", "^has_journal", "-b", "4096"), "/scattered") == content


@pytest.mark.parametrize("feature", ["inline_data", "journal_dev", "encrypt"])
def test_an_ext4_with_unknown_features_is_refused(tree: Path, feature: str) -> None:
    image = make(tree.parent, "-O", "^has_journal")
    with image.open("r+b") as stream:
        stream.seek(ext4.SUPERBLOCK_OFFSET + ext4.FEATURES_OFFSET)
        (features,) = struct.unpack("<I", stream.read(4))
        stream.seek(-4, 1)
        number = {"inline_data": 0x8000, "journal_dev": 0x8, "encrypt": 0x10000}[feature]
        stream.write(struct.pack("<I", features | number))

    with pytest.raises(FileSystemError, match=r"an ext4 of another kind than hypernet-image makes"):
        read(image, "/file")


def test_a_file_without_extents_is_refused(tree: Path) -> None:
    with pytest.raises(FileSystemError, match=r"stores files without extents"):
        read(make(tree.parent, "-O", "^has_journal,^extent,^64bit"), "/file")
