# SPDX-License-Identifier: Apache-2.0
"""The verbs that look at the machine, from the command line to the bus and back."""

import json
from typing import Any

import pytest

from tests.unit.admin.lab import SCRIPT, Lab

SLOTS: dict[str, Any] = SCRIPT["slots"]
SLOT_A, SLOT_B = SLOTS["Slots"]
STAGED = {"Slots": [SLOT_A, {**SLOT_B, "state": "staged", "tries_left": -1}]}


def test_status_shows_slots_and_health(lab: Lab) -> None:
    lab.start()

    result = lab.admin("status")

    assert (result.returncode, result.stderr) == (0, "")
    assert "Slot a (booted, next boot)\n          State: good, 5 tries left\n" in result.stdout
    assert "         Health: healthy\n" in result.stdout


def test_status_succeeds_on_a_degraded_machine(lab: Lab) -> None:
    lab.start(health={"State": "degraded", "Reason": "Check net failed.", "Checks": []})

    result = lab.admin("status")

    assert result.returncode == 0
    assert "Health: degraded: Check net failed.\n" in result.stdout


def test_status_shows_the_slots_when_health_cannot_be_asked(lab: Lab) -> None:
    lab.start("slots")

    result = lab.admin("status")

    assert result.returncode == 0
    assert "Slot b\n" in result.stdout
    assert "Health: unknown: io.hypernet.BootHealth1 cannot be reached" in result.stdout


def test_status_in_json_has_the_properties_and_the_health(lab: Lab) -> None:
    lab.start()

    result = lab.admin("status", "--json=short")

    values = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert (values["booted_slot"], values["slots"][1]["version"]) == ("a", "0.2.0")
    assert values["health"] == {
        **{"state": "healthy", "reason": ""},
        **{"checks": [], "consecutive_failures": 0},
    }
    assert values["next_boot"] == "starts slot a (version 0.1.0) again"
    assert values["check"]["name"] == "RebootNeeded"


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"slots": {**SLOTS, **STAGED}}, 0, "All is well: slot a (version 0.1.0)"),
        ({"health": {"State": "degraded", "Reason": "No net.", "Checks": []}}, 20, "degraded: No net; see"),
        ({}, 23, "slot b (version 0.2.0) waits to be started"),
        ({"slots": {**SLOTS, **STAGED, "LastRollback": {"from": "b", "since": 1}}}, 24, "went back"),
    ],
    ids=["well", "unhealthy", "reboot-needed", "rolled-back"],
)
def test_status_check_is_one_line_and_an_exit_status(
    lab: Lab, changes: dict[str, Any], status: int, words: str
) -> None:
    lab.start(**changes)

    result = lab.admin("status", "--check")

    assert (result.returncode, result.stdout.count("\n"), result.stderr) == (status, 1, "")
    assert words in result.stdout


def test_status_check_does_not_take_a_missing_answer_for_good_health(lab: Lab) -> None:
    lab.start("slots")

    result = lab.admin("status", "--check")

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (7, "", 1)


def test_status_check_in_json_has_the_verdict_and_its_exit_status(lab: Lab) -> None:
    lab.start()

    result = lab.admin("status", "--check", "--json=short")

    assert result.returncode == 23
    assert json.loads(result.stdout)["check"]["exit_status"] == 23


def test_slots_are_a_short_table(lab: Lab) -> None:
    lab.start()

    assert lab.admin("slots").stdout.splitlines() == [
        "SLOT  STATE  VERSION  BOOTED  NEXT  SINCE",
        "a     good   0.1.0    yes     yes   -",
        "b     armed  0.2.0    -       -     -",
    ]


def test_slots_in_json_are_those_of_status(lab: Lab) -> None:
    lab.start()

    slots = json.loads(lab.admin("slots", "--json").stdout)

    assert slots == {"format": 1, "slots": json.loads(lab.admin("status", "--json").stdout)["slots"]}


def test_log_shows_the_reason_of_each_transition(lab: Lab) -> None:
    transition = {"since": 0, "slot": "b", "version": "0.2.0", "state": "bad", "reason": "no network"}
    lab.start(slots={**SLOTS, "Transitions": [transition]})

    assert lab.admin("log").stdout.splitlines()[1].split() == ["-", "b", "0.2.0", "bad", "no", "network"]
    assert json.loads(lab.admin("log", "--json").stdout)["transitions"] == [transition]


def test_health_in_json_is_pretty_when_nothing_else_is_asked_for(lab: Lab) -> None:
    lab.start()

    result = lab.admin("--json", "health")

    assert result.stdout == (
        '{\n    "format": 1,\n    "state": "healthy",\n    "reason": "",\n    "checks": [],\n'
        '    "consecutive_failures": 0\n}\n'
    )


@pytest.mark.parametrize(
    ("state", "status"),
    [("healthy", 0), ("degraded", 20), ("failed", 20), ("checking", 20), ("unknown", 20)],
)
def test_exit_status_of_health_says_whether_the_boot_is_healthy(lab: Lab, state: str, status: int) -> None:
    lab.start("health", health={"State": state, "Reason": "", "Checks": []})

    assert lab.admin("health").returncode == status
