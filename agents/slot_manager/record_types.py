# SPDX-License-Identifier: Apache-2.0
"""The parts of slot-manager's record; record.py keeps them on disk. Times are microseconds since 1970."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

MAX_TRANSITIONS = 100
MAX_HASHES = 32
MAX_REFUSED = 16
MAX_TEXT = 1000

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """`extra`: keys that a newer version wrote, saved again as they were read."""

    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pending(Kept):
    """An installed slot without a verdict; `tries` is 0 while it is only staged, `approved_usec` is 0 while
    nobody approved it. The rest is what its release said, for the floor if it turns out good.
    """

    slot: str
    version: str
    root_hash: str
    armed_usec: int
    tries: int
    approved_usec: int = 0
    serial: int = 0
    min_version: str = ""
    signed_usec: int = 0
    key_epoch: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Installing(Kept):
    """An install that has begun to write; outlives it only if the machine lost power."""

    slot: str
    version: str
    since_usec: int


@dataclass(frozen=True, slots=True)
class Begun(Kept):
    """A system that was being written into a slot: parts of it may be there, so the next install of it goes
    on from them. Ends when the slot gets an identity, or another install begins.
    """

    slot: str
    root_hash: str
    since_usec: int


@dataclass(frozen=True, slots=True)
class Rollback(Kept):
    """The last return to another slot; times are microseconds since 1970."""

    from_slot: str
    from_version: str
    to_slot: str
    to_version: str
    reason: str
    since_usec: int


@dataclass(frozen=True, slots=True)
class Transition(Kept):
    """One change of a slot's state."""

    since_usec: int
    slot: str
    version: str
    root_hash: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Floor(Kept):
    """The highest of what blessed releases said: below it nothing is installed any more."""

    serial: int = 0
    min_version: str = ""
    signed_usec: int = 0
    key_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Denied(Kept):
    """A release that failed here; `digest` is that of its manifest, or empty, and the last four are what it
    said for the floor, in case that it is tried again.
    """

    version: str
    digest: str
    reason: str
    since_usec: int
    serial: int = 0
    min_version: str = ""
    signed_usec: int = 0
    key_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Refused(Kept):
    """A verified release that a rule of policy.py refused."""

    version: str
    root_hash: str
    digest: str
    rule: str
    reason: str
    since_usec: int


@dataclass(frozen=True, slots=True)
class LastGood(Kept):
    """The slot that was proven good last."""

    slot: str
    version: str
    root_hash: str
    since_usec: int


@dataclass(frozen=True, slots=True)
class Record(Kept):
    """The whole record; `proven` maps root hashes to when they were proven, `reasons` to why they are bad,
    `attempts` to how often they were started on trial, `refunds` to how many of these boots were forgiven,
    `denied` to why they must not come back.

    `known_usec` is a time that has passed for certain, `attempt_boot_id` the boot that was counted last.
    """

    proven: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    pending: Pending | None = None
    installing: Installing | None = None
    last_rollback: Rollback | None = None
    transitions: tuple[Transition, ...] = ()
    floor: Floor = field(default_factory=Floor)
    known_usec: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    attempt_boot_id: str = ""
    refunds: dict[str, int] = field(default_factory=dict)
    denied: dict[str, Denied] = field(default_factory=dict)
    refused: tuple[Refused, ...] = ()
    last_good: LastGood | None = None
    begun: Begun | None = None

    def last_transition(self, slot: str, root_hash: str) -> Transition | None:
        """The last recorded transition of this content in this slot."""
        mine = (t for t in reversed(self.transitions) if t.slot == slot and t.root_hash in ("", root_hash))
        return next(mine, None)

    def since_usec(self, slot: str, root_hash: str) -> int:
        """Time of the last recorded transition of this content in this slot; 0 if there is none."""
        last = self.last_transition(slot, root_hash)
        return last.since_usec if last else 0

    def with_transition(self, transition: Transition) -> Record:
        return replace(self, transitions=(*self.transitions, transition)[-MAX_TRANSITIONS:])

    def bounded(self) -> Record:
        """The same with the oldest hashes and overlong texts cut, so that it cannot grow for ever."""
        proven = sorted(self.proven.items(), key=lambda item: item[1])[-MAX_HASHES:]
        denied = sorted(self.denied.items(), key=lambda item: item[1].since_usec)[-MAX_HASHES:]
        return replace(
            self,
            proven=dict(proven),
            reasons={key: text[:MAX_TEXT] for key, text in list(self.reasons.items())[-MAX_HASHES:]},
            attempts=dict(list(self.attempts.items())[-MAX_HASHES:]),
            refunds=dict(list(self.refunds.items())[-MAX_HASHES:]),
            denied={key: replace(item, reason=item.reason[:MAX_TEXT]) for key, item in denied},
            refused=tuple(replace(item, reason=item.reason[:MAX_TEXT]) for item in self.refused)[
                -MAX_REFUSED:
            ],
        )

    def without(self, root_hash: str) -> Record:
        """Nothing known about `root_hash` any more, but that it is denied."""
        return replace(
            self,
            proven=_but(self.proven, {root_hash}),
            reasons=_but(self.reasons, {root_hash}),
            attempts=_but(self.attempts, {root_hash}),
            refunds=_but(self.refunds, {root_hash}),
            refused=tuple(item for item in self.refused if item.root_hash != root_hash),
            pending=None if self.pending and self.pending.root_hash == root_hash else self.pending,
        )

    def allowing(self, root_hashes: Collection[str]) -> Record:
        """The same with these releases no longer denied."""
        return replace(
            self,
            denied=_but(self.denied, root_hashes),
            refused=tuple(
                item for item in self.refused if item.root_hash not in root_hashes or item.rule != "denylist"
            ),
        )


def _but(items: dict[str, _T], keys: Collection[str]) -> dict[str, _T]:
    return {key: value for key, value in items.items() if key not in keys}
