# SPDX-License-Identifier: Apache-2.0
"""What only squashfs has: its compressors and its tables. The rest is in test_filesystem.py."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from common import process, squashfs
from common.filesystem import Extent, FileSystemError

STORED = ("-noI", "-noD", "-noF", "-noX")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Enough files for several blocks of each table."""
    (tmp_path / "tree").mkdir()
    for number in range(1200):
        (tmp_path / f"tree/file{number}").write_bytes(random.Random(number).randbytes(number))
    (tmp_path / "tree/zeros").write_bytes(bytes(400_000))
    (tmp_path / "tree/text").write_bytes(b"a line of text\n" * 30_000)
    return tmp_path / "tree"


def make(tree: Path, *options: str) -> Path:
    image = tree.with_name("image")
    process.run(["mksquashfs", str(tree), str(image), "-noappend", "-quiet", *options], timeout_sec=120)
    return image


def read(image: Path, path: str) -> bytes:
    with image.open("rb") as stream:
        extent = Extent(stream.fileno(), offset_bytes=0, size_bytes=image.stat().st_size, name="IMG")
        return squashfs.FileSystem(extent).read(path, 1 << 20)


@pytest.mark.parametrize("options", [("-comp", "gzip"), ("-comp", "zstd"), ("-b", "4096"), STORED])
def test_each_way_to_store_files_is_read(tree: Path, options: tuple[str, ...]) -> None:
    image = make(tree, *options)

    for name in ("file0", "file7", "file640", "file1199", "zeros", "text"):
        assert read(image, f"/{name}") == (tree / name).read_bytes()


@pytest.mark.parametrize("options", [("-no-fragments",), ("-always-use-fragments",)])
def test_ends_of_files_are_read_from_wherever_they_are(tree: Path, options: tuple[str, ...]) -> None:
    image = make(tree, *options)

    assert read(image, "/file1001") == (tree / "file1001").read_bytes()
    assert read(image, "/text") == (tree / "text").read_bytes()


@pytest.mark.parametrize("compressor", ["xz", "lzo", "lz4"])
def test_another_compressor_is_refused_with_the_remedy(tree: Path, compressor: str) -> None:
    image = make(tree, "-comp", compressor)

    with pytest.raises(FileSystemError, match=r"of another kind .* build the image with hypernet-image\.$"):
        read(image, "/file1")


def test_a_block_that_unpacks_to_more_than_it_may_is_refused(tree: Path) -> None:
    """The superblock claims smaller blocks than there are."""
    image = make(tree, "-comp", "zstd", "-b", "131072")
    with image.open("r+b") as stream:
        stream.seek(12)
        stream.write(struct.pack("<I", 4096))

    with pytest.raises(FileSystemError, match=r"unpacks to more than 4096 bytes|has \d+ bytes"):
        read(image, "/text")
