# SPDX-License-Identifier: Apache-2.0
"""The sentences about slots, the next boot and the machine as a whole."""

from typing import Any

import pytest

from agents.admin import explain
from agents.admin.model import Check, Health, Rollback, Slot, Slots

HEALTHY = Health("healthy")
A: dict[str, Any] = {"name": "a", "state": "good", "version": "0.1.0", "booted": True}
B: dict[str, Any] = {"name": "b", "state": "good", "version": "0.2.0"}
WENT_BACK = {"from": "b", "from_version": "0.2.0", "to": "a", "to_version": "0.1.0", "since": 20}


def slots(a: dict[str, Any], b: dict[str, Any], default: str = "a", **properties: Any) -> Slots:
    return Slots.from_bus({"Slots": [{**A, **a}, {**B, **b}], "DefaultSlot": default, **properties})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"state": "empty"}, "empty"),
        (
            {"state": "empty", "reason": "the installation of 0.2.0 was interrupted"},
            "empty: the installation of 0.2.0 was interrupted",
        ),
        ({"state": "trying", "tries_left": 1, "tries_done": 2}, "on trial, 1 try left, 2 used"),
        ({"state": "good", "tries_left": 5}, "good, 5 tries left"),
        ({"state": "good", "tries_left": 0}, "good, and lets the older slot go first"),
        ({"state": "armed", "tries_left": 3, "reason": "arm it again"}, "armed: arm it again, 3 tries left"),
        ({"state": "bad", "reason": "kernel panic", "tries_left": 0}, "bad: kernel panic"),
        ({"state": "staged"}, "verified, but not armed: no boot starts it yet"),
        ({"state": "approved"}, "approved, but not armed: no boot starts it yet"),
        ({"state": "something new"}, "something new"),
    ],
)
def test_state_of_a_slot_is_said_in_words(values: dict[str, Any], words: str) -> None:
    assert explain.slot_state(Slot.from_bus(values)) == words


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        (slots({}, {"state": "empty", "version": ""}), "starts slot a (version 0.1.0) again"),
        (
            slots({}, {"state": "staged"}),
            "starts slot a (version 0.1.0) again; slot b (version 0.2.0) is staged and is not started "
            "before 'hypernet-admin arm'",
        ),
        (
            slots({}, {"state": "approved"}),
            "starts slot a (version 0.1.0) again; slot b (version 0.2.0) is approved and is not started "
            "before 'hypernet-admin arm'",
        ),
        (
            slots({}, {"state": "armed", "tries_left": 3}, "b"),
            "tries slot b (version 0.2.0), 3 tries left; if it does not prove good, slot a (version 0.1.0) "
            "is started again",
        ),
        (
            slots({"state": "trying", "tries_left": 1}, {}),
            "starts slot a (version 0.1.0), still on trial, 1 try left; if it does not prove good, slot b "
            "(version 0.2.0) is started again",
        ),
        (slots({"state": "bad"}, {}, "b"), "starts slot b (version 0.2.0)"),
        (
            slots({"state": "bad"}, {"state": "bad"}),
            "starts slot a (version 0.1.0), which is bad, because there is nothing better",
        ),
        (
            slots({"state": "bad"}, {"state": "empty"}, ""),
            "neither slot can be started: install an image before the next reboot",
        ),
    ],
)
def test_next_boot_is_explained(known: Slots, sentence: str) -> None:
    assert explain.next_boot(known) == sentence


def test_rollback_without_a_known_version_says_so() -> None:
    last = Rollback.from_bus({"from": "b", "to": "a"})

    assert explain.rollback(last) == "from an unknown version (slot b) to an unknown version (slot a)"


def test_empty_dictionary_means_that_nothing_was_rolled_back() -> None:
    assert slots({}, {}, LastRollback={}).last_rollback is None


@pytest.mark.parametrize(
    ("health", "line"),
    [
        (HEALTHY, "healthy"),
        (Health("degraded", "check disk failed"), "degraded: check disk failed"),
        (
            Health("checking", trial=True),
            "the checks of this boot are still running (this boot is a trial)",
        ),
        (
            Health("checking", deadline_usec=1_800_000_000_000_000),
            "the checks of this boot are still running, until Fri 2027-01-15 08:00:00 UTC at the latest",
        ),
        (
            Health("failed", checks=(Check("api", True, "timeout", 300.0, 7, ""),)),
            "failed: failed checks: api",
        ),
    ],
)
def test_health_is_one_line(health: Health, line: str) -> None:
    assert explain.health_line(health) == line


@pytest.mark.parametrize(("count", "line"), [(0, ""), (1, "this one"), (3, "3 in a row, this one included")])
def test_failed_boots_in_a_row_are_counted_in_words(count: int, line: str) -> None:
    assert explain.failures_line(Health("degraded", consecutive_failures=count)) == line


@pytest.mark.parametrize(("count", "line"), [(0, ""), (1, "1 in a row before this one")])
def test_while_the_checks_run_this_boot_is_not_among_the_failed_ones(count: int, line: str) -> None:
    assert explain.failures_line(Health("checking", consecutive_failures=count)) == line


@pytest.mark.parametrize(
    ("known", "health", "status"),
    [
        (slots({}, {}), HEALTHY, 0),
        (slots({}, {}), Health("degraded"), 20),
        (slots({}, {}), Health("checking"), 20),
        (slots({}, {"state": "armed"}, "b"), HEALTHY, 23),
        (slots({}, {"state": "staged"}), HEALTHY, 0),
        (slots({}, {"state": "armed"}, "b"), Health("degraded"), 20),
        (slots({}, {}, LastRollback=WENT_BACK), HEALTHY, 24),
        (slots({}, {}, LastRollback=WENT_BACK, LastGood={"slot": "a", "since": 10}), HEALTHY, 24),
        (slots({}, {}, LastRollback=WENT_BACK, LastGood={"version": "0.3.0", "since": 30}), HEALTHY, 0),
        (slots({}, {}, LastRollback=WENT_BACK, LastGood={"version": "0.1.0", "since": 30}), HEALTHY, 24),
        (slots({}, {"state": "armed"}, "b", LastRollback=WENT_BACK), HEALTHY, 23),
    ],
)
def test_machine_is_judged_by_an_exit_status(known: Slots, health: Health, status: int) -> None:
    assert explain.judge(known, health).exit_status == status


def test_verdict_on_a_rollback_says_what_happened_and_what_to_do() -> None:
    verdict = explain.judge(slots({}, {}, LastRollback={**WENT_BACK, "reason": "no network"}), HEALTHY)

    assert verdict.name == "RolledBack"
    assert verdict.message.startswith(
        "The machine went back from 0.2.0 (slot b) to 0.1.0 (slot a): no network ("
    )
    assert verdict.message.endswith("; install a newer version.")
