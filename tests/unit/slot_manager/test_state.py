# SPDX-License-Identifier: Apache-2.0
"""Derivation of states: every combination of entry, record and loader facts as one line of a table."""

from __future__ import annotations

import pytest

from agents.slot_manager.loader import Entry, Facts
from agents.slot_manager.record import Installing, Pending, Record, Transition
from agents.slot_manager.state import State, default_slot, derive, is_exhausted_boot
from agents.slot_manager.systemd_boot import format_name, parse_name

HASHES = {"a": "aa" * 32, "b": "bb" * 32}
VERSIONS = {"a": "1.0.0", "b": "2.0.0"}


def entry(slot: str, left: int = -1, done: int = 0, *, staged: bool = False) -> Entry:
    stem = f"hypernet_{VERSIONS[slot]}"
    name = f".{stem}.efi.part" if staged else format_name(stem, left, done)
    return Entry(name, stem, left, done, staged, HASHES[slot], VERSIONS[slot], "hypernet")


PROVEN = Record(proven={HASHES["b"]: 1})
MARKED = Record(reasons={HASHES["b"]: "check failed"})
PENDING = Record(pending=Pending("b", "2.0.0", HASHES["b"], 1, 3))
APPROVED = Record(pending=Pending("b", "2.0.0", HASHES["b"], 1, 0, approved_usec=1))
ATTEMPTED = Record(pending=Pending("b", "2.0.0", HASHES["b"], 1, 3), attempts={HASHES["b"]: 1})
INTERRUPTED = Record(installing=Installing("b", "2.0.0", 1))
FIRST_TRY = Facts("systemd-boot", "hypernet_2.0.0+3.efi", "hypernet_2.0.0+2-1.efi")
LAST_TRY = Facts("systemd-boot", "hypernet_2.0.0+1-2.efi", "hypernet_2.0.0+0-3.efi")
EXHAUSTED = Facts("systemd-boot", "hypernet_2.0.0+0-3.efi", "hypernet_2.0.0+0-4.efi")
NO_FACTS = Facts()


@pytest.mark.parametrize(
    ("booted", "entry_b", "record", "facts", "expected"),
    [
        ("a", None, Record(), NO_FACTS, State.EMPTY),
        ("a", None, INTERRUPTED, NO_FACTS, State.EMPTY),
        ("a", entry("b", staged=True), Record(), NO_FACTS, State.STAGED),
        ("a", entry("b", staged=True), PENDING, NO_FACTS, State.STAGED),
        ("a", entry("b", staged=True), APPROVED, NO_FACTS, State.APPROVED),
        ("a", entry("b", staged=True), ATTEMPTED, NO_FACTS, State.STAGED),
        ("a", entry("b", 3), APPROVED, NO_FACTS, State.ARMED),
        ("a", entry("b", 3), PENDING, NO_FACTS, State.ARMED),
        ("a", entry("b", 3), ATTEMPTED, NO_FACTS, State.TRYING),
        ("a", entry("b", 2, 1), PENDING, NO_FACTS, State.TRYING),
        ("a", entry("b", 0, 3), PENDING, NO_FACTS, State.BAD),
        ("a", entry("b", 0, 1), MARKED, NO_FACTS, State.BAD),
        ("a", entry("b"), Record(), NO_FACTS, State.GOOD),
        ("a", entry("b", 5), PROVEN, NO_FACTS, State.GOOD),
        ("a", entry("b", 1, 4), PROVEN, NO_FACTS, State.GOOD),
        ("a", entry("b", 0, 5), PROVEN, NO_FACTS, State.BAD),
        ("b", entry("b", 2, 1), PENDING, FIRST_TRY, State.TRYING),
        ("b", entry("b", 3), PENDING, NO_FACTS, State.TRYING),
        ("b", entry("b", 0, 3), PENDING, LAST_TRY, State.TRYING),
        ("b", entry("b", 0, 3), PROVEN, LAST_TRY, State.GOOD),
        ("b", entry("b", 0, 3), MARKED, LAST_TRY, State.BAD),
        ("b", entry("b", 0, 4), PENDING, EXHAUSTED, State.BAD),
        ("b", entry("b", 0, 3), PENDING, NO_FACTS, State.BAD),
        ("b", entry("b", 0, 3), PENDING, FIRST_TRY, State.BAD),
        ("b", entry("b"), Record(), NO_FACTS, State.GOOD),
        ("b", entry("b", 4, 1), PROVEN, FIRST_TRY, State.GOOD),
        ("b", None, Record(), NO_FACTS, State.BAD),
    ],
)
def test_a_slot_has_the_state_that_entry_record_and_loader_give_it(
    booted: str, entry_b: Entry | None, record: Record, facts: Facts, expected: State
) -> None:
    entries = [entry("a")] + ([entry_b] if entry_b else [])

    slots = derive(HASHES, entries, record, facts, booted=booted)

    assert slots["b"].state is expected
    assert slots["b"].booted == (booted == "b")
    assert slots["a"].state is State.GOOD
    untouched = expected is State.EMPTY and not record.installing
    assert bool(slots["b"].reason) == (expected is not State.GOOD and not untouched)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], ""),
        ([entry("a")], "a"),
        ([entry("a"), entry("b", 3)], "b"),
        ([entry("a"), entry("b", staged=True)], "a"),
        ([entry("a"), entry("b", 0, 3)], "a"),
        ([entry("a", 0, 5), entry("b", 0, 3)], "b"),
        ([entry("a", 5), entry("b")], "b"),
    ],
)
def test_the_default_slot_is_the_one_that_systemd_boot_takes(entries: list[Entry], expected: str) -> None:
    assert default_slot(derive(HASHES, entries, Record(), NO_FACTS, booted="a")) == expected


