# SPDX-License-Identifier: Apache-2.0
"""The record survives torn, stale, swapped, deleted and foreign copies, and other versions of us."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.slot_manager import record as record_module
from agents.slot_manager.record import (
    MAX_HASHES,
    MAX_REFUSED,
    MAX_TRANSITIONS,
    Denied,
    Floor,
    Installing,
    LastGood,
    Pending,
    Record,
    RecordError,
    Refused,
    Rollback,
    Store,
    Transition,
)
from common import files
from common.errors import AgentError

FULL = Record(
    proven={"aa": 5},
    reasons={"bb": "check failed"},
    pending=Pending("b", "2.0.0", "bb", 7, 3, 6, 2_000_000, "1.0.0", 4, 2, "dd"),
    installing=Installing("b", "2.0.0", 8),
    last_rollback=Rollback("b", "2.0.0", "a", "1.0.0", "it was slow", 9),
    transitions=(Transition(1, "b", "2.0.0", "bb", "armed", ""),),
    floor=Floor(1_000_000, "0.9.0", 3, 1),
    known_usec=10,
    attempts={"bb": 2},
    attempt_boot_id="0123",
    denied={"cc": Denied("1.9.0", "ee", "check failed", 2, 1_900_000, "0.8.0", 1, 1)},
    refused=(Refused("1.8.0", "ff", "99", "expiry", "It expired.", 2),),
    last_good=LastGood("a", "1.0.0", "aa", 5),
)
OLD_BODY = {
    "proven": {"aa": 5},
    "reasons": {},
    "pending": {"slot": "b", "version": "2.0.0", "root_hash": "bb", "armed_usec": 7, "tries": 3},
    "installing": None,
    "last_rollback": None,
    "transitions": [],
}
"""A record as the first version of this agent wrote it."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state", clock=lambda: 42)


def copies(store: Store) -> list[Path]:
    return sorted(store.folder.glob("record-*.json"))


def sealed(body: object, sequence: int = 1) -> bytes:
    """A copy with the right checksum, whatever is in it."""
    checksum = record_module._checksum(sequence, body)
    return json.dumps({"sequence": sequence, "sha256": checksum, "record": body}).encode()


def test_a_missing_record_is_an_empty_one(store: Store) -> None:
    assert store.load() == Record()


def test_everything_that_is_saved_is_loaded(store: Store) -> None:
    store.save(FULL)
    assert store.load() == FULL


def test_every_save_ends_with_two_copies_that_say_the_same(store: Store) -> None:
    for number in range(4):
        store.save(replace(FULL, proven={"aa": number}))
        assert store.load().proven == {"aa": number}
        first, second = copies(store)
        assert first.read_bytes() == second.read_bytes()


DAMAGES = [None, b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"sequence": 1}', b"\0" * 4096]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("damage", DAMAGES, ids=[str(item)[:20] for item in DAMAGES])
def test_one_damaged_or_deleted_copy_costs_nothing(store: Store, number: int, damage: bytes | None) -> None:
    store.save(replace(FULL, proven={"aa": 1}))
    store.save(replace(FULL, proven={"aa": 2}))
    path = copies(store)[number]
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    assert store.load().proven == {"aa": 2}
    store.save(replace(FULL, proven={"aa": 3}))
    assert store.load().proven == {"aa": 3}
    assert len(copies(store)) == 2


@pytest.mark.parametrize("number", [0, 1])
def test_a_stale_copy_from_a_backup_does_not_win(store: Store, number: int, tmp_path: Path) -> None:
    store.save(replace(FULL, proven={"aa": 1}))
    shutil.copy(copies(store)[number], tmp_path / "backup")
    store.save(replace(FULL, proven={"aa": 2}))
    shutil.copy(tmp_path / "backup", copies(store)[number])
    assert store.load().proven == {"aa": 2}


def test_a_backup_does_not_win_after_both_copies_were_lost(tmp_path: Path) -> None:
    store = Store(tmp_path / "state", clock=lambda: 1_800_000_000_000_000)
    for number in range(5):
        Store(store.folder, lambda: 1_700_000_000_000_000).save(replace(FULL, proven={"aa": number}))
    shutil.copy(copies(store)[0], tmp_path / "backup")
    for path in copies(store):
        path.unlink()
    store.save(replace(FULL, proven={"aa": 9}))
    shutil.copy(tmp_path / "backup", copies(store)[1])
    assert store.load().proven == {"aa": 9}


def test_swapped_copies_say_the_same(store: Store) -> None:
    store.save(replace(FULL, proven={"aa": 1}))
    store.save(replace(FULL, proven={"aa": 2}))
    copies(store)[1].write_bytes(sealed(OLD_BODY, 0))
    first, second = copies(store)
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert store.load().proven == {"aa": 2}
    store.save(replace(FULL, proven={"aa": 3}))
    assert store.load().proven == {"aa": 3}


