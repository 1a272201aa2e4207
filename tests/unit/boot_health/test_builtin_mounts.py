# SPDX-License-Identifier: Apache-2.0
"""The built-in check ``mounts``: fstab against what the kernel says is mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from agents.boot_health.builtins import mountinfo, mounts
from agents.boot_health.builtins.mountinfo import Mount
from agents.boot_health.builtins.mounts import Expected
from agents.boot_health.builtins.outcome import Outcome
from agents.boot_health.config import DEFAULT_DEADLINE_SEC, load

TOP = Path(__file__).parents[3]
FSTAB = TOP / "packaging/image/rootfs/etc/fstab"
IMAGE_CHECKS = TOP / "units/health.d"
HARDENED = "rw,nosuid,nodev,noexec,relatime"

AS_BOOTED = f"""\
21 1 254:0 / / ro,nodev,relatime shared:1 - erofs /dev/mapper/root ro,user_xattr
40 21 253:1 / /efi {HARDENED} shared:2 - vfat /dev/vda1 rw,fmask=0077,dmask=0077
41 21 253:6 / /config {HARDENED} shared:3 - ext4 /dev/vda6 rw
42 21 253:7 / /data {HARDENED} shared:4 - ext4 /dev/vda7 rw
43 21 253:8 / /media {HARDENED} shared:5 - xfs /dev/vda8 rw,attr2
44 21 0:40 / /tmp rw,nosuid,nodev shared:6 - tmpfs tmpfs rw,size=1G
45 21 0:41 / /var rw,nosuid,nodev,relatime shared:7 - tmpfs tmpfs rw,size=1G
46 45 253:9 / /var/log {HARDENED} shared:8 - ext4 /dev/vda9 rw
47 45 253:10 / /var/cache {HARDENED} shared:9 - ext4 /dev/vda10 rw
48 45 253:6 /state/hypernet /var/lib/hypernet rw,relatime shared:3 - ext4 /dev/vda6 rw
49 45 253:6 /state/timers /var/lib/systemd/timers rw,relatime shared:3 - ext4 /dev/vda6 rw
"""


def judge(table: str, folder: Path, expected: tuple[Expected, ...] | None = None) -> list[str]:
    """Return the findings on a table of mounts; none if all is well."""
    file = folder / "mountinfo"
    file.write_text(table, encoding="utf-8")
    if expected is None:
        expected = mounts.fstab(FSTAB, nofail=False) + mounts.fstab(FSTAB, nofail=True)
    outcome = mounts.judge(expected, mountinfo.read(file))
    return [] if outcome.passed else outcome.text.splitlines()


def test_the_layout_as_the_image_mounts_it_passes(tmp_path: Path) -> None:
    assert judge(AS_BOOTED, tmp_path) == []


def test_a_partition_that_fstab_lets_fail_is_missed_by_the_check_of_those_only(tmp_path: Path) -> None:
    without = "".join(line for line in AS_BOOTED.splitlines(keepends=True) if " /media " not in line)

    assert judge(without, tmp_path, mounts.fstab(FSTAB, nofail=True)) == ["/media is not mounted."]
    assert judge(without, tmp_path, mounts.fstab(FSTAB, nofail=False)) == []


def test_a_dead_disk_that_fstab_lets_fail_cannot_roll_a_machine_back(tmp_path: Path) -> None:
    checks = {check.name: check for check in load(tmp_path / "missing", IMAGE_CHECKS).checks}

    assert checks["mounts"].required
    assert not checks["mounts-nofail"].required


@pytest.mark.parametrize("name", ["mounts", "mounts-nofail"])
def test_the_check_of_a_large_file_system_has_minutes_but_not_all_of_the_deadline(
    name: str, tmp_path: Path
) -> None:
    checks = {check.name: check for check in load(tmp_path / "missing", IMAGE_CHECKS).checks}

    assert checks[name].retries == 0
    assert 180 <= checks[name].timeout_sec < DEFAULT_DEADLINE_SEC


@pytest.mark.parametrize("option", ["nodev", "nosuid", "noexec"])
def test_a_missing_hardening_option_is_named(tmp_path: Path, option: str) -> None:
    line = f"50 21 253:7 / /data {HARDENED.replace(f',{option}', '')} - ext4 /dev/vda7 rw\n"

    assert judge(AS_BOOTED + line, tmp_path) == [f"/data is mounted without {option}."]


def test_a_file_system_that_went_read_only_after_errors_is_found(tmp_path: Path) -> None:
    line = f"50 21 253:6 / /config {HARDENED} - ext4 /dev/vda6 ro,errors=remount-ro\n"

    assert judge(AS_BOOTED + line, tmp_path) == [
        "/config is read-only, it should be writable; see 'journalctl --dmesg'."
    ]


def test_a_writable_mount_that_should_be_read_only_is_found(tmp_path: Path) -> None:
    assert judge(AS_BOOTED, tmp_path, (Expected("/data", read_only=True),)) == [
        "/data is writable, it should be read-only."
    ]


def test_an_automount_that_nobody_used_yet_passes(tmp_path: Path) -> None:
    table = "50 21 0:50 / /mnt rw,relatime - autofs systemd-1 rw,fd=1,direct\n"

    assert judge(table, tmp_path, (Expected("/mnt", automount=True),)) == []
    assert judge(table, tmp_path, (Expected("/mnt"),)) == ["/mnt is mounted without nodev, nosuid, noexec."]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("LABEL=a /a/ ext4 nodev,noexec", Expected("/a", frozenset({"nodev", "noexec"}))),
        ("LABEL=a /a ext4 nodev,noexec,exec", Expected("/a", frozenset({"nodev"}))),
        ("LABEL=a /a ext4 ro,noexec,defaults", Expected("/a", frozenset())),
        ("LABEL=a /a ext4 ro", Expected("/a", frozenset(), read_only=True)),
        (
            "LABEL=a /a ext4 users,x-systemd.automount",
            Expected("/a", frozenset({"nodev", "nosuid", "noexec"}), automount=True),
        ),
        (r"LABEL=a /a\040b ext4", Expected("/a b", frozenset())),
        ("LABEL=a /a ext4 noauto", None),
        ("LABEL=a none swap sw", None),
        ("LABEL=a /swap swap sw", None),
        ("# LABEL=a /a ext4 nodev", None),
        ("broken", None),
    ],
)
def test_a_line_of_fstab_is_understood(tmp_path: Path, line: str, expected: Expected | None) -> None:
    file = tmp_path / "fstab"
    file.write_text(line + "\n", encoding="utf-8")

    assert mounts.fstab(file, nofail=False) == (() if expected is None else (expected,))
    assert mounts.fstab(file, nofail=True) == ()


def test_what_may_fail_is_left_to_the_check_with_that_option(tmp_path: Path) -> None:
    file = tmp_path / "fstab"
    file.write_text("LABEL=a /a ext4 ro,nofail\nLABEL=b /b ext4 nofail,noauto\n", encoding="utf-8")

    assert mounts.fstab(file, nofail=False) == ()
    assert mounts.fstab(file, nofail=True) == (Expected("/a", frozenset(), read_only=True),)


def test_without_anything_in_fstab_the_check_passes_and_says_so(tmp_path: Path) -> None:
    outcome = mounts.judge(mounts.fstab(tmp_path / "fstab", nofail=False), {})

    assert outcome.passed
    assert outcome.text == "/etc/fstab has no entry for this check."


DATA = Mount("253:7", "/data", frozenset({"rw", "nodev", "nosuid", "noexec"}), "ext4", frozenset({"rw"}))
MOUNTED = Outcome(True, "Mounted as they should be: /data.")
MISSED = Outcome(False, "/data is not mounted.")


def coming(points: Sequence[str]) -> bool:
    return list(points) == ["/data"]


def test_a_partition_that_is_mounted_a_little_later_is_waited_for() -> None:
    answers: list[dict[str, Mount]] = [{}, {}, {"/data": DATA}]

    outcome = mounts.wait((Expected("/data"),), lambda: answers.pop(0), 30, coming=coming, poll_sec=0.001)

    assert outcome == MOUNTED


def test_a_partition_that_is_always_about_to_come_ends_the_wait_in_time() -> None:
    assert mounts.wait((Expected("/data"),), dict, 0.05, coming=coming, poll_sec=0.01) == MISSED


def test_nobody_waits_for_a_partition_that_systemd_has_given_up() -> None:
    begun = time.monotonic()

    assert mounts.wait((Expected("/data"),), dict, 240, coming=lambda _: False) == MISSED
    assert time.monotonic() - begun < 5


def test_a_partition_that_came_while_systemd_was_asked_is_mounted() -> None:
    answers: list[dict[str, Mount]] = [{}, {"/data": DATA}]

    assert mounts.wait((Expected("/data"),), lambda: answers.pop(0), 240, coming=lambda _: False) == MOUNTED


def test_without_systemd_only_the_time_limit_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")

    assert mounts.wait((Expected("/data"),), dict, 0.05, poll_sec=0.01) == MISSED


@pytest.mark.skipif(shutil.which("systemd-escape") is None, reason="systemd is not installed")
@pytest.mark.parametrize(
    "point", ["/", "/data", "/var/lib/hypernet", "/.a/.b", "/a b-c/d\u00e9_e:f", "/a\\b"]
)
def test_a_mount_point_has_the_unit_that_systemd_gives_it(point: str) -> None:
    argv = ["systemd-escape", "--path", "--suffix=mount", point]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout

    assert mounts.unit_of(point) == said.strip()


NAMESPACE = """
set -e
mkdir "$1/a b" "$1/over"
mount -t tmpfs -o nodev,nosuid,noexec none "$1/a b"
mount -t tmpfs -o nodev,nosuid,noexec none "$1/over"
mount -t tmpfs none "$1/over"
cat /proc/self/mountinfo
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounting needs root")
def test_the_kernels_own_table_of_mounts_is_understood(tmp_path: Path) -> None:
    made = subprocess.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", NAMESPACE, "sh", tmp_path],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    expected = (Expected(f"{tmp_path}/a b"), Expected(f"{tmp_path}/over"), Expected(f"{tmp_path}/none"))

    assert judge(made.stdout, tmp_path, expected) == [
        f"{tmp_path}/over is mounted without nodev, nosuid, noexec.",
        f"{tmp_path}/none is not mounted.",
    ]
