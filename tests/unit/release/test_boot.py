# SPDX-License-Identifier: Apache-2.0
"""UKI and ESP, read back by our own reader and by mtools."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from common import process, uki
from hypernet_release import boot
from hypernet_release.errors import BuildError
from tests.fakes import root_images
from tests.fakes.slot_images import Key
from tests.unit.release.conftest import VERSION, Built, make_tree


def mtools(*argv: str) -> str:
    return process.run(argv, timeout_sec=30, env={"MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}).stdout.decode()


def test_a_uki_made_from_the_stub_names_root_hash_and_version(built: Built) -> None:
    facts = uki.read(built.uki)

    assert (facts.root_hash, facts.image_id, facts.image_version) == (built.root_hash, "hypernet", VERSION)


def test_a_uki_has_the_command_line_that_was_asked_for(built: Built) -> None:
    assert uki.read(built.uki).cmdline == (f"roothash={built.root_hash} ro {root_images.KERNEL_ARGS}")


def test_a_uki_holds_kernel_and_initrd(built: Built) -> None:
    assert {".linux", ".initrd"} <= set(uki.read(built.uki).sections)


def test_the_sections_of_a_uki_do_not_overlap_in_memory(built: Built) -> None:
    argv = ["objdump", "--section-headers", "--wide", str(built.uki)]
    rows = [line.split() for line in process.run(argv, timeout_sec=30).stdout.decode().splitlines()]
    spans = sorted((int(row[3], 16), int(row[2], 16)) for row in rows if row[:1] and row[0].isdigit())

    assert all(start + size <= following for (start, size), (following, _) in itertools.pairwise(spans))


def test_the_esp_holds_loader_and_uki_and_nothing_that_overrules_boot_counting(built: Built) -> None:
    names = mtools("mdir", "-i", str(built.esp), "-/", "-b", "::/").splitlines()

    assert sorted(names) == [
        "::/EFI/",
        "::/EFI/BOOT/",
        "::/EFI/BOOT/BOOTX64.EFI",
        "::/EFI/Linux/",
        f"::/EFI/Linux/hypernet_{VERSION}.efi",
        "::/EFI/systemd/",
        "::/EFI/systemd/systemd-bootx64.efi",
        "::/loader/",
        "::/loader/entries.srel",
        "::/loader/loader.conf",
    ]


def test_the_loader_configuration_has_no_default_entry(built: Built) -> None:
    text = mtools("mtype", "-i", str(built.esp), "::/loader/loader.conf")

    assert [line.split()[0] for line in text.splitlines()] == [
        "timeout",
        "editor",
        "auto-entries",
        "auto-firmware",
    ]


def test_the_uki_on_the_esp_is_the_one_that_was_made(built: Built, tmp_path: Path) -> None:
    mtools("mcopy", "-i", str(built.esp), f"::/EFI/Linux/hypernet_{VERSION}.efi", str(tmp_path / "uki"))

    assert (tmp_path / "uki").read_bytes() == built.uki.read_bytes()


def test_the_file_system_check_finds_nothing_wrong_with_the_esp(built: Built) -> None:
    assert process.run(["fsck.vfat", "-n", str(built.esp)], timeout_sec=30).returncode == 0


def test_the_esp_is_large_enough_for_fat32(built: Built) -> None:
    assert built.esp.stat().st_size == boot.ESP_MIN_BYTES


def test_an_image_without_a_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="needs one kernel, but this has: none; mend packages"):
        boot.find_kernel(tmp_path)


def test_an_image_with_two_kernels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    for name in ("vmlinuz-6.1.0", "vmlinuz-6.12.0"):
        (tmp_path / "boot" / name).touch()

    with pytest.raises(BuildError, match=r"but this has: vmlinuz-6\.1\.0, vmlinuz-6\.12\.0;"):
        boot.find_kernel(tmp_path)


def test_the_release_of_the_kernel_is_that_in_its_name(tree: Path) -> None:
    assert boot.find_kernel(tree).release == "6.1.0-1-amd64"


def test_an_image_without_stub_is_told_which_package_it_needs(tmp_path: Path, key: Key) -> None:
    tree = make_tree(tmp_path / "tree", key)
    shutil.rmtree(tree / "usr/lib/systemd")

    with pytest.raises(BuildError, match=r"linuxx64\.efi\.stub; add systemd-boot-efi to packages"):
        boot.make_uki(tree, tree / "boot/x", tree / "boot/y", "ro", tmp_path / "uki.efi", 0)


def test_an_image_without_loader_is_told_which_package_it_needs(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()

    with pytest.raises(BuildError, match=r"systemd-bootx64\.efi; add systemd-boot-efi to packages"):
        boot.make_esp(tmp_path / "tree", tmp_path / "uki.efi", VERSION, tmp_path / "esp", 0)
