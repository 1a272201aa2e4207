# SPDX-License-Identifier: Apache-2.0
"""Damaged kernel images, and damaged FAT file systems that hold one."""

from __future__ import annotations

import os
import re
import shutil
import struct
from pathlib import Path

import pytest

from common import uki
from common.image import content
from tests.fakes import slot_images
from tests.fuzz.hostile import Sample, damaged, explore, survives

ROOT_HASH = "0123456789abcdef" * 4
NAME = "hypernet_1.2.3.efi"
USED_BYTES = 1 << 20  # of the file systems; the rest is free
WHOLE_BYTES = 34 << 20  # what FAT32 needs at least
# (offset, bytes) of numbers: sizes, counts and places of the tables; and in a directory entry kind, first
# cluster and size.
BOOT_SECTOR = (
    (11, 2),
    (13, 1),
    (14, 2),
    (16, 1),
    (17, 2),
    (19, 2),
    (21, 1),
    (22, 2),
    (32, 4),
    (36, 4),
    (44, 4),
)
ENTRY = ((11, 1), (20, 2), (26, 2), (28, 4))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slot_images.make_uki(
        tmp_path_factory.mktemp("kernel") / NAME, version="1.2.3", root_hash=ROOT_HASH
    )


def test_a_damaged_kernel_image_is_read_or_refused(kernel: Path, tmp_path: Path) -> None:
    raw = kernel.read_bytes()
    (pe,) = struct.unpack_from("<I", raw, 60)
    count, optional = struct.unpack_from("<H12xH", raw, pe + 6)
    table = pe + 24 + optional
    fields = [(60, 4), (pe, 4), (pe + 6, 2), (pe + 20, 2)]
    fields += [(table + 40 * n + at, 4) for n in range(count) for at in (8, 16, 20)]
    texts = [raw.index(b"IMAGE_ID="), raw.index(b"roothash=")]
    hot = [(0, 64), (pe, pe + 24), (table, table + 40 * count), *((at - 16, at + 120) for at in texts)]
    path = tmp_path / "kernel.efi"

    def judge(case: bytes) -> None:
        path.write_bytes(case)
        found: list[uki.Uki] = []
        survives(lambda: found.append(uki.read(path)))
        for facts in found:
            assert re.fullmatch(r"([0-9a-f]{64})?", facts.root_hash)
            assert len(facts.cmdline) <= uki.MAX_TEXT_BYTES

    explore("uki", damaged([Sample(raw, fields, hot)]), judge)


def _file_system(path: Path, kernel: Path, *options: str, kib: int) -> tuple[bytes, int]:
    """A FAT with the kernel image and where its folder EFI/Linux begins."""
    with path.open("wb") as file:
        file.truncate(kib << 10)
    slot_images.run("mkfs.vfat", "--invariant", *options, str(path))
    slot_images.run("mmd", "-i", str(path), "::/EFI", "::/EFI/Linux", "::/EFI/BOOT")
    slot_images.run("mcopy", "-i", str(path), str(kernel), f"::/EFI/Linux/{NAME}")
    raw = path.read_bytes()[:USED_BYTES]
    return raw, raw.index(b"HYPERN~1EFI") & ~511


def test_a_damaged_boot_partition_gives_one_kernel_image_or_none(kernel: Path, tmp_path: Path) -> None:
    samples = []
    for number, (kib, options) in enumerate(
        ((512, ("-F12",)), (3072, ("-F16", "-s1")), (34816, ("-F32", "-s1")))
    ):
        raw, folder = _file_system(tmp_path / f"{number}.fat", kernel, *options, kib=kib)
        first = struct.unpack_from("<H", raw, 14)[0] * 512
        fields = [*BOOT_SECTOR, *((first + at, 2) for at in range(0, 512, 2))]
        entries = range(folder, folder + 192, 32)
        fields += [(at + field, width) for at in entries for field, width in ENTRY]
        hot = [(0, 96), (first, first + 512), (folder, folder + 192), (0, folder + 512)]
        samples.append(Sample(raw, fields, hot))
    spool, work = tmp_path / "esp.img", tmp_path / "work"

    def judge(case: bytes) -> None:
        spool.write_bytes(case)
        os.truncate(spool, WHOLE_BYTES)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        found: list[Path] = []
        survives(lambda: found.append(content.extract_uki(spool, work, name="hypernet-1.2.3.img")))
        assert found in ([], [work / "kernel.efi"])
        assert set(work.iterdir()) <= {work / "kernel.efi"}
        assert sum(path.stat().st_size for path in work.iterdir()) <= WHOLE_BYTES
        with spool.open("rb") as file:
            assert file.read(len(case)) == case

    explore("fat", damaged(samples), judge)
