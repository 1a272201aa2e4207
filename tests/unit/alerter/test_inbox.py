# SPDX-License-Identifier: Apache-2.0
"""What was raised gets into the spool, once, and the directory is empty afterwards whatever was in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.alerter import inbox, mail, messages
from agents.alerter.config import Mail
from agents.alerter.places import Places
from agents.alerter.spool import MAX_ENTRIES, Entry, Spool, load_history, save_history
from agents.alerter.store import Store
from common import files
from common.alerts import MAX_BYTES, Kind, raise_alert

from .conftest import NOW_USEC, Disk, Journal

HOUR_USEC = 3_600_000_000


def take_in(places: Places, *, now_usec: int = NOW_USEC, repeat_sec: float = 3600) -> list[tuple[str, int]]:
    """Summaries of the spool, with how often the same came before."""
    store = Store(places.state, places.memory)
    spool, history = Spool(store), load_history(store)
    inbox.take_in(places.inbox, store, spool, history, now_usec=now_usec, repeat_sec=repeat_sec)
    assert not places.inbox.exists() or not list(places.inbox.glob("[!.]*"))
    return [(entry.alert.summary, entry.repeats) for entry in spool.entries()]


def entries(places: Places) -> list[Entry]:
    return Spool(Store(places.state, places.memory)).entries()


def tell(places: Places, *, at_usec: int = NOW_USEC) -> None:
    """As if all that waits was delivered."""
    store = Store(places.state, places.memory)
    spool, history = Spool(store), load_history(store)
    for entry in spool.entries():
        history.tell(entry.alert, at_usec)
        spool.remove(entry)
    save_history(store, history)


def test_an_alert_gets_into_the_spool_as_it_was_raised(places: Places) -> None:
    raise_alert(Kind.ROLLED_BACK, "Went back.", {"reason": "two\nlines"})

    take_in(places)

    (entry,) = entries(places)
    assert (entry.alert.kind, entry.alert.summary) == (Kind.ROLLED_BACK, "Went back.")
    assert entry.alert.details == {"reason": "two\nlines"}
    assert entry.alert.usec > 0


def test_what_a_reboot_left_behind_is_taken_in_first(places: Places) -> None:
    raise_alert(Kind.UNIT_FAILED, "before the reboot")
    places.inbox.rename(places.state / "kept")
    raise_alert(Kind.UNIT_FAILED, "after the reboot")

    assert [summary for summary, _ in take_in(places)] == ["before the reboot", "after the reboot"]
    assert list((places.state / "kept").iterdir()) == []


def test_the_same_waits_until_the_time_is_over_and_is_counted(places: Places) -> None:
    raise_alert(Kind.UNIT_FAILED, "a.service")
    take_in(places)
    tell(places)

    for _ in range(3):
        raise_alert(Kind.UNIT_FAILED, "a.service")
        take_in(places, now_usec=NOW_USEC + HOUR_USEC - 1)

    (entry,) = entries(places)
    assert (entry.repeats, entry.next_usec) == (2, NOW_USEC + HOUR_USEC)


def test_after_that_time_the_same_is_due_at_once(places: Places) -> None:
    raise_alert(Kind.UNIT_FAILED, "a.service")
    take_in(places)
    tell(places)
    raise_alert(Kind.UNIT_FAILED, "a.service")

    take_in(places, now_usec=NOW_USEC + HOUR_USEC)

    assert [entry.next_usec for entry in entries(places)] == [0]


def test_the_same_is_counted_while_nobody_has_been_told_and_does_not_wait_longer(places: Places) -> None:
    for _ in range(3):
        raise_alert(Kind.UNIT_FAILED, "a.service")
        take_in(places)

    assert [(entry.repeats, entry.next_usec) for entry in entries(places)] == [(2, 0)]


def test_what_is_added_to_an_alert_that_may_have_been_sent_is_a_second_one_and_never_a_third(
    places: Places,
) -> None:
    raise_alert(Kind.UNIT_FAILED, "a.service")
    take_in(places)
    spool = Spool(Store(places.state, places.memory))
    spool.save(replace(spool.entries()[0], attempts=1))

    for _ in range(5):
        raise_alert(Kind.UNIT_FAILED, "a.service")
        take_in(places)

    assert [(entry.repeats, entry.next_usec) for entry in entries(places)] == [
        (0, 0),
        (4, NOW_USEC + HOUR_USEC),
    ]


def test_if_repetitions_are_wanted_each_is_an_alert(places: Places) -> None:
    for _ in range(3):
        raise_alert(Kind.UNIT_FAILED, "a.service")

    assert take_in(places, repeat_sec=0) == [("a.service", 0)] * 3


def test_other_kinds_and_texts_are_not_the_same(places: Places) -> None:
    raise_alert(Kind.UNIT_FAILED, "a")
    raise_alert(Kind.UNIT_FAILED, "b")
    raise_alert(Kind.UPDATE_FAILED, "a")

    assert [summary for summary, _ in take_in(places)] == ["a", "b", "a"]


def test_a_test_is_never_a_repetition(places: Places) -> None:
    raise_alert(Kind.TEST, "test")
    raise_alert(Kind.TEST, "test")

    assert take_in(places) == [("test", 0), ("test", 0)]


def test_a_clock_that_was_ahead_hides_nothing(places: Places) -> None:
    raise_alert(Kind.UNIT_FAILED, "a")
    take_in(places)
    tell(places, at_usec=NOW_USEC + 1000 * HOUR_USEC)

    raise_alert(Kind.UNIT_FAILED, "a")

    take_in(places)
    assert [entry.next_usec for entry in entries(places)] == [0]


def test_a_power_cut_before_the_directory_was_emptied_neither_loses_nor_doubles(places: Places) -> None:
    raise_alert(Kind.UNIT_FAILED, "a")
    (file,) = places.inbox.iterdir()
    content = file.read_bytes()
    take_in(places)
    file.write_bytes(content)

    assert take_in(places) == [("a", 0)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"kind": "other", "summary": "", "details": {}, "usec": 1}',
        b'{"kind": "test", "summary": 1, "details": {}, "usec": 1}',
        b'{"kind": "test", "summary": "", "details": [], "usec": 1}',
        b'{"kind": "test", "summary": "", "details": {}, "usec": "1"}',
        b'{"kind": "test", "summary": "", "details": {"a": 1}, "usec": 1}',
        b'{"kind": "test", "summary": "", "details": {}, "usec": -1}',
        b'{"kind": "test", "summary": "", "details": {}, "usec": 1000000000000000000}',
        b"[" * 10000,
        b"\xff",
        b"x" * (MAX_BYTES + 1),
    ],
)
def test_what_is_no_alert_is_removed_with_a_warning(places: Places, sent: Journal, content: bytes) -> None:
    places.inbox.mkdir(parents=True)
    (places.inbox / "01800000000000000000-0123abcd.json").write_bytes(content)

    assert take_in(places) == []
    assert "is no alert and is removed" in sent.text


def test_nothing_visible_stays_in_the_directory(places: Places, tmp_path: Path) -> None:
    raise_alert(Kind.TEST, "real")
    (places.inbox / "notes.txt").write_text("mine", encoding="ascii")
    (places.inbox / "folder/below").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    (places.inbox / "link").symlink_to(tmp_path / "kept")
    (places.inbox / ".half").write_text("{", encoding="ascii")

    assert take_in(places) == [("real", 0)]
    assert [path.name for path in places.inbox.iterdir()] == [".half"]
    assert (tmp_path / "kept").is_dir()


def test_the_oldest_give_way_in_a_full_spool_and_the_journal_tells(places: Places, sent: Journal) -> None:
    for number in range(MAX_ENTRIES + 3):
        raise_alert(Kind.UNIT_FAILED, f"unit {number}")
        take_in(places)

    assert [summary for summary, _ in take_in(places)] == [f"unit {n}" for n in range(3, MAX_ENTRIES + 3)]
    assert sent.ids == [messages.DROPPED] * 3


def test_a_damaged_history_is_begun_anew(places: Places, sent: Journal) -> None:
    (places.state / "history.json").write_text('{"told_usec": [1], "sent_usec": null}', encoding="ascii")
    raise_alert(Kind.UNIT_FAILED, "a")

    assert take_in(places) == [("a", 0)]
    assert "is forgotten" in sent.text


def test_a_damaged_file_of_the_spool_is_removed_and_the_others_stay(places: Places, sent: Journal) -> None:
    raise_alert(Kind.UNIT_FAILED, "a")
    take_in(places)
    (places.state / "spool" / "01800000000000000000-0123abcd.json").write_bytes(b'{"kind": "test"')
    (places.state / "spool" / "other.json").write_bytes(b"{}")

    assert take_in(places) == [("a", 0)]
    assert len(list((places.state / "spool").iterdir())) == 1


def test_an_alert_that_cannot_be_kept_anywhere_stays_where_it_was(places: Places, full_disk: Disk) -> None:
    raise_alert(Kind.UNIT_FAILED, "a")
    full_disk.full = True
    places.memory.touch()

    with pytest.raises(files.FileError):
        take_in(places)
    assert len(list(places.inbox.iterdir())) == 1


def test_what_a_reboot_left_on_a_disk_that_is_read_only_now_is_taken_in_once(
    places: Places, full_disk: Disk, sent: Journal
) -> None:
    raise_alert(Kind.UNIT_FAILED, "a")
    places.inbox.rename(places.state / "kept")
    full_disk.read_only = True

    assert take_in(places) == [("a", 0)]
    tell(places)
    assert take_in(places) == []


@pytest.mark.parametrize("member", ["repeats", "attempts", "next_usec"])
@pytest.mark.parametrize("value", ["Infinity", "-5", "1e400", "null"])
def test_a_strange_number_in_the_spool_costs_only_that_alert(
    places: Places, sent: Journal, member: str, value: str
) -> None:
    raise_alert(Kind.UNIT_FAILED, "a")
    take_in(places)
    (path,) = (places.state / "spool").iterdir()
    path.write_text(path.read_text().replace(f'"{member}": 0', f'"{member}": {value}'), encoding="ascii")
    raise_alert(Kind.UNIT_FAILED, "b")

    assert take_in(places) == [("b", 0)]


def test_a_text_that_cannot_be_sent_is_cleaned_where_it_is_read(places: Places) -> None:
    raise_alert(Kind.UPDATE_FAILED, "x \udcff", {"source": "/tmp/\udcff.img"})

    take_in(places)

    (entry,) = entries(places)
    assert (entry.alert.summary, entry.alert.details) == ("x", {"source": "/tmp/?.img"})
    mail.message(Mail(("root",)), entry, host="server-1")
