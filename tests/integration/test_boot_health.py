# SPDX-License-Identifier: Apache-2.0
"""Verdicts on a boot: what the administrator's checks lead to, and where that can be read."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.machine import Machine
from tests.integration.root_tree import TOP, USER
from tests.integration.slots import SlotDisk

CHECK = """health_checks:
  - name: probe
    command: {command}
    retries: 0
    required: {required}
"""

COMMANDS = """max_failed_boots: 5
health_checks:
  - {name: who, command: id --user}
  - {name: root, command: id --user, user: root}
  - {name: literal, command: "echo $HOME ${PATH} '%n' ;x *"}
  - {name: privileges, command: grep NoNewPrivs /proc/self/status}
  - {name: write, command: touch /config/x, retries: 0, required: false}
  - {name: slow, command: sleep 60, timeout: 1s, retries: 0, required: false}
  - {name: twice, retries: 1, interval: 0, required: false, command: sh -c "echo a; echo again >&2; exit 3"}
  - {name: absent, command: /nonexistent/program, retries: 0, required: false}
  - {name: later, command: systemctl is-active late.service, user: root, after: [late.service], retries: 0}
  - name: limits
    command: systemctl show hypernet-check-limits-1 --property=MemoryMax,TasksMax,RuntimeMaxUSec
    user: root
    timeout: 7s
  - {name: space, check: disk-space, paths: [/config], min_free: 1K}
"""
LATE = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=sleep 3
"""


class Boots:
    """The machine with slots, booted anew for each verdict."""

    def __init__(self, machine: Machine, slot_disk: SlotDisk) -> None:
        self.machine = machine
        self._slot_disk = slot_disk

    def boot(self, command: str, *, required: bool) -> Machine:
        """Boot with one check of the administrator."""
        return self.boot_with(CHECK.format(command=command, required=str(required).lower()))

    def boot_with(self, text: str) -> Machine:
        """Boot with a health.yaml."""
        if self.machine.running:
            self.machine.stop()
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


@pytest.fixture(scope="module")
def commanding(boots: Boots) -> Iterator[Machine]:
    units = boots.machine.root / "etc/systemd/system"
    wants = units / "multi-user.target.wants/late.service"
    (units / "late.service").write_text(LATE)
    wants.symlink_to("../late.service")
    yield boots.boot_with(COMMANDS)
    wants.unlink()
    (units / "late.service").unlink()


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


def check(machine: Machine, name: str) -> dict[str, Any]:
    """Return what the report says about a check."""
    checks = json.loads(machine.output("cat", "/run/hypernet/health.json"))["checks"]
    (found,) = (each for each in checks if each["name"] == name)
    return dict(found)


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


def test_command_runs_as_a_user_that_exists_only_for_it(commanding: Machine) -> None:
    assert 61184 <= int(check(commanding, "who")["output"]) <= 65519  # systemd.exec(5), DynamicUser=


def test_command_runs_as_the_user_who_is_named(commanding: Machine) -> None:
    assert check(commanding, "root")["output"] == "0"


def test_neither_shell_nor_systemd_touches_the_words_of_a_command(commanding: Machine) -> None:
    assert check(commanding, "literal")["output"] == "$HOME ${PATH} %n ;x *"


def test_command_cannot_gain_privileges_or_write(commanding: Machine) -> None:
    assert check(commanding, "privileges")["output"] == "NoNewPrivs:\t1"
    assert check(commanding, "write")["output"] == "touch: cannot touch '/config/x': Read-only file system"


def test_command_has_limits_of_memory_tasks_and_time(commanding: Machine) -> None:
    limits = check(commanding, "limits")["output"].splitlines()
    assert set(limits) == {"MemoryMax=268435456", "TasksMax=64", "RuntimeMaxUSec=7s"}


def test_command_that_takes_too_long_is_ended(commanding: Machine) -> None:
    slow = check(commanding, "slow")
    assert (slow["result"], slow["detail"]) == ("timeout", "no answer within 1 s")
    assert commanding.run("pgrep", "--full", "sleep 60").returncode == 1


def test_program_that_does_not_exist_is_named(commanding: Machine) -> None:
    assert check(commanding, "absent")["detail"] == "/nonexistent/program cannot be run"


def test_each_attempt_has_its_own_unit_and_its_output_there(commanding: Machine) -> None:
    twice = check(commanding, "twice")
    assert (twice["attempts"], twice["unit"]) == (2, "hypernet-check-twice-2.service")
    assert twice["output"].endswith("\nagain")
    for number in (1, 2):
        unit = f"_SYSTEMD_UNIT=hypernet-check-twice-{number}.service"
        said = commanding.output("journalctl", "--boot", "--quiet", "--output=cat", unit).splitlines()
        assert (len(said), said[-1]) == (2, "again")


def test_check_waits_for_the_units_that_it_comes_after(commanding: Machine) -> None:
    later = check(commanding, "later")
    assert (later["result"], later["output"], later["attempts"]) == ("passed", "active", 1)


def test_built_in_check_has_no_unit(commanding: Machine) -> None:
    space = check(commanding, "space")
    assert (space["result"], space["unit"]) == ("passed", "")


def test_units_of_checks_leave_nothing_behind(commanding: Machine) -> None:
    assert commanding.output("systemctl", "list-units", "--all", "--no-legend", "hypernet-check-*") == ""
    assert commanding.output("systemctl", "list-units", "--failed", "--no-legend") == ""


def test_alert_of_a_degraded_boot_is_raised(commanding: Machine) -> None:
    assert "This boot is degraded. " in commanding.output(
        "journalctl", "--boot", "--quiet", "--unit=hypernet-alerter.service", "--output=cat"
    )
