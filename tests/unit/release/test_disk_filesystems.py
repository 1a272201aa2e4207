# SPDX-License-Identifier: Apache-2.0
"""The root file systems that can be made: the same tree gives the same bytes, and all of it is there."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from common import gpt, process, uki
from hypernet_release import disk
from hypernet_release.errors import BuildError
from tests.fakes import root_images
from tests.unit.release.conftest import EPOCH, VERSION, make_image

each_kind = pytest.mark.parametrize("kind", list(disk.FILESYSTEMS))


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """What a root tree may hold beside plain files, in folders that were filled in one order."""
    tree = tmp_path / "odd"
    names = [f"file {number}" for number in range(300)]
    fill(tree, names)
    return tree


def fill(tree: Path, names: list[str]) -> None:
    (tree / "folder").mkdir(parents=True)
    for name in names:
        (tree / "folder" / name).write_text(name)
    (tree / 'folder/a "quoted" [name] \\x2d').write_bytes(b"x" * 5000)
    (tree / "folder/zeros").write_bytes(bytes(1 << 20) + b"end")
    (tree / "folder/setuid").write_bytes(b"#!")
    os.chown(tree / "folder/setuid", 3, 1000)
    (tree / "folder/setuid").chmod(0o4755)
    os.setxattr(tree / "folder/setuid", "user.note", b"\x00\xffvalue")
    (tree / "folder").chmod(0o1777)
    (tree / "link").symlink_to("folder/with spaces")
    (tree / "long link").symlink_to("x" * 200)
    os.mkfifo(tree / "fifo", 0o640)
    os.mknod(tree / "null", 0o20666, os.makedev(1, 3))
    os.link(tree / "folder/setuid", tree / "hard link")
    tree.chmod(0o755)


@each_kind
def test_the_same_tree_gives_the_same_bytes_elsewhere_and_later(
    odd: Path, tmp_path: Path, kind: str
) -> None:
    disk.make_root(odd, tmp_path / "first", EPOCH, kind)
    time.sleep(1.1)
    again = tmp_path / "another/folder"
    fill(again, [f"file {number}" for number in reversed(range(300))])
    disk.make_root(again, tmp_path / "second", EPOCH, kind)

    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@each_kind
def test_a_root_is_not_much_larger_than_what_is_in_it(odd: Path, tmp_path: Path, kind: str) -> None:
    (odd / "large").write_bytes(os.urandom(40 << 20))
    disk.make_root(odd, tmp_path / "root", EPOCH, kind)

    assert (tmp_path / "root").stat().st_size < 48 << 20


def said(*argv: str) -> str:
    return process.run(argv, timeout_sec=60).stdout.decode()


def test_e2fsck_finds_nothing_wrong_with_an_ext4(odd: Path, tmp_path: Path) -> None:
    disk.make_root(odd, tmp_path / "root", EPOCH, "ext4")

    assert process.run(["e2fsck", "-f", "-n", str(tmp_path / "root")], timeout_sec=60).returncode == 0


def test_an_ext4_can_only_be_mounted_read_only_and_has_no_journal(odd: Path, tmp_path: Path) -> None:
    disk.make_root(odd, tmp_path / "root", EPOCH, "ext4")
    features = said("dumpe2fs", "-h", str(tmp_path / "root")).partition("features:")[2].partition("\n")[0]

    assert "read-only" in features
    assert not {"has_journal", "resize_inode", "orphan_file"} & set(features.split())


def test_an_ext4_keeps_modes_owners_attributes_and_devices(odd: Path, tmp_path: Path) -> None:
    disk.make_root(odd, tmp_path / "root", EPOCH, "ext4")

    def stat(path: str) -> str:
        return said("debugfs", "-R", f'stat "{path}"', str(tmp_path / "root"))

    assert "Mode:  04755" in stat("/folder/setuid")
    assert "User:     3   Group:  1000" in stat("/folder/setuid")
    assert "user.note (7)" in stat("/folder/setuid")
    assert "Mode:  04755" in stat("/hard link")
    assert "Mode:  01777" in stat("/folder")
    assert "Type: FIFO    Mode:  0640" in stat("/fifo")
    assert "Device major/minor number: 01:03" in stat("/null")
    assert 'Fast link dest: "folder/with spaces"' in stat("/link")
    times = [line.split()[1] for line in stat("/link").splitlines() if "time: " in line]
    assert set(times) == {f"{EPOCH:#x}:00000000"}


def test_a_name_that_ext4_images_cannot_have_is_told(odd: Path, tmp_path: Path) -> None:
    (odd / "two\nlines").touch()

    with pytest.raises(BuildError, match=r"^The root tree has the name '/two\\nlines', which ext4 images"):
        disk.make_root(odd, tmp_path / "root", EPOCH, "ext4")


@each_kind
def test_the_hash_tree_verifies_each_kind_of_root(tree: Path, tmp_path: Path, kind: str) -> None:
    built = make_image(tmp_path / "image", tree, filesystem=kind)
    argv = ["veritysetup", "verify", str(built.root), str(built.tree), built.root_hash]

    assert process.run(argv, timeout_sec=30).returncode == 0


def test_an_image_without_hash_tree_is_named_by_the_hash_of_its_root_partition(
    tree: Path, tmp_path: Path
) -> None:
    built = make_image(tmp_path / "image", tree, filesystem="ext4", verity=False)
    with built.image.open("rb") as stream:
        esp, root = gpt.read(stream.fileno(), name="image").partitions
        stream.seek(root.offset_bytes)
        digest = hashlib.sha256(stream.read(root.size_bytes)).hexdigest()
    facts = uki.read(built.uki)

    assert (esp.label, root.label, root.unique_uuid.hex) == ("esp", "root", digest[:32])
    assert (facts.root_hash, facts.verity, facts.image_version) == (digest, False, VERSION)
    assert facts.cmdline.split()[:3] == [*uki.root_arguments(digest, verity=False), "ro"]


def test_a_changed_tree_without_hash_tree_has_another_hash(tree: Path, tmp_path: Path) -> None:
    hashes = set()
    for name in ("one", "other"):
        shutil.copytree(tree, tmp_path / name, symlinks=True)
        (tmp_path / name / "file").write_text(name)
        disk.make_root(tmp_path / name, tmp_path / f"{name}.root", root_images.EPOCH)
        hashes.add(disk.plain_root_hash(tmp_path / f"{name}.root"))

    assert len(hashes) == 2
