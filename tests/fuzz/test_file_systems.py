# SPDX-License-Identifier: Apache-2.0
"""Damaged root file systems: whatever the image builder can make, read as the check of an image reads it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st

from common import erofs, ext4, lint, process, squashfs
from common.filesystem import Extent
from tests.fakes import root_images, slot_images
from tests.fakes.slot_images import Key
from tests.fuzz.hostile import Sample, damaged, explore, survives

PATHS = ("/", "/etc", "/usr/lib/systemd/system", "/etc/systemd/system", lint.TRUSTED_KEYS, "/bin/python3")
Open = Callable[[Extent], lint.RootFs]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Path:
    """The files of a root file system that passes the lint."""
    folder = tmp_path_factory.mktemp("tree")
    slot_images.trust(folder / "trusted", key)
    (folder / "tree").mkdir()
    long = {f"usr/share/many/{number:03}-{'x' * 40}": b"%d" % number for number in range(120)}
    root_images.fill(folder / "tree", trusted=folder / "trusted", extra={**long, "usr/share/b": b"b" * 9000})
    return folder / "tree"


def _judge(fd: int, key: Key, open_root: Open) -> Callable[[bytes], None]:
    def judge(case: bytes) -> None:
        os.ftruncate(fd, 0)
        os.pwrite(fd, case, 0)

        def read() -> None:
            root = open_root(Extent(fd, offset_bytes=0, size_bytes=len(case), name="hypernet-1.2.3.img"))
            findings = lint.check(
                root,
                cmdline=f"roothash={'0' * 64} {root_images.KERNEL_ARGS}",
                root_hash="0" * 64,
                channel="stable",
                signers=(key.fingerprint,),
                config_schema_here=1,
                now_sec=int(time.time()),
            )
            for finding in findings:
                assert finding.message.isprintable(), finding.message
                assert finding.message.endswith("."), finding.message
            for path in PATHS:
                for name in root.listdir(path):
                    assert "/" not in name
                    root.exists(f"{path}/{name}")

        survives(read)

    return judge


def _fields(begin: int, end: int, width: int) -> list[tuple[int, int]]:
    return [(at, width) for at in range(begin, end, width)]


def _cases(images: list[Path], fields: list[tuple[int, int]], hot: list[tuple[int, int]],
           mend: Callable[[bytearray], None] | None = None) -> st.SearchStrategy[bytes]:  # fmt: skip
    return damaged([Sample(path.read_bytes(), fields, hot, mend) for path in images])


def test_a_damaged_erofs_is_read_or_refused(tree: Path, tmp_path: Path, key: Key, scratch_fd: int) -> None:
    images = []
    for number, options in enumerate((("-Enoinline_data",), (), ("-Eforce-inode-extended",), ("-zlz4",))):
        path = tmp_path / f"{number}.erofs"
        process.run(["mkfs.erofs", "--quiet", "-T0", *options, str(path), str(tree)], timeout_sec=60)
        images.append(path)
    # Superblock, then inodes with their attributes and the entries of directories.
    hot = [(1024, 1152), (1152, 4096), (1152, 32768)]
    cases = _cases(images, _fields(1024, 1152, 4) + _fields(1152, 8192, 4), hot)

    explore("erofs", cases, _judge(scratch_fd, key, erofs.FileSystem))


def test_a_damaged_ext4_is_read_or_refused(tree: Path, tmp_path: Path, key: Key, scratch_fd: int) -> None:
    images = []
    for number, options in enumerate((("-b4096",), ("-b1024", "-O^64bit"), ("-b4096", "-Odir_index"))):
        path = tmp_path / f"{number}.ext4"
        argv = ["mkfs.ext4", "-q", "-O^has_journal", "-N1024", *options, "-d", str(tree), str(path), "1500k"]
        process.run(argv, timeout_sec=60)
        images.append(path)
    # Superblock, group descriptors, and the tables of inodes that follow bitmaps.
    fields = _fields(1024, 1408, 4) + _fields(2048, 2176, 4) + _fields(4096, 4224, 4)
    hot = [(1024, 2048), (2048, 8192), (8192, 131072)]

    explore("ext4", _cases(images, fields, hot), _judge(scratch_fd, key, ext4.FileSystem))


def test_a_damaged_squashfs_is_read_or_refused(
    tree: Path, tmp_path: Path, key: Key, scratch_fd: int
) -> None:
    images = []
    stored = ("-noI", "-noD", "-noF", "-noX")
    for number, options in enumerate((("-comp", "zstd"), ("-comp", "gzip"), ("-comp", "zstd", *stored))):
        path = tmp_path / f"{number}.squashfs"
        argv = ["mksquashfs", str(tree), str(path), "-quiet", "-no-progress", "-processors", "1", *options]
        process.run(argv, timeout_sec=60)
        images.append(path)
    size = images[2].stat().st_size
    # Superblock; the tables of inodes, directories and fragments are the end of the file.
    fields = _fields(0, 96, 4) + _fields(0, 96, 8) + _fields(size - 8192, size - 8, 2)
    hot = [(0, 96), (96, 512), (size - 8192, size)]

    explore("squashfs", _cases(images, fields, hot), _judge(scratch_fd, key, squashfs.FileSystem))