def test_a_power_cut_between_the_two_copies_keeps_the_new_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(replace(FULL, proven={"aa": 1}))
    written = []
    real = files.write_atomic

    def cut(path: Path, data: bytes, *, mode: int) -> None:
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt
        real(path, data, mode=mode)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", cut)
        with pytest.raises(KeyboardInterrupt):
            store.save(replace(FULL, proven={"aa": 2}))
    assert store.load().proven == {"aa": 2}


def test_a_second_copy_that_cannot_be_written_does_not_fail_the_save(store: Store) -> None:
    store.save(FULL)
    (store.folder / ".record-1.json.tmp").mkdir()  # in the way of its temporary file

    store.save(replace(FULL, proven={"aa": 9}))

    assert store.load().proven == {"aa": 9}


def test_a_record_that_cannot_be_written_at_all_is_an_error(store: Store) -> None:
    store.save(FULL)
    (store.folder / ".record-0.json.tmp").mkdir()

    with pytest.raises(AgentError, match=r"record-0\.json"):
        store.save(replace(FULL, proven={"aa": 9}))

    assert store.load() == FULL


def test_two_damaged_copies_are_an_empty_record_that_can_be_saved_again(store: Store) -> None:
    store.save(FULL)
    for path in copies(store):
        path.write_bytes(path.read_bytes()[:50])
    assert store.load() == Record()
    store.save(FULL)
    assert store.load() == FULL


def test_a_record_of_the_first_version_is_read(store: Store) -> None:
    _, record = record_module.decode(sealed(OLD_BODY))

    assert record.proven == {"aa": 5}
    assert record.pending == Pending("b", "2.0.0", "bb", 7, 3)
    assert record.floor == Floor()
    assert (record.known_usec, record.denied, record.last_good) == (0, {}, None)


def test_what_a_newer_version_wrote_is_kept_as_it_was(store: Store) -> None:
    store.save(FULL)
    body = json.loads(copies(store)[0].read_bytes())["record"]
    body |= {"moon": {"phase": [1, 2.5, None]}, "extra": "a key of that name"}
    body["pending"] |= {"wave": 7}
    body["floor"] |= {"counter": "tpm"}
    body["transitions"][0] |= {"who": "root"}
    body["denied"]["cc"] |= {"tickets": ["1"]}
    for path in copies(store):
        path.write_bytes(sealed(body, 5))

    store.save(replace(store.load(), proven={"aa": 6}))

    assert json.loads(copies(store)[0].read_bytes())["record"] == {**body, "proven": {"aa": 6}}


def test_a_copy_that_was_edited_by_hand_is_not_used(store: Store) -> None:
    store.save(FULL)
    for path in copies(store):
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
        attempts={str(n): n for n in range(99)},
        denied={str(n): Denied("1.0.0", "", "\U0001f525" * 9000, n) for n in range(99)},
        refused=tuple(Refused("1.0.0", str(n), "", "expiry", "\U0001f525" * 9000, n) for n in range(99)),
    )
    store.save(record)
    loaded = store.load()
    assert len(loaded.transitions) == MAX_TRANSITIONS
    assert loaded.transitions[-1].since_usec == MAX_TRANSITIONS + 49
    assert len(loaded.proven) == len(loaded.reasons) == len(loaded.attempts) == MAX_HASHES
    assert "98" in loaded.proven
    assert len(loaded.denied) == MAX_HASHES
    assert "98" in loaded.denied
    assert [item.root_hash for item in loaded.refused] == [str(n) for n in range(99 - MAX_REFUSED, 99)]
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


def test_nothing_is_left_of_a_forgotten_hash_but_its_denial() -> None:
    record = FULL.without("bb").without("cc").without("ff")

    assert (record.pending, record.reasons, record.attempts, record.refused) == (None, {}, {}, ())
    assert set(record.denied) == {"cc"}


def test_an_allowed_release_is_neither_denied_nor_refused_for_it() -> None:
    refusals = tuple(Refused("1.9.0", "cc", "", rule, "", 1) for rule in ("denylist", "expiry"))

    record = replace(FULL, refused=refusals).allowing({"cc"})

    assert record.denied == {}
    assert [item.rule for item in record.refused] == ["expiry"]


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
                        "floor",
                        "attempts",
                        "denied",
                        "refused",
                        "last_good",
                        "extra",
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
    for raw in (json.dumps(body).encode(), sealed(body)):
        with contextlib.suppress(RecordError):
            record_module.decode(raw)
