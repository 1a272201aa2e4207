# SPDX-License-Identifier: Apache-2.0
"""What the disk cannot say: which root hashes were proven good, what is being tried, why a slot is bad.

Two copies with sequence numbers and checksums; each save replaces the older one, so a torn or stale copy
costs at most the last change. The record never makes a slot bootable: the loader's names do that.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from common import files, journal
from common.errors import AgentError

MAX_TRANSITIONS = 100
MAX_BYTES = 2 << 20
"""More than the longest texts need with each character escaped (12 bytes)."""
MAX_HASHES = 32
MAX_TEXT = 1000

_MAX_USEC = 1 << 62
_T = TypeVar("_T")


class RecordError(AgentError):
    """The record cannot be kept."""


@dataclass(frozen=True, slots=True)
class Pending:
    """An installed slot whose trial has no verdict yet; `tries` is 0 while it is only staged."""

    slot: str
    version: str
    root_hash: str
    armed_usec: int
    tries: int


@dataclass(frozen=True, slots=True)
class Installing:
    """An install that has begun to write; outlives it only if the machine lost power."""

    slot: str
    version: str
    since_usec: int


@dataclass(frozen=True, slots=True)
class Rollback:
    """The last return to another slot; times are microseconds since 1970."""

    from_slot: str
    from_version: str
    to_slot: str
    to_version: str
    reason: str
    since_usec: int


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of a slot's state."""

    since_usec: int
    slot: str
    version: str
    root_hash: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """The whole record; `proven` maps root hashes to when they were proven, `reasons` to why they are "
    "bad."""

    proven: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    pending: Pending | None = None
    installing: Installing | None = None
    last_rollback: Rollback | None = None
    transitions: tuple[Transition, ...] = ()

    def since_usec(self, slot: str, root_hash: str) -> int:
        """Time of the last recorded transition of this content in this slot; 0 if there is none."""
        times = [t.since_usec for t in self.transitions if t.slot == slot and t.root_hash in ("", root_hash)]
        return times[-1] if times else 0

    def with_transition(self, transition: Transition) -> Record:
        return replace(self, transitions=(*self.transitions, transition)[-MAX_TRANSITIONS:])

    def bounded(self) -> Record:
        """The same with the oldest hashes and overlong texts cut, so that the record cannot grow for "
        "ever."""
        proven = sorted(self.proven.items(), key=lambda item: item[1])[-MAX_HASHES:]
        reasons = list(self.reasons.items())[-MAX_HASHES:]
        return replace(self, proven=dict(proven), reasons={key: text[:MAX_TEXT] for key, text in reasons})

    def without(self, root_hash: str) -> Record:
        """Nothing known about `root_hash` any more."""
        return replace(
            self,
            proven={key: value for key, value in self.proven.items() if key != root_hash},
            reasons={key: value for key, value in self.reasons.items() if key != root_hash},
            pending=None if self.pending and self.pending.root_hash == root_hash else self.pending,
        )


class Store:
    """The two files in `folder`; `clock` gives microseconds since 1970."""

    def __init__(self, folder: Path, clock: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self.folder = folder
        self.clock = clock

    def load(self) -> Record:
        """The newest readable copy; an empty record if there is none. Never raises for a damaged copy."""
        copies = [self._read(number) for number in (0, 1)]
        best = max((copy for copy in copies if copy is not None), key=lambda copy: copy[0], default=None)
        return best[1] if best else Record()

    def save(self, record: Record) -> None:
        """Replace the older copy, then read it back. Raises RecordError or a file error."""
        record = record.bounded()
        sequences = [copy[0] if (copy := self._read(number)) else -1 for number in (0, 1)]
        target = 0 if sequences[0] <= sequences[1] else 1
        sequence = max(sequences) + 1
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        files.write_atomic(self._path(target), encode(sequence, record), mode=0o600)
        if self._read(target) != (sequence, record):
            raise RecordError(
                f"{self._path(target)} does not read back as written; check the config partition."
            )

    def _path(self, number: int) -> Path:
        return self.folder / f"record-{number}.json"

    def _read(self, number: int) -> tuple[int, Record] | None:
        try:
            return decode(files.read_bounded(self._path(number), MAX_BYTES))
        except files.FileMissing:
            return None
        except AgentError as error:
            journal.send(f"{self._path(number)} is not used: {error}", priority=journal.WARNING)
            return None


def encode(sequence: int, record: Record) -> bytes:
    """One copy as bytes: {"sequence", "sha256", "record"}; the checksum covers sequence and record."""
    body = asdict(record)
    document = {"sequence": sequence, "sha256": _checksum(sequence, body), "record": body}
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def decode(raw: bytes) -> tuple[int, Record]:
    """(sequence, record) of one copy. Raises RecordError for anything that `encode` did not write."""
    try:
        document = json.loads(raw)
        sequence, body = document["sequence"], document["record"]
        if type(sequence) is not int or not 0 <= sequence < _MAX_USEC:
            raise ValueError("sequence")
        if document["sha256"] != _checksum(sequence, body):
            raise RecordError("its checksum is wrong.")
        return sequence, _record(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError("it is no record of slot-manager.") from error


def _checksum(sequence: int, body: object) -> str:
    return hashlib.sha256(f"{sequence}\n{json.dumps(body, sort_keys=True)}".encode()).hexdigest()


def _record(body: dict[str, Any]) -> Record:
    return Record(
        proven={_text(key): _usec(value) for key, value in body["proven"].items()},
        reasons={_text(key): _text(value) for key, value in body["reasons"].items()},
        pending=_fields(Pending, body["pending"]) if body["pending"] else None,
        installing=_fields(Installing, body["installing"]) if body["installing"] else None,
        last_rollback=_fields(Rollback, body["last_rollback"]) if body["last_rollback"] else None,
        transitions=tuple(_fields(Transition, item) for item in body["transitions"])[-MAX_TRANSITIONS:],
    )


def _fields(kind: type[_T], values: dict[str, Any]) -> _T:
    return kind(
        **{key: _usec(value) if isinstance(value, int) else _text(value) for key, value in values.items()}
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text expected")
    return value


def _usec(value: object) -> int:
    if type(value) is not int or not 0 <= value < _MAX_USEC:
        raise TypeError("number expected")
    return value
