# SPDX-License-Identifier: Apache-2.0
"""The text that people read."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from agents.admin import render
from agents.admin.model import Check, Health, Rollback, Slot, Slots, json_keys

GOOD_A: dict[str, Any] = {
    "name": "a",
    "state": "good",
    "version": "0.1.0",
    "root_hash": "0123456789abcdef" * 4,
    "booted": True,
    "default": False,
    "tries_left": -1,
    "tries_done": 0,
    "reason": "",
    "since": 1_750_000_000_000_000,
}
ARMED_B: dict[str, Any] = {
    "name": "b",
    "state": "armed",
    "version": "0.2.0",
    "root_hash": "",
    "booted": False,
    "default": True,
    "tries_left": 3,
    "tries_done": 0,
    "reason": "",
    "since": 0,
}


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as context:
        context.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def slots(**properties: Any) -> Slots:
    return Slots.from_bus({"Slots": [GOOD_A, ARMED_B], "BootedSlot": "a", "DefaultSlot": "b", **properties})


def slot(**values: Any) -> Slot:
    return Slot.from_bus({**GOOD_A, **values})


def test_status_shows_both_slots_and_what_the_next_boot_starts() -> None:
    assert render.status(slots(Operation="idle"), "healthy") == (
        "Slot a (booted)\n"
        "          State: good\n"
        "        Version: 0.1.0\n"
        "      Root hash: 0123456789abcdef...\n"
        "          Since: Sun 2025-06-15 15:06:40 UTC\n"
        "\n"
        "Slot b (next boot)\n"
        "          State: armed: the next boot tries it, 3 tries left\n"
        "        Version: 0.2.0\n"
        "\n"
        "         Booted: slot a\n"
        "      Next boot: slot b\n"
        "         Health: healthy\n"
    )


def test_status_says_what_was_rolled_back_from_where_to_where_and_why() -> None:
    rolled_back = {
        "from": "b",
        "from_version": "0.2.0",
        "to": "a",
        "to_version": "0.1.0",
        "reason": "check network failed",
        "since": 1_750_000_000_000_000,
    }

    text = render.status(slots(LastRollback=rolled_back), "healthy")

    assert (
        "  Last rollback: from 0.2.0 (slot b) to 0.1.0 (slot a): check network failed "
        "(Sun 2025-06-15 15:06:40 UTC)\n"
    ) in text


def test_status_shows_a_running_install_and_the_last_error() -> None:
    text = render.status(slots(Operation="installing", LastError="The image is truncated."), "healthy")

    assert "    Running now: installing\n" in text
    assert "     Last error: The image is truncated.\n" in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"state": "empty"}, "empty"),
        ({"state": "trying", "tries_left": 1, "tries_done": 2}, "on trial, 1 try left, 2 used"),
        ({"state": "good", "tries_left": 5}, "good, 5 tries left"),
        ({"state": "bad", "reason": "kernel panic", "tries_left": 0}, "bad: kernel panic"),
        ({"state": "staged"}, "verified, but not armed: no boot starts it yet"),
        ({"state": "something new"}, "something new"),
    ],
)
def test_state_of_a_slot_is_said_in_words(values: dict[str, Any], words: str) -> None:
    assert render.slot_state(slot(**values)) == words


def test_rollback_without_a_known_version_says_so() -> None:
    last = Rollback.from_bus({"from": "b", "to": "a"})

    assert last is not None
    assert render.rollback(last) == "from an unknown version (slot b) to an unknown version (slot a)"


def test_empty_dictionary_means_that_nothing_was_rolled_back() -> None:
    assert Rollback.from_bus({}) is None


@pytest.mark.parametrize(
    ("health", "line"),
    [
        (Health("healthy", "", False, ()), "healthy"),
        (Health("degraded", "check disk failed", False, ()), "degraded: check disk failed"),
        (
            Health("checking", "", True, ()),
            "the checks of this boot are still running (this boot is a trial)",
        ),
        (
            Health("failed", "", False, (Check("api", True, "timeout", 300.0, 7, ""),)),
            "failed: failed checks: api",
        ),
    ],
)
def test_health_is_one_line(health: Health, line: str) -> None:
    assert render.health_line(health) == line


def test_health_lists_each_check_and_the_end_of_a_failed_checks_output() -> None:
    output = "\n".join(f"line {number}" for number in range(1, 9))
    checks = (
        Check("units", True, "passed", 0.21, 1, "fine"),
        Check("net", False, "failed", 10.0, 3, output),
    )

    assert render.health(Health("degraded", "check net failed", False, checks)) == (
        "Health: degraded: check net failed\n"
        "\n"
        "CHECK  KIND      RESULT  TIME    ATTEMPTS\n"
        "units  required  passed  0.2 s   1\n"
        "net    wanted    failed  10.0 s  3\n"
        "\n"
        "Last output of net:\n"
        "  line 4\n"
        "  line 5\n"
        "  line 6\n"
        "  line 7\n"
        "  line 8\n"
    )


def test_output_of_a_check_cannot_steer_the_terminal() -> None:
    check = Check("net", True, "failed", 1.0, 1, "\x1b[2Jgone")

    assert "\x1b" not in render.health(Health("failed", "\x1b]0;title\x07", False, (check,)))


@pytest.mark.parametrize(("name", "found"), [("a", "a"), ("b", "b"), ("booted", "a"), ("other", "b")])
def test_slot_is_found_by_each_of_its_names(name: str, found: str) -> None:
    slot = slots().find(name)

    assert slot is not None
    assert slot.name == found


def test_json_keys_are_the_property_names_in_lower_case() -> None:
    assert json_keys({"BootedSlot": "a", "Slots": []}) == {"booted_slot": "a", "slots": []}
