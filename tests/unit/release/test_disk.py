# SPDX-License-Identifier: Apache-2.0
"""Root, hash tree and partition table, read back by other programs; the same input gives the same bytes."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from pathlib import Path

import pytest

from common import gpt, process
from hypernet_release import disk
from tests.fakes.slot_images import Key
from tests.unit.release.conftest import Built, make_image, make_tree


def read(image: Path) -> gpt.Table:
    with image.open("rb") as stream:
        return gpt.read(stream.fileno(), name=image.name)


def test_the_hash_tree_verifies_the_root(built: Built) -> None:
    argv = ["veritysetup", "verify", str(built.root), str(built.tree), built.root_hash]

    assert process.run(argv, timeout_sec=30).returncode == 0


def test_a_changed_root_has_another_root_hash(built: Built, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copyfile(built.root, root)
    with root.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"changed")

    assert disk.make_hash_tree(root, tmp_path / "tree") != built.root_hash


def test_the_partition_uuids_are_the_two_halves_of_the_root_hash() -> None:
    root, tree = disk.part_uuids("00112233445566778899aabbccddeeff" + "f" * 32)

    assert (root, tree) == (
        uuid.UUID("00112233-4455-6677-8899-aabbccddeeff"),
        uuid.UUID("ffffffff-ffff-ffff-ffff-ffffffffffff"),
    )


def test_an_image_has_three_partitions_with_labels_and_types(built: Built) -> None:
    assert [(part.label, part.type_uuid) for part in read(built.image).partitions] == [
        ("esp", gpt.ESP),
        ("root", gpt.ROOT_X86_64),
        ("root-verity", gpt.ROOT_X86_64_VERITY),
    ]


def test_the_partitions_of_an_image_carry_the_root_hash(built: Built) -> None:
    _, root, tree = read(built.image).partitions

    assert root.unique_uuid.hex + tree.unique_uuid.hex == built.root_hash


def test_the_partitions_of_an_image_hold_the_files(built: Built) -> None:
    data = built.image.read_bytes()

    for part, file in zip(read(built.image).partitions, (built.esp, built.root, built.tree), strict=True):
        content = file.read_bytes()
        assert data[part.offset_bytes : part.offset_bytes + len(content)] == content


def test_the_partitions_of_an_image_are_aligned(built: Built) -> None:
    assert [part.offset_bytes % (1 << 20) for part in read(built.image).partitions] == [0, 0, 0]


def test_sfdisk_finds_nothing_wrong_with_an_image(built: Built) -> None:
    said = process.run(["sfdisk", "--verify", str(built.image)], timeout_sec=30)

    assert b"No errors detected." in said.stdout


def test_an_image_is_sparse(built: Built) -> None:
    assert built.image.stat().st_blocks * 512 < built.image.stat().st_size // 4


def test_the_same_files_give_the_same_bytes_elsewhere_and_later(
    built: Built, tmp_path: Path, key: Key
) -> None:
    # FAT keeps times in steps of two seconds.
    time.sleep(max(0.0, built.image.stat().st_mtime + 2.1 - time.time()))
    tree = make_tree(tmp_path / "some/other/folder", key)
    os.utime(tree / "usr/bin/tool", (0, 0))
    again = make_image(tmp_path / "again", tree)

    different = [
        name
        for name in ("root", "tree", "uki", "esp", "image")
        if getattr(again, name).read_bytes() != getattr(built, name).read_bytes()
    ]
    assert different == []


def test_another_file_gives_another_root_hash(built: Built, tmp_path: Path, key: Key) -> None:
    tree = make_tree(tmp_path / "tree", key)
    (tree / "usr/bin/tool").write_text("#!/bin/sh\nexit 1\n")

    assert make_image(tmp_path / "again", tree).root_hash != built.root_hash


@pytest.mark.parametrize("hole", [True, False])
def test_write_all_reaches_the_offset(tmp_path: Path, hole: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    with path.open("r+b") as stream:
        disk.write_all(stream.fileno(), b"abc", 12 if hole else 2)

    assert path.read_bytes() == (bytes(12) + b"abc" if hole else bytes(2) + b"abc" + bytes(5))
