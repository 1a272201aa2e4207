# SPDX-License-Identifier: Apache-2.0
"""What is kept from run to run: the alerts that are not delivered yet, and what was told lately."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agents.alerter.alert import ID, Alert, bounded, from_members, load_members, to_members
from agents.alerter.errors import AlertInvalid
from agents.alerter.store import Store
from common import files, journal
from common.alerts import MAX_BYTES, SUFFIX

MAX_ENTRIES: Final = 100
MAX_KNOWN: Final = 500
"""Alerts whose last time is remembered."""
FOLDER: Final = "spool"
HISTORY: Final = "history.json"

_MAX_ENTRY_BYTES: Final = 2 * MAX_BYTES
_MAX_HISTORY_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """An alert on its way.

    repeats: times that the same was raised besides. done: keys of the destinations that have it.
    attempts: so far. next_usec: not before this time, CLOCK_REALTIME in µs. admitted: whether it is counted
    by the rate limit.
    """

    alert: Alert
    repeats: int = 0
    done: tuple[str, ...] = ()
    attempts: int = 0
    next_usec: int = 0
    admitted: bool = False


class Spool:
    """One file for each entry. Methods raise FileError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def names(self) -> list[str]:
        """The names of all entries, the oldest first."""
        return self._store.names(FOLDER)

    def load(self, name: str) -> Entry | None:
        """An entry; None for a file that holds none, which is removed with a warning."""
        try:
            return _entry(name.removeprefix(f"{FOLDER}/"), self._store.read(name, _MAX_ENTRY_BYTES))
        except (AlertInvalid, files.FileError) as error:
            journal.send(f"{name} is removed from the spool: {error}", priority=journal.WARNING)
            self._store.remove(name)
            return None

    def entries(self) -> list[Entry]:
        """All entries, the oldest first."""
        return [entry for name in self.names() if (entry := self.load(name)) is not None]

    def save(self, entry: Entry) -> None:
        """Write an entry."""
        members = to_members(entry.alert) | {
            "repeats": entry.repeats,
            "done": list(entry.done),
            "attempts": entry.attempts,
            "next_usec": entry.next_usec,
            "admitted": entry.admitted,
        }
        self._store.write(_name(entry), json.dumps(members).encode())

    def remove(self, entry: Entry) -> None:
        """Forget an entry."""
        self._store.remove(_name(entry))


@dataclass(slots=True)
class History:
    """told_usec: when somebody was told, by sameness. sent_usec: when alerts were sent in the last hour."""

    told_usec: dict[str, int] = field(default_factory=dict)
    sent_usec: list[int] = field(default_factory=list)

    def tell(self, alert: Alert, now_usec: int) -> None:
        """Note that somebody knows of it now."""
        self.told_usec.pop(alert.sameness, None)
        self.told_usec[alert.sameness] = now_usec
        for sameness in list(self.told_usec)[:-MAX_KNOWN]:
            del self.told_usec[sameness]


def load_history(store: Store) -> History:
    """Read the history; a missing or damaged one is empty, at the price of telling something twice."""
    try:
        members = load_members(store.read(HISTORY, _MAX_HISTORY_BYTES))
        told_usec = {str(key): bounded(usec) for key, usec in members["told_usec"].items()}
        return History(told_usec, [bounded(usec) for usec in members["sent_usec"]])
    except files.FileMissing:
        return History()
    except (files.FileError, AlertInvalid, TypeError, KeyError, AttributeError) as error:
        journal.send(f"What was told lately is forgotten, {HISTORY}: {error}", priority=journal.WARNING)
        return History()


def save_history(store: Store, history: History) -> None:
    """Write the history. Raises FileError."""
    members = {"told_usec": history.told_usec, "sent_usec": history.sent_usec}
    store.write(HISTORY, json.dumps(members).encode())


def _name(entry: Entry) -> str:
    return f"{FOLDER}/{entry.alert.id}{SUFFIX}"


def _entry(file_name: str, data: bytes) -> Entry:
    name = file_name.removesuffix(SUFFIX)
    if not ID.fullmatch(name):
        raise AlertInvalid("It is not named like an alert.")
    members: Mapping[str, Any] = load_members(data)
    try:
        return Entry(
            from_members(name, members),
            bounded(members["repeats"]),
            tuple(str(key) for key in members["done"]),
            bounded(members["attempts"]),
            bounded(members["next_usec"]),
            bool(members["admitted"]),
        )
    except (KeyError, TypeError):
        raise AlertInvalid("Members are missing or of a wrong type.") from None
