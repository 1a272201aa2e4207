# SPDX-License-Identifier: Apache-2.0
"""What only erofs has: its layouts and its features. The rest is in test_filesystem.py."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from common import erofs, process
from common.filesystem import Extent, FileSystemError

FEATURES = erofs.SUPERBLOCK_OFFSET + 80


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/short").write_bytes(b"content")
    (tmp_path / "tree/long").write_bytes(b"long" * 4096)
    return tmp_path / "tree"


def make(tree: Path, *options: str) -> Path:
    image = tree.with_name("image")
    process.run(["mkfs.erofs", "--quiet", "-T0", *options, str(image), str(tree)], timeout_sec=60)
    return image


def read(image: Path, path: str) -> bytes:
    with image.open("rb") as stream:
        extent = Extent(stream.fileno(), offset_bytes=0, size_bytes=image.stat().st_size, name="IMG")
        return erofs.FileSystem(extent).read(path, 1 << 20)


@pytest.mark.parametrize("options", [(), ("-Enoinline_data",), ("-Eforce-inode-extended",)])
def test_each_flat_layout_is_read(tree: Path, options: tuple[str, ...]) -> None:
    image = make(tree, *options)

    assert (read(image, "/short"), read(image, "/long")) == (b"content", b"long" * 4096)


@pytest.mark.parametrize("options", [("-zlz4",), ("--chunksize=4096",)])
def test_compressed_and_chunked_files_are_refused_with_the_remedy(
    tree: Path, options: tuple[str, ...]
) -> None:
    image = make(tree, *options)

    with pytest.raises(FileSystemError, match=r"compressed or in chunks.* with an uncompressed erofs\.$"):
        read(image, "/long")


def test_a_newer_kind_of_erofs_is_refused(tree: Path) -> None:
    image = make(tree)
    with image.open("r+b") as stream:
        stream.seek(FEATURES)
        stream.write(struct.pack("<I", 0x80))

    with pytest.raises(FileSystemError, match=r"an erofs of a newer kind \(features 0x80\)\.$"):
        read(image, "/short")
