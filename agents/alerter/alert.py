# SPDX-License-Identifier: Apache-2.0
"""One alert, as the agent that raised it wrote it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agents.alerter.errors import AlertInvalid
from common import journal
from common.alerts import Kind

ID: Final = re.compile(r"[0-9]{20}-[0-9a-f]{8}")
"""Name of an alert: the time in ns at which it was raised, and a random part; it sorts by time."""

_MAX_NUMBER: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class Alert:
    """usec: CLOCK_REALTIME in µs at which it was raised. details: further facts, in order."""

    id: str
    kind: Kind
    summary: str
    details: Mapping[str, str]
    usec: int

    @property
    def sameness(self) -> str:
        """Equal for alerts that say the same."""
        return hashlib.sha256(f"{self.kind}\n{self.summary}".encode()).hexdigest()[:32]

    def log(
        self, what: str, *, priority: int = journal.INFO, message_id: str | None = None, **fields: str | int
    ) -> None:
        """Write a journal entry about it: "WHAT: SUMMARY"."""
        journal.send(
            f"{what}: {self.summary}",
            priority=priority,
            message_id=message_id,
            alert=self.id,
            kind=str(self.kind),
            summary=self.summary,
            **fields,
        )


def decode(name: str, data: bytes) -> Alert:
    """The alert in a file of the inbox. Raises AlertInvalid."""
    if not ID.fullmatch(name):
        raise AlertInvalid(f"The file {name!r} is not named like an alert.")
    return from_members(name, load_members(data))


def load_members(data: bytes) -> dict[str, Any]:
    """The JSON object in a file. Raises AlertInvalid."""
    try:
        members = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AlertInvalid(f"The file is not JSON ({error}).") from None
    if not isinstance(members, dict):
        raise AlertInvalid("The file holds no JSON object.")
    return members


def from_members(name: str, members: Mapping[str, Any]) -> Alert:
    """The alert that a JSON object describes; other members are overlooked. Raises AlertInvalid."""
    try:
        kind = Kind(str(members.get("kind")))
    except ValueError:
        raise AlertInvalid(f"There is no kind of alert {str(members.get('kind'))[:64]!r}.") from None
    summary, details, usec = (members.get(key) for key in ("summary", "details", "usec"))
    if not isinstance(summary, str) or not isinstance(details, dict):
        raise AlertInvalid("The members summary and details are missing or of a wrong type.")
    if not all(isinstance(value, str) for value in details.values()):
        raise AlertInvalid("The details are not all texts.")
    texts = {one_line(key): _encodable(value) for key, value in details.items()}
    return Alert(name, kind, one_line(summary), texts, bounded(usec))


def bounded(value: object) -> int:
    """A count, or a time in µs up to the year 2255, which every library can handle. Raises AlertInvalid."""
    if type(value) is not int or not 0 <= value <= _MAX_NUMBER:
        raise AlertInvalid(f"A number is missing, or not from 0 to {_MAX_NUMBER}.")
    return value


def to_members(alert: Alert) -> dict[str, Any]:
    """What from_members() reads."""
    return {
        "kind": str(alert.kind),
        "summary": alert.summary,
        "details": dict(alert.details),
        "usec": alert.usec,
    }


def one_line(text: str) -> str:
    """Text without line ends and control characters, as it may stand in a header."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _encodable(text: str) -> str:
    """Text without lone surrogates, which the name of a file may have brought."""
    return text.encode(errors="replace").decode()
