# SPDX-License-Identifier: Apache-2.0
"""The text that people read."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from agents.admin import render
from agents.admin.model import Check, Health, Slots, json_keys

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
        "         Booted: slot a (version 0.1.0)\n"
        "      Next boot: tries slot b (version 0.2.0), 3 tries left; if it does not prove good, slot a "
        "(version 0.1.0) is started again\n"
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


def test_status_lists_each_known_release_with_the_rule_that_refused_it() -> None:
    releases = [
        {"version": "0.1.0", "verdict": "running", "rule": "", "reason": "", "since": 0},
        {
            "version": "0.2.0",
            "verdict": "denied",
            "rule": "denylist",
            "reason": "check network failed",
            "since": 1_750_000_000_000_000,
        },
    ]

    assert (
        "RELEASE  VERDICT  RULE      SINCE                        REASON\n"
        "0.1.0    running  -         -\n"
        "0.2.0    denied   denylist  Sun 2025-06-15 15:06:40 UTC  check network failed\n"
        "\n"
    ) in render.status(slots(Releases=releases), "healthy")


def test_status_says_why_a_slot_came_into_its_state() -> None:
    transitions = [
        {"slot": "b", "version": "0.2.0", "state": "armed", "reason": "installed by root"},
        {"slot": "a", "version": "0.1.0", "state": "good", "reason": "blessed"},
    ]

    text = render.status(slots(Transitions=transitions), "healthy")

    assert "          State: good\n            Why: blessed\n" in text
    assert "            Why: installed by root\n" in text


def test_status_does_not_explain_a_state_by_an_older_one() -> None:
    transitions = [
        {"slot": "b", "version": "0.2.0", "state": "armed", "reason": "installed by root"},
        {"slot": "b", "version": "0.2.0", "state": "staged", "reason": "disarmed"},
    ]

    assert "Why:" not in render.status(slots(Transitions=transitions), "healthy")


def test_status_shows_own_attempts_and_approval() -> None:
    trial = {**ARMED_B, "state": "trying", "attempts": 2, "approved": True}

    text = render.status(slots(Slots=[GOOD_A, trial]), "healthy")

    assert "       Attempts: 2 counted by this machine itself\n       Approved: yes\n" in text


def test_status_shows_the_last_good_slot_and_the_floor() -> None:
    good = {"slot": "a", "version": "0.1.0", "since": 1_750_000_000_000_000}
    floor = {"serial": 1_000_000, "min_version": "0.0.9", "key_epoch": 2, "signed": 1_750_000_000_000_000}

    text = render.status(slots(LastGood=good, Floor=floor), "healthy")

    assert "      Last good: 0.1.0 (slot a), proven Sun 2025-06-15 15:06:40 UTC\n" in text
    assert (
        "          Floor: nothing below version 0.0.9; nothing below serial 1000000 without "
        "--allow-downgrade; keys of epoch 2 or later; newest signed time Sun 2025-06-15 15:06:40 UTC\n"
    ) in text


def test_status_says_nothing_about_a_floor_of_zeros() -> None:
    floor = {"serial": 0, "min_version": "", "key_epoch": 0, "signed": 0}

    assert "Floor:" not in render.status(slots(Floor=floor), "healthy")


def test_slots_are_one_line_each() -> None:
    assert render.slots_table(slots().slots) == (
        "SLOT  STATE  VERSION  BOOTED  NEXT  SINCE\n"
        "a     good   0.1.0    yes     -     Sun 2025-06-15 15:06:40 UTC\n"
        "b     armed  0.2.0    -       yes   -\n"
    )


def test_log_is_one_line_for_each_transition() -> None:
    transition = {"since": 1, "slot": "b", "version": "0.2.0", "state": "bad", "reason": "no network"}

    assert render.log(slots(Transitions=[transition]).transitions) == (
        "TIME                         SLOT  VERSION  STATE  REASON\n"
        "Thu 1970-01-01 00:00:00 UTC  b     0.2.0    bad    no network\n"
    )


def test_empty_log_says_so() -> None:
    assert render.log(()) == "No change of a slot is recorded yet.\n"


def test_denied_releases_are_listed_with_their_reason() -> None:
    release = {"version": "0.2.0", "since": 0, "reason": "check network failed"}

    assert render.denied(slots(Denied=[release]).denied) == (
        "VERSION  SINCE  REASON\n0.2.0    -      check network failed\n"
    )


def test_empty_denylist_says_so() -> None:
    assert render.denied(()) == "No release is denied on this machine.\n"


def test_time_that_is_no_date_is_still_shown() -> None:
    transition = {"since": 1 << 62, "slot": "b", "version": "0.2.0", "state": "bad", "reason": ""}

    assert "@4611686018427387904  b" in render.log(slots(Transitions=[transition]).transitions)


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


def test_health_names_the_journal_of_a_failed_checks_unit_and_the_failed_boots() -> None:
    check = Check("net", True, "failed", 1.0, 1, "no route", "hypernet-check-net-1.service")

    text = render.health(Health("degraded", "no net", False, (check,), consecutive_failures=2))

    assert text.startswith("Health: degraded: no net\nFailed boots: 2 in a row, this one included\n\n")
    assert text.endswith("  no route\nAll of it: journalctl -b -u hypernet-check-net-1.service\n")


def test_single_check_is_shown_with_all_of_its_output() -> None:
    result = Check("net", True, "failed", 1.25, 2, "\n".join("abcdefg"))

    assert render.check(result) == "Check net: failed (1.2 s, 2 attempts)\n" + "".join(
        f"  {letter}\n" for letter in "abcdefg"
    )


def test_status_shows_the_failed_boots_below_the_health() -> None:
    text = render.status(slots(), "degraded: no net", "2 in a row, this one included")

    assert text.endswith("Health: degraded: no net\n   Failed boots: 2 in a row, this one included\n")


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