def test_a_slot_that_is_being_written_is_installing() -> None:
    slots = derive(HASHES, [entry("a")], Record(), NO_FACTS, booted="a", installing="b")
    assert slots["b"].state is State.INSTALLING


def test_an_interrupted_installation_is_told_as_the_reason() -> None:
    slots = derive(HASHES, [entry("a")], INTERRUPTED, NO_FACTS, booted="a")
    assert slots["b"].reason == "the installation of 2.0.0 was interrupted"


def transition(state: str, reason: str, root_hash: str = HASHES["b"]) -> Transition:
    return Transition(1, "b", "2.0.0", root_hash, state, reason)


@pytest.mark.parametrize(
    ("transitions", "reason"),
    [
        ((), ""),
        ((transition("empty", "the disk is full", ""),), "the disk is full"),
        ((transition("bad", "not wanted"),), "not wanted"),
        ((transition("staged", ""),), "its boot entry is gone; it was staged with 2.0.0"),
        ((transition("bad", "of another content", "cc" * 32),), ""),
    ],
)
def test_an_empty_slot_says_what_became_of_it(transitions: tuple[Transition, ...], reason: str) -> None:
    slots = derive(HASHES, [entry("a")], Record(transitions=transitions), NO_FACTS, booted="a")
    assert (slots["b"].state, slots["b"].reason) == (State.EMPTY, reason)


def test_approval_and_attempts_are_those_of_the_content() -> None:
    record = Record(pending=APPROVED.pending, attempts={HASHES["b"]: 2})

    with_it = derive(HASHES, [entry("a"), entry("b", 3)], record, NO_FACTS, booted="a")["b"]
    without = derive(HASHES, [entry("a")], record, NO_FACTS, booted="a")

    assert (with_it.approved, with_it.attempts) == (True, 2)
    assert (without["a"].approved, without["b"].approved, without["b"].attempts) == (False, False, 0)


def test_an_entry_of_another_content_belongs_to_no_slot() -> None:
    stranger = Entry("hypernet_9.efi", "hypernet_9", -1, 0, False, "cc" * 32, "9.0.0", "hypernet")
    slots = derive(HASHES, [entry("a"), stranger], Record(), NO_FACTS, booted="a")
    assert slots["b"].state is State.EMPTY
    assert default_slot(slots) == ""


def test_of_two_entries_for_one_slot_the_better_one_counts() -> None:
    slots = derive(HASHES, [entry("b", 0, 3), entry("b", 2, 1)], Record(), NO_FACTS, booted="a")
    assert slots["b"].state is State.TRYING


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        ("hypernet_2.0.0+0-3.efi", True),
        ("hypernet_2.0.0+0.efi", True),
        ("HYPERNET_2.0.0+0-3.EFI", True),
        ("hypernet_2.0.0+0-3", True),
        ("hypernet_2.0.0+1-2.efi", False),
        ("hypernet_2.0.0+05-2.efi", False),
        ("hypernet_2.0.0.efi", False),
        ("", False),
    ],
)
def test_an_exhausted_boot_is_known_by_the_name_that_was_selected(selected: str, expected: bool) -> None:
    assert is_exhausted_boot(Facts("x", selected, "")) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hypernet_2.0.0.efi", ("hypernet_2.0.0", -1, 0, False)),
        ("hypernet_2.0.0+3.efi", ("hypernet_2.0.0", 3, 0, False)),
        ("hypernet_2.0.0+2-1.efi", ("hypernet_2.0.0", 2, 1, False)),
        ("a+1+2-3.EFI", ("a+1", 2, 3, False)),
        ("a+x.efi", ("a+x", -1, 0, False)),
        (".hypernet_2.0.0.efi.part", ("hypernet_2.0.0", -1, 0, True)),
        (".hidden.efi", None),
        ("auto-firmware.efi", None),
        ("readme.txt", None),
        (".efi", None),
    ],
)
def test_entry_names_are_read_as_systemd_boot_reads_them(
    name: str, expected: tuple[str, int, int, bool] | None
) -> None:
    assert parse_name(name) == expected
