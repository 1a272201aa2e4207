# SPDX-License-Identifier: Apache-2.0
"""The record survives torn, stale and foreign copies."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.slot_manager import record as record_module
from agents.slot_manager.record import (
    MAX_HASHES,
    MAX_TRANSITIONS,
    Installing,
    Pending,
    Record,
    RecordError,
    Rollback,
    Store,
    Transition,
)

FULL = Record(
    proven={"aa": 5},
    reasons={"bb": "check failed"},
    pending=Pending("b", "2.0.0", "bb", 7, 3),
    installing=Installing("b", "2.0.0", 8),
    last_rollback=Rollback("b", "2.0.0", "a", "1.0.0", "it was slow", 9),
    transitions=(Transition(1, "b", "2.0.0", "bb", "armed", ""),),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state", clock=lambda: 42)


def copies(store: Store) -> list[Path]:
    return sorted(store.folder.glob("record-*.json"))


def test_a_missing_record_is_an_empty_one(store: Store) -> None:
    assert store.load() == Record()


def test_everything_that_is_saved_is_loaded(store: Store) -> None:
    store.save(FULL)
    assert store.load() == FULL


def test_saves_alternate_between_two_copies(store: Store) -> None:
    for number in range(4):
        store.save(replace(FULL, proven={"aa": number}))
        assert store.load().proven == {"aa": number}
    assert len(copies(store)) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"sequence": 1}'])
def test_a_damaged_newest_copy_costs_only_the_last_change(store: Store, damage: bytes) -> None:
    store.save(replace(FULL, proven={"aa": 1}))
    store.save(replace(FULL, proven={"aa": 2}))
    copies(store)[1].write_bytes(damage)
    assert store.load().proven == {"aa": 1}
    store.save(replace(FULL, proven={"aa": 3}))
    assert store.load().proven == {"aa": 3}


def test_two_damaged_copies_are_an_empty_record_that_can_be_saved_again(store: Store) -> None:
    store.save(FULL)
    store.save(FULL)
    for path in copies(store):
        path.write_bytes(path.read_bytes()[:50])
    assert store.load() == Record()
    store.save(FULL)
    assert store.load() == FULL


def test_a_copy_that_was_edited_by_hand_is_not_used(store: Store) -> None:
    store.save(FULL)
    (path,) = copies(store)
    path.write_text(path.read_text().replace("check failed", "check passed"))
    assert store.load() == Record()


def test_an_older_copy_with_a_copied_checksum_is_not_newer(store: Store) -> None:
    store.save(FULL)
    document = json.loads(copies(store)[0].read_text())
    document["sequence"] += 10
    with pytest.raises(RecordError, match="checksum"):
        record_module.decode(json.dumps(document).encode())


def test_the_record_cannot_grow_for_ever(store: Store) -> None:
    record = FULL
    for number in range(MAX_TRANSITIONS + 50):
        record = record.with_transition(
            Transition(number, "a", "1.0.0", "ab" * 32, "good", "\U0001f525" * 1000)
        )
    record = replace(
        record,
        proven={str(n): n for n in range(99)},
        reasons={str(n): "\U0001f525" * 9000 for n in range(99)},
    )
    store.save(record)
    loaded = store.load()
    assert len(loaded.transitions) == MAX_TRANSITIONS
    assert loaded.transitions[-1].since_usec == MAX_TRANSITIONS + 49
    assert len(loaded.proven) == len(loaded.reasons) == MAX_HASHES
    assert "98" in loaded.proven
    assert max(path.stat().st_size for path in copies(store)) < record_module.MAX_BYTES


def test_the_time_of_the_last_transition_is_that_of_this_content(store: Store) -> None:
    record = Record(
        transitions=(
            Transition(1, "b", "2.0.0", "bb", "armed", ""),
            Transition(2, "a", "1.0.0", "aa", "good", ""),
            Transition(3, "b", "3.0.0", "cc", "armed", ""),
        )
    )
    assert record.since_usec("b", "bb") == 1
    assert record.since_usec("b", "dd") == 0


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_fail_otherwise_than_with_its_own_error(raw: bytes) -> None:
    with pytest.raises(RecordError):
        record_module.decode(raw)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "sequence",
                        "sha256",
                        "record",
                        "proven",
                        "reasons",
                        "pending",
                        "installing",
                        "transitions",
                        "x",
                    ]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=15,
    )
)
def test_no_json_makes_the_reader_fail_otherwise_than_with_its_own_error(body: object) -> None:
    for raw in (
        json.dumps(body).encode(),
        json.dumps({"sequence": 1, "sha256": record_module._checksum(1, body), "record": body}).encode(),
    ):
        with contextlib.suppress(RecordError):
            record_module.decode(raw)
