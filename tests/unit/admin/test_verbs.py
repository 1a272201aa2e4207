# SPDX-License-Identifier: Apache-2.0
"""The verbs that change something, and failures of every verb, from the command line to the bus and back."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.unit.admin.lab import SCRIPT, TOP, Lab

SLOTS: dict[str, Any] = SCRIPT["slots"]
SLOT_A, SLOT_B = SLOTS["Slots"]
STAGED = {"Slots": [SLOT_A, {**SLOT_B, "state": "staged", "tries_left": -1}]}
APPROVED = {"Slots": [SLOT_A, {**SLOT_B, "state": "approved", "tries_left": -1}]}
DENIED = {"version": "0.2.0", "root_hash": "ff", "reason": "no network", "since": 0}


def test_approve_shows_the_slot_and_the_next_step(lab: Lab) -> None:
    lab.start(after={"Approve": APPROVED})

    result = lab.admin("approve")

    assert lab.calls() == [["Approve"]]
    assert result.stdout == (
        "Slot b (version 0.2.0): approved, but not armed: no boot starts it yet.\n"
        "Let the next boot try it: hypernet-admin arm\n"
    )


def test_arm_shows_the_slot_and_the_next_step(lab: Lab) -> None:
    lab.start()

    result = lab.admin("arm")

    assert lab.calls() == [["Arm", {}]]
    assert result.stdout == (
        "Slot b (version 0.2.0): armed: the next boot tries it, 3 tries left.\n"
        "Reboot to start it: systemctl reboot\n"
    )


def test_arm_reboots_when_asked(lab: Lab) -> None:
    lab.start()

    result = lab.admin("arm", "--reboot")

    assert lab.calls() == [["Arm", {"reboot": True}]]
    assert result.stdout == "The machine reboots now and tries slot b (version 0.2.0).\n"


def test_arm_with_a_reboot_in_json(lab: Lab) -> None:
    lab.start()

    result = lab.admin("arm", "--reboot", "--json=short")

    assert json.loads(result.stdout) == {"format": 1, "slot": "b", "version": "0.2.0", "reboot": True}


def test_disarm_shows_that_the_slot_is_only_staged(lab: Lab) -> None:
    lab.start(after={"Disarm": STAGED})

    result = lab.admin("disarm")

    assert lab.calls() == [["Disarm"]]
    assert result.stdout == "Slot b (version 0.2.0): verified, but not armed: no boot starts it yet.\n"


@pytest.mark.parametrize(("verb", "member"), [("approve", "Approve"), ("arm", "Arm"), ("disarm", "Disarm")])
def test_step_that_the_state_does_not_allow_is_one_sentence(lab: Lab, verb: str, member: str) -> None:
    lab.start(refuse={member: ["WrongState", "Slot b is empty; install an image first."]})

    result = lab.admin(verb)

    assert (result.returncode, result.stdout) == (11, "")
    assert result.stderr == "hypernet-admin: Slot b is empty; install an image first.\n"


def test_denied_lists_what_failed_here_and_why(lab: Lab) -> None:
    lab.start(slots={**SLOTS, "Denied": [DENIED]})

    assert lab.admin("denied").stdout == "VERSION  SINCE  REASON\n0.2.0    -      no network\n"
    assert json.loads(lab.admin("denied", "--json").stdout) == {"format": 1, "denied": [DENIED]}


@pytest.mark.parametrize(
    ("argument", "called", "sentence"),
    [
        ("0.2.0", "0.2.0", "Version 0.2.0 may be installed again.\n"),
        ("--all", "all", "No release is denied on this machine any more.\n"),
    ],
)
def test_denied_clear_lets_releases_be_installed_again(
    lab: Lab, argument: str, called: str, sentence: str
) -> None:
    lab.start()

    result = lab.admin("denied", "clear", argument)

    assert lab.calls() == [["ClearDenied", called]]
    assert result.stdout == sentence


def test_denied_clear_in_json_says_how_many(lab: Lab) -> None:
    lab.start()

    assert json.loads(lab.admin("denied", "clear", "--all", "--json").stdout) == {"format": 1, "cleared": 2}


def test_rollback_says_what_the_next_boot_starts(lab: Lab) -> None:
    lab.start()

    result = lab.admin("rollback", "--reason", "too slow")

    assert lab.calls() == [["Rollback", {"reboot": False, "reason": "too slow"}]]
    assert result.stdout == (
        "The next boot starts slot b (version 0.2.0).\nReboot to start it: systemctl reboot\n"
    )


def test_rollback_reboots_when_asked(lab: Lab) -> None:
    lab.start()

    result = lab.admin("rollback", "--reboot")

    assert lab.calls() == [["Rollback", {"reboot": True}]]
    assert result.stdout == "The machine reboots now into slot b (version 0.2.0).\n"


def test_rollback_in_json(lab: Lab) -> None:
    lab.start()

    result = lab.admin("rollback", "--json=short")

    assert json.loads(result.stdout) == {"format": 1, "slot": "b", "version": "0.2.0", "reboot": False}


def test_refused_rollback_has_the_exit_status_of_policy(lab: Lab) -> None:
    lab.start(refuse={"Rollback": ["OtherSlotNotGood", "Slot b is not good."]})

    result = lab.admin("rollback")

    assert (result.returncode, result.stderr) == (11, "hypernet-admin: Slot b is not good.\n")


def test_mark_good_shows_the_slot_as_it_is_then(lab: Lab) -> None:
    lab.start()

    result = lab.admin("mark", "good", "other")

    assert lab.calls() == [["MarkGood", "other"]]
    assert result.stdout == "Slot b (version 0.2.0): armed: the next boot tries it, 3 tries left.\n"


def test_mark_bad_passes_the_reason(lab: Lab) -> None:
    lab.start()

    lab.admin("mark", "bad", "b", "--reason", "no network")

    assert lab.calls() == [["MarkBad", "b", "no network"]]


def test_mark_bad_without_a_reason_says_who_did_it(lab: Lab) -> None:
    lab.start()

    lab.admin("mark", "bad", "b")

    assert lab.calls() == [["MarkBad", "b", "marked bad by an administrator"]]


def test_mark_in_json_prints_the_slot(lab: Lab) -> None:
    lab.start()

    result = lab.admin("mark", "good", "b", "--json=short")

    assert json.loads(result.stdout)["name"] == "b"


@pytest.mark.parametrize("verb", [["status"], ["health"], ["update", "--image=/x"], ["rollback"]])
def test_missing_agent_is_one_sentence_that_names_the_unit(lab: Lab, verb: list[str]) -> None:
    result = lab.admin(*verb)

    unit = "hypernet-boot-health-bus" if verb == ["health"] else "hypernet-slot-manager"
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (7, "", 1)
    assert f"'journalctl -u {unit}.service' says why.\n" in result.stderr


def test_missing_bus_is_one_sentence(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lab.environment, "DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nothing")

    result = lab.admin("status")

    assert (result.returncode, result.stderr.count("\n")) == (7, 1)
    assert result.stderr.startswith("hypernet-admin: Cannot connect to the system bus")


def test_usage_error_is_one_sentence(lab: Lab) -> None:
    result = lab.admin("update")

    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "hypernet-admin: The following arguments are required: --image;" in result.stderr


def test_reader_that_goes_away_is_no_error_message(lab: Lab) -> None:
    lab.start()
    reader, writer = os.pipe()
    os.close(reader)

    process = lab.popen("status", stdout=writer)
    os.close(writer)
    _, stderr = process.communicate(timeout=20)

    assert (process.returncode, stderr) == (1, "")


@pytest.mark.parametrize("name", ["SlotManager1", "BootHealth1"])
def test_stand_ins_of_these_tests_have_only_members_of_the_interface_files(lab: Lab, name: str) -> None:
    lab.start()
    address = f"--address={os.environ['DBUS_SYSTEM_BUS_ADDRESS']}"
    argv = [
        "busctl",
        address,
        "introspect",
        "--xml-interface",
        f"io.hypernet.{name}",
        f"/io/hypernet/{name}",
    ]
    shown = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout
    documented = (TOP / f"units/dbus/interfaces/io.hypernet.{name}.xml").read_text()

    assert members(shown, f"io.hypernet.{name}") - members(documented, f"io.hypernet.{name}") == set()


def members(xml: str, interface: str) -> set[tuple[str, str]]:
    """Return name and types of each method and property."""
    (found,) = (each for each in ElementTree.fromstring(xml) if each.get("name") == interface)
    return {
        (
            str(member.get("name")),
            member.get("type")
            or " ".join(f"{arg.get('direction')}:{arg.get('type')}" for arg in member.iter("arg")),
        )
        for member in found
        if member.tag in ("method", "property")
    }
