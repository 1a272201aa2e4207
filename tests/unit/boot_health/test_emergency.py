# SPDX-License-Identifier: Apache-2.0
"""emergency.sh with the real /bin/sh: status 0 is "stay", anything else makes systemd reboot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common import process

from .conftest import Tree

SCRIPT = Path(__file__).parents[3] / "agents/boot_health/emergency.sh"
COUNT_PATH = "\\EFI\\Linux\\hypernet_2.0.0+2-1.efi"


def run(tree: Tree) -> process.Completed:
    env = {
        "HYPERNET_EFIVARS": str(tree.places.efivars),
        "HYPERNET_REPORT": str(tree.places.report),
        "HYPERNET_WAIT_SEC": "0",
    }
    return process.run(["/bin/sh", str(SCRIPT)], timeout_sec=30, env=env, success=None)


def systemd_boot(tree: Tree, selected: str, *, counted: bool) -> None:
    tree.efi("LoaderInfo", "systemd-boot 252.39-1~deb12u2")
    tree.efi("LoaderEntrySelected", selected)
    if counted:
        tree.efi("LoaderBootCountPath", COUNT_PATH)


def test_a_counted_boot_with_tries_left_reboots_and_says_so(tree: Tree) -> None:
    systemd_boot(tree, "hypernet_2.0.0+3.efi", counted=True)
    done = run(tree)
    assert done.returncode == 1
    assert b"the machine reboots in 0 seconds" in done.stdout


@pytest.mark.parametrize(
    "selected", ["hypernet_2.0.0+0-3.efi", "hypernet_2.0.0+0.efi", "hypernet_2.0.0+0-3"]
)
def test_a_boot_without_tries_left_stays(tree: Tree, selected: str) -> None:
    systemd_boot(tree, selected, counted=True)
    done = run(tree)
    assert done.returncode == 0
    assert b"no tries left" in done.stdout


def test_the_last_try_still_reboots(tree: Tree) -> None:
    systemd_boot(tree, "hypernet_2.0.0+1-2.efi", counted=True)
    assert run(tree).returncode == 1


def test_an_entry_that_systemd_boot_does_not_count_stays(tree: Tree) -> None:
    systemd_boot(tree, "hypernet_2.0.0.efi", counted=False)
    done = run(tree)
    assert done.returncode == 0
    assert b"did not count it" in done.stdout


def test_a_counted_boot_of_a_loader_that_hides_the_counter_reboots(tree: Tree) -> None:
    systemd_boot(tree, "hypernet_2.0.0.efi", counted=True)
    assert run(tree).returncode == 1


def test_a_boot_that_the_loader_could_not_count_stays_instead_of_rebooting_for_ever(tree: Tree) -> None:
    systemd_boot(tree, "hypernet_2.0.0+3.efi", counted=False)
    assert run(tree).returncode == 0


def test_a_boot_by_another_loader_stays(tree: Tree) -> None:
    assert run(tree).returncode == 0


@pytest.mark.parametrize(
    ("state", "status"), [("healthy", 0), ("degraded", 0), ("checking", 1), ("failed", 1)]
)
def test_emergency_mode_after_a_verdict_to_stay_stays(tree: Tree, state: str, status: int) -> None:
    systemd_boot(tree, "hypernet_2.0.0+3.efi", counted=True)
    tree.places.report.write_text(f'{{\n "state": "{state}",\n "reason": ""\n}}\n', encoding="utf-8")
    assert run(tree).returncode == status


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    process.run(["shellcheck", "--shell=sh", str(SCRIPT)], timeout_sec=60)
