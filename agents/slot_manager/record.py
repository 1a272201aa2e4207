# SPDX-License-Identifier: Apache-2.0
"""What the disk cannot say: which root hashes were proven good, what is being tried, why a slot is bad, what
may never be installed again.

Two copies with sequence numbers and checksums. Each save replaces the older copy first and brings the other
one up to it then, so a power cut costs at most that save, and a copy that is torn, stale or gone costs
nothing. What a newer version of this agent wrote is kept as it is. The record never makes a slot bootable:
the loader's names do that.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from agents.slot_manager.record_types import (
    MAX_HASHES,
    MAX_REFUSED,
    MAX_TEXT,
    MAX_TRANSITIONS,
    Begun,
    Denied,
    Floor,
    Installing,
    Kept,
    LastGood,
    Pending,
    Record,
    Refused,
    Rollback,
    Transition,
)
from common import files, journal
from common.errors import AgentError

__all__ = [
    "MAX_BYTES",
    "MAX_HASHES",
    "MAX_REFUSED",
    "MAX_TEXT",
    "MAX_TRANSITIONS",
    "Begun",
    "Denied",
    "Floor",
    "Installing",
    "LastGood",
    "Pending",
    "Record",
    "RecordError",
    "Refused",
    "Rollback",
    "Store",
    "Transition",
    "decode",
    "encode",
]

MAX_BYTES = 4 << 20
"""More than the longest texts need with each character escaped (12 bytes)."""

SETTLED = "settled"
"""The file that names the system with which there is nothing to do early in a boot."""
_MAX_NUMBER = 1 << 62
_K = TypeVar("_K", bound=Kept)


class RecordError(AgentError):
    """The record cannot be kept."""


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

    def settle(self, root_hash: str) -> None:
        """Note that boots of this system need no look at the record until a new trial is recorded.

        hypernet-slot-manager-attempt.service looks for this line in the kernel's command line before it
        starts anything. Raises FileError.
        """
        line = f"roothash={root_hash}\n".encode()
        with suppress(files.FileMissing):
            if files.read_bounded(self.folder / SETTLED, 1024) == line:
                return
        if root_hash:
            files.write_atomic(self.folder / SETTLED, line, mode=0o600)

    def save(self, record: Record) -> None:
        """Replace the older copy, read it back, then make the other one the same.

        Raises RecordError or a file error if the first of them cannot be written; the second one's failure
        is only logged, since the record is saved by then.
        """
        record = record.bounded()
        sequences = [copy[0] if (copy := self._read(number)) else -1 for number in (0, 1)]
        first = 0 if sequences[0] <= sequences[1] else 1
        # From the clock if both copies are gone, so that none of their backups is ever newer than this one.
        sequence = max(sequences) + 1 if max(sequences) >= 0 else self.clock() // 1_000_000
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        if record.pending is not None:
            files.remove_durable(self.folder / SETTLED)
        self._write(first, sequence, record)
        try:
            self._write(1 - first, sequence, record)
        except AgentError as error:
            journal.send(f"There is only one copy of the record now: {error}", priority=journal.WARNING)

    def _write(self, number: int, sequence: int, record: Record) -> None:
        files.write_atomic(self._path(number), encode(sequence, record), mode=0o600)
        if self._read(number) != (sequence, record):
            raise RecordError(
                f"{self._path(number)} does not read back as written; check the config partition."
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
    body = _plain(record)
    document = {"sequence": sequence, "sha256": _checksum(sequence, body), "record": body}
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def decode(raw: bytes) -> tuple[int, Record]:
    """(sequence, record) of one copy. Raises RecordError for anything that `encode` did not write."""
    try:
        document = json.loads(raw)
        sequence, body = document["sequence"], document["record"]
        if type(sequence) is not int or not 0 <= sequence < _MAX_NUMBER:
            raise ValueError("sequence")
        if document["sha256"] != _checksum(sequence, body):
            raise RecordError("its checksum is wrong.")
        return sequence, _record(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError("it is no record of slot-manager.") from error


def _checksum(sequence: int, body: object) -> str:
    return hashlib.sha256(f"{sequence}\n{json.dumps(body, sort_keys=True)}".encode()).hexdigest()


def _plain(value: Any) -> Any:
    """What JSON can hold; `extra` keys stand beside those that we know."""
    if isinstance(value, Kept):
        known = {
            item.name: _plain(getattr(value, item.name)) for item in fields(value) if item.name != "extra"
        }
        return {**value.extra, **known}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _record(body: dict[str, Any]) -> Record:
    known = {item.name for item in fields(Record)} - {"extra"}
    return Record(
        proven={_text(key): _number(value) for key, value in body["proven"].items()},
        reasons={_text(key): _text(value) for key, value in body["reasons"].items()},
        pending=_optional(Pending, body["pending"]),
        installing=_optional(Installing, body["installing"]),
        last_rollback=_optional(Rollback, body["last_rollback"]),
        transitions=tuple(_item(Transition, item) for item in body["transitions"])[-MAX_TRANSITIONS:],
        floor=_item(Floor, body.get("floor", {})),
        known_usec=_number(body.get("known_usec", 0)),
        attempts={_text(key): _number(value) for key, value in body.get("attempts", {}).items()},
        attempt_boot_id=_text(body.get("attempt_boot_id", "")),
        refunds={_text(key): _number(value) for key, value in body.get("refunds", {}).items()},
        denied={_text(key): _item(Denied, value) for key, value in body.get("denied", {}).items()},
        refused=tuple(_item(Refused, item) for item in body.get("refused", ()))[-MAX_REFUSED:],
        last_good=_optional(LastGood, body.get("last_good")),
        begun=_optional(Begun, body.get("begun")),
        extra={key: value for key, value in body.items() if key not in known},
    )


def _optional(kind: type[_K], values: dict[str, Any] | None) -> _K | None:
    return _item(kind, values) if values else None


def _item(kind: type[_K], values: dict[str, Any]) -> _K:
    kinds = {item.name: item.type for item in fields(kind) if item.name != "extra"}
    known = {
        key: _number(value) if kinds[key] == "int" else _text(value)
        for key, value in values.items()
        if key in kinds
    }
    return kind(**known, extra={key: value for key, value in values.items() if key not in kinds})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text expected")
    return value


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:
        raise TypeError("number expected")
    return value
