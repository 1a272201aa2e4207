# SPDX-License-Identifier: Apache-2.0
"""Verdicts on a boot: what the administrator's checks lead to, and where that can be read."""

import json
import re
from typing import Any

import pytest

from tests.integration.machine import Machine
from tests.integration.root_tree import TOP, USER
from tests.integration.slots import SlotDisk

CHECK = """health_checks:
  - name: probe
    command: {command}
    attempts: 1
    required: {required}
"""


class Boots:
    """The machine with slots, booted anew for each verdict."""

    def __init__(self, machine: Machine, slot_disk: SlotDisk) -> None:
        self.machine = machine
        self._slot_disk = slot_disk

    def boot(self, command: str, *, required: bool) -> Machine:
        """Boot with one check of the administrator."""
        if self.machine.running:
            self.machine.stop()
        text = CHECK.format(command=command, required=str(required).lower())
        (self.machine.config / "hypernet/health.yaml").write_text(text)
        assert self._slot_disk.boot_loader() == "a"
        self.machine.boot()
        return self.machine


@pytest.fixture(scope="module")
def boots(machine: Machine, slot_disk: SlotDisk) -> Boots:
    return Boots(machine, slot_disk)


@pytest.fixture(scope="module")
def healthy(boots: Boots) -> Machine:
    return boots.boot("/bin/true", required=True)


@pytest.fixture(scope="module")
def degraded(boots: Boots) -> Machine:
    return boots.boot("/bin/sh -c 'echo the disk is on fire; exit 3'", required=True)


@pytest.fixture(scope="module")
def wanting(boots: Boots) -> Machine:
    return boots.boot("/bin/false", required=False)


@pytest.fixture(scope="module")
def misconfigured(boots: Boots) -> Machine:
    return boots.boot("/bin/true\n    colour: blue", required=True)


def state(machine: Machine, unit: str) -> str:
    return machine.run("systemctl", "is-active", unit).stdout.strip()


def our_entries(machine: Machine) -> list[dict[str, str]]:
    """Return the journal entries of this boot that have a MESSAGE_ID of ours."""
    lines = machine.output("journalctl", "--boot", "--output=json", "--no-pager").splitlines()
    entries: list[dict[str, str]] = [json.loads(line) for line in lines]
    return [entry for entry in entries if entry.get("MESSAGE_ID") in catalog_ids()]


def catalog_ids() -> set[str]:
    catalogs = (TOP / "units/catalog").glob("*.catalog")
    return {each for path in catalogs for each in re.findall(r"^-- ([0-9a-f]{32})", path.read_text(), re.M)}


def health(machine: Machine) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(machine.run("hypernet-admin", "health", "--json=short").stdout)
    return values


# The tests of one boot stand together: the next fixture boots the machine again.


def test_boot_is_complete_when_every_check_passes(healthy: Machine) -> None:
    assert state(healthy, "boot-complete.target") == "active"


def test_healthy_machine_is_running_without_a_failed_unit(healthy: Machine) -> None:
    assert healthy.output("systemctl", "is-system-running") == "running"
    assert healthy.output("systemctl", "list-units", "--failed", "--no-legend") == ""


def test_healthy_boot_is_blessed(healthy: Machine) -> None:
    assert healthy.output("systemctl", "show", "--value", "--property=Result", "hypernet-bless") == "success"
    assert state(healthy, "hypernet-bless") == "active"


def test_admin_says_healthy(healthy: Machine) -> None:
    result = healthy.run("hypernet-admin", "health")

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Health: healthy\n")


def test_status_shows_the_slots_of_a_healthy_machine(healthy: Machine) -> None:
    result = healthy.run("hypernet-admin", "status", user=USER)

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Slot a (booted, next boot)\n          State: good")
    assert "\n\nSlot b\n          State: empty" in result.stdout
    assert "\n         Health: healthy\n" in result.stdout


def test_failed_required_check_keeps_the_boot_from_being_complete(degraded: Machine) -> None:
    assert state(degraded, "boot-complete.target") == "inactive"
    assert state(degraded, "hypernet-bless") == "inactive"


def test_boot_with_a_failed_check_goes_on_on_a_good_slot(degraded: Machine) -> None:
    assert state(degraded, "multi-user.target") == "active"


def test_admin_says_degraded_and_shows_what_the_check_said(degraded: Machine) -> None:
    result = degraded.run("hypernet-admin", "health")

    assert (result.returncode, result.stderr) == (20, "")
    assert result.stdout.startswith("Health: degraded: ")
    assert "\nLast output of probe:\n  the disk is on fire\n" in result.stdout


def test_status_of_a_degraded_machine_succeeds(degraded: Machine) -> None:
    result = degraded.run("hypernet-admin", "status")

    assert result.returncode == 0
    assert "\n         Health: degraded: " in result.stdout


def test_decision_to_stay_is_in_the_journal_with_an_explanation(degraded: Machine) -> None:
    entries = our_entries(degraded)

    assert any("stays in this boot" in entry["MESSAGE"] for entry in entries)
    for entry in entries:
        identity = entry["MESSAGE_ID"]
        shown = degraded.output("journalctl", "--boot", "--catalog", "--no-pager", f"MESSAGE_ID={identity}")
        assert "\n░░ Subject: " in shown, entry["MESSAGE"]


def test_decision_unit_itself_does_not_fail(degraded: Machine) -> None:
    failed = degraded.output("systemctl", "list-units", "--failed", "--no-legend", "--plain")

    assert [line.split()[0] for line in failed.splitlines()] == ["hypernet-boot-health.service"]


def test_message_of_the_day_tells_a_user_who_logs_in(degraded: Machine) -> None:
    assert "degraded" in degraded.output("cat", "/run/motd.d/hypernet", user=USER)


def test_administrator_can_run_the_checks_again_after_a_repair(degraded: Machine) -> None:
    (degraded.config / "hypernet/health.yaml").unlink()

    degraded.output("systemctl", "restart", "hypernet-boot-health.service")

    assert health(degraded)["state"] == "healthy"


def test_failed_wanted_check_degrades_but_the_boot_is_complete(wanting: Machine) -> None:
    assert state(wanting, "boot-complete.target") == "active"
    assert health(wanting)["state"] == "degraded"


def test_mistake_in_health_yaml_is_named_with_file_and_line(misconfigured: Machine) -> None:
    assert "/config/hypernet/health.yaml:4" in health(misconfigured)["reason"]
