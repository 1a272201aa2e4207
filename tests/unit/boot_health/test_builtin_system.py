# SPDX-License-Identifier: Apache-2.0
"""The built-in checks that look at disks and files: disk-space, configuration, dm-verity."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agents.boot_health.builtin import BUILTINS
from agents.boot_health.builtins import configuration, disk_space, dm_verity, mountinfo
from agents.boot_health.builtins.disk_space import Amount
from common import config, process
from common.errors import AgentError

FREE = "device-mapper: verity: 254:1: "


def test_space_that_is_there_is_told_for_each_path(tmp_path: Path) -> None:
    outcome = disk_space.judge((str(tmp_path), "/"), Amount(size_bytes=1), 0)

    assert outcome.passed
    assert [line.split(" has ")[0] for line in outcome.text.splitlines()] == [str(tmp_path), "/"]


def test_too_little_space_in_bytes_fails(tmp_path: Path) -> None:
    outcome = disk_space.judge((str(tmp_path), "/proc"), Amount(size_bytes=1 << 60), 0)

    assert not outcome.passed
    assert outcome.text.splitlines()[0].endswith("free, at least 1048576.0 TiB are wanted.")


def statvfs(
    monkeypatch: pytest.MonkeyPatch, *, blocks: tuple[int, int, int], inodes: tuple[int, int]
) -> None:
    """blocks: all, free, free for users; inodes: all, free for users."""
    found = os.statvfs_result((4096, 4096, *blocks, inodes[0], inodes[1], inodes[1], 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: found)


def test_too_little_space_in_percent_is_what_df_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    statvfs(monkeypatch, blocks=(1000, 90, 40), inodes=(100, 100))

    outcome = disk_space.judge(("/data",), Amount(percent=5), 5)

    assert outcome.text == "/data has 160.0 KiB (4.2 %) free, at least 5 % are wanted."
    assert disk_space.judge(("/data",), Amount(percent=4), 5).passed


def test_too_few_inodes_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    statvfs(monkeypatch, blocks=(1000, 900, 900), inodes=(1000, 49))

    outcome = disk_space.judge(("/data",), Amount(percent=5), 5)

    assert outcome.text == "/data has 49 of 1000 inodes free, at least 5 % are wanted."


def test_a_file_system_without_a_count_of_inodes_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    statvfs(monkeypatch, blocks=(1000, 900, 900), inodes=(0, 0))

    assert disk_space.judge(("/data",), Amount(percent=5), 5).passed


def test_a_path_that_is_not_there_fails(tmp_path: Path) -> None:
    outcome = disk_space.judge((str(tmp_path / "gone"),), Amount(), 0)

    assert outcome.text.endswith("gone cannot be asked for its free space: No such file or directory.")


def test_only_partitions_that_are_mounted_are_asked_by_default(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("41 21 253:6 / /config rw - ext4 /dev/vda6 rw\n42 21 253:7 / /srv rw - ext4 x rw\n")

    assert disk_space.default_paths(mountinfo.read(table)) == ("/config",)
    assert disk_space.judge((), Amount(percent=5), 5).passed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "hypernet"
    (made / "trusted-keys").mkdir(parents=True)
    (made / "updates.yaml").write_text("channel: stable\n")
    (made / "trusted-keys/fingerprints.yaml").write_text("fingerprints: []\n")
    return made


def judge(folder: Path) -> tuple[bool, str]:
    outcome = configuration.judge(folder, folder.parent / "version", folder.parent / "image-version")
    return outcome.passed, outcome.text


def test_configuration_that_can_be_read_passes(folder: Path) -> None:
    assert judge(folder) == (True, f"All 2 YAML files in {folder} can be read.")


def test_a_file_that_is_no_yaml_is_named_with_its_line(folder: Path) -> None:
    (folder / "trusted-keys/fingerprints.yaml").write_text("a: 1\nb: [\n")

    passed, text = judge(folder)

    assert not passed
    assert text.startswith(f"{folder}/trusted-keys/fingerprints.yaml:3: not valid YAML")


def test_a_key_that_is_there_twice_fails(folder: Path) -> None:
    (folder / "alerts.yaml").write_text("mail: {}\nmail: {}\n")

    assert judge(folder) == (
        False,
        f"{folder}/alerts.yaml:2: mail: is here twice, first in line 1; keep one.",
    )


def test_hidden_files_and_other_files_are_left_alone(folder: Path) -> None:
    (folder / ".updates.yaml").write_text("a: [")
    (folder / "notes.txt").write_text("a: [")
    (folder / ".new").mkdir()
    (folder / ".new/updates.yaml").write_text("a: [")

    assert judge(folder)[0]


def test_at_most_ten_findings_are_shown(folder: Path) -> None:
    for number in range(12):
        (folder / f"{number:02}.yaml").write_text("a: [")

    lines = judge(folder)[1].splitlines()

    assert len(lines) == 11
    assert lines[-1] == "2 more."


def test_configuration_of_a_newer_schema_than_the_image_knows_fails(folder: Path) -> None:
    (folder.parent / "version").write_text("3\n")
    (folder.parent / "image-version").write_text("2\n")

    passed, text = judge(folder)

    assert not passed
    assert text.endswith("version: the configuration has schema 3, this image knows schemas up to 2.")


def test_configuration_of_an_older_schema_passes(folder: Path) -> None:
    (folder.parent / "version").write_text("1\n")
    (folder.parent / "image-version").write_text("2\n")

    assert judge(folder)[0]


@pytest.mark.parametrize("text", ["", "one", "0", "-1", "1\n2"])
def test_a_schema_that_is_no_number_fails(folder: Path, text: str) -> None:
    (folder.parent / "version").write_text(text)

    assert judge(folder) == (
        False,
        f"{folder.parent}/version:1: must be the number of a schema, such as 1.",
    )


def test_a_machine_without_configuration_passes(tmp_path: Path) -> None:
    assert judge(tmp_path / "hypernet")[0]


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """/sys/dev/block with a partition, a verified device on two of them, and one on top of that."""
    devices: dict[str, tuple[str, list[str]]] = {"254:1": ("", []), "254:2": ("", [])}
    devices["252:0"] = ("CRYPT-VERITY-0123-root", ["254:1", "254:2"])
    devices["252:1"] = ("CRYPT-PLAIN-x", ["252:0"])
    for number, (uuid, slaves) in devices.items():
        node = tmp_path / "block" / number
        (node / "slaves").mkdir(parents=True)
        (node / "dev").write_text(f"{number}\n")
        if uuid:
            (node / "dm").mkdir()
            (node / "dm/uuid").write_text(f"{uuid}\n")
        for slave in slaves:
            (node / "slaves" / slave).symlink_to(tmp_path / "block" / slave)
    (tmp_path / "cmdline").write_text("quiet roothash=00ff panic=10\n")
    return tmp_path / "block"


def look(sysfs: Path, *lines: str, root: str = "252:0") -> tuple[bool, str]:
    outcome = dm_verity.judge(root, sysfs, sysfs.parent / "cmdline", lambda: lines)
    return outcome.passed, outcome.text


@pytest.mark.parametrize("root", ["252:0", "252:1"])
def test_a_verified_root_without_damage_passes(sysfs: Path, root: str) -> None:
    lines = ('device-mapper: verity: sha256 using implementation "sha256-ni"',)

    assert look(sysfs, *lines, root=root) == (
        True,
        "The root is verified, no damaged block was met in this boot.",
    )


@pytest.mark.parametrize(
    "line",
    [
        "device-mapper: verity: 254:1: data block 5 is corrupted",
        "device-mapper: verity: 254:1: metadata block 130 is corrupted",
        "device-mapper: verity: 254:1: reached maximum errors",
        "device-mapper: verity-fec: 254:1: FEC 20480: corrected 4 errors",
    ],
)
def test_a_damaged_block_that_the_kernel_met_fails(sysfs: Path, line: str) -> None:
    passed, text = look(sysfs, line)

    assert not passed
    assert text == f"The kernel reported one damaged block of the root:\n254:1: {line.split('254:1: ')[1]}"


def test_damage_of_another_device_is_not_counted(sysfs: Path) -> None:
    assert look(sysfs, "device-mapper: verity: 7:0: data block 5 is corrupted")[0]


def test_many_damaged_blocks_are_counted(sysfs: Path) -> None:
    text = look(sysfs, *(f"{FREE}data block {number} is corrupted" for number in range(30)))[1]

    assert text.startswith("The kernel reported 30 damaged blocks of the root:\n")
    assert len(text.splitlines()) == 11


def test_a_root_that_is_not_verified_although_it_should_be_fails(sysfs: Path) -> None:
    passed, text = look(sysfs, root="254:1")

    assert not passed
    assert "not verified" in text


def test_an_image_without_dm_verity_passes_and_says_so(sysfs: Path) -> None:
    (sysfs.parent / "cmdline").write_text("root=LABEL=root\n")

    assert look(sysfs, root="0:42") == (True, "This image has a root without dm-verity.")


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Put a journalctl before the real one: no journal here has such messages."""
    file = folder / "journalctl"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    monkeypatch.setattr(process, "BASE_ENVIRONMENT", {"PATH": f"{folder}:/usr/bin:/bin"})


def test_a_journal_without_such_messages_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, monkeypatch, "exit 1")

    assert dm_verity.kernel_log(5) == ()


def test_a_journal_that_cannot_be_read_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "echo 'Failed to open journal: No data' >&2; exit 1")

    with pytest.raises(
        AgentError, match=r"^The kernel's messages cannot be read: Failed to open journal: No"
    ):
        dm_verity.kernel_log(5)


def test_messages_of_this_boot_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, 'echo "$*"')

    (line,) = dm_verity.kernel_log(5)

    assert line.startswith(
        "--boot --dmesg --quiet --no-pager --output=cat --lines=200 --grep=device-mapper: ver"
    )


@pytest.mark.parametrize("name", ["mounts", "disk-space", "configuration"])
def test_the_checks_that_only_look_end_on_any_machine(name: str) -> None:
    probe = BUILTINS[name](config.parse(b"", Path("health.yaml")))
    assert callable(probe)

    assert probe(10).text
