# SPDX-License-Identifier: Apache-2.0
"""From what is on the disk to the state of each slot: pure functions, no input or output.

A slot's content is named by its root hash (the partition UUIDs); the boot entries with that root hash say
how the loader treats it; the record adds what was proven and why something is bad, and never makes a slot
better than the loader sees it, with one exception: an entry that is counted although its content was proven
is a re-armed good one. An entry without tries of which none was ever taken is a good one that lets an older
one be tried first. Every slot that is not simply good has a reason that status can print.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from agents.slot_manager.loader import UNCOUNTED, Entry, Facts, in_loader_order, steps_aside
from agents.slot_manager.record import Pending, Record

if TYPE_CHECKING:
    from agents.slot_manager.assembly import Statistics

_EXHAUSTED = re.compile(r"\+0+(-\d+)?(\.efi)?$", re.IGNORECASE | re.ASCII)


class State(StrEnum):
    """States of a slot, as on the bus."""

    EMPTY = "empty"
    INSTALLING = "installing"
    STAGED = "staged"
    APPROVED = "approved"
    ARMED = "armed"
    TRYING = "trying"
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Installed:
    """A finished install: which version is in which slot (or would be, after a dry run), and the slot's
    state.

    statistics: where the blocks of the system came from, None after a dry run. fetched_bytes: what came from
    the source: over the network if it is a URL, else what was read of the image for the system.
    """

    slot: str
    version: str
    state: State
    dry_run: bool
    statistics: Statistics | None = None
    fetched_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot as it is now; `tries_left` is -1 where nothing is counted, `since_usec` 0 where unknown.

    `attempts`: boots of it that we counted ourselves while it was on trial. `approved`: somebody agreed to
    its being tried.
    """

    name: str
    state: State
    version: str
    root_hash: str
    booted: bool
    default: bool
    tries_left: int
    tries_done: int
    entry: Entry | None
    reason: str
    since_usec: int
    attempts: int = 0
    approved: bool = False


def derive(
    root_hashes: Mapping[str, str],
    entries: Iterable[Entry],
    record: Record,
    facts: Facts,
    *,
    booted: str,
    installing: str = "",
) -> dict[str, Slot]:
    """State of every slot named in `root_hashes`; `installing` is the slot that an install writes now."""
    entries = tuple(entries)
    order = in_loader_order(entries)
    first = order[0].root_hash if order else ""
    slots = {}
    for name, root_hash in root_hashes.items():
        entry = entry_of(root_hash, entries)
        pending = _pending(root_hash, record)
        state, reason = _state(name, root_hash, entry, record, facts, is_booted=name == booted)
        if name == installing:
            state, reason = State.INSTALLING, "an installation writes it now"
        elif state is State.ARMED and root_hash != first:
            reason = "the boot loader takes the other slot first; arm it again"
        slots[name] = Slot(
            name=name,
            state=state,
            version=entry.version if entry else "",
            root_hash=root_hash if entry else "",
            booted=name == booted,
            default=bool(entry) and root_hash == first,
            tries_left=entry.tries_left if entry else UNCOUNTED,
            tries_done=entry.tries_done if entry else 0,
            entry=entry,
            reason=reason,
            since_usec=record.since_usec(name, root_hash),
            attempts=record.attempts.get(root_hash, 0) if entry else 0,
            approved=bool(entry and pending and pending.approved_usec),
        )
    return slots


def entry_of(root_hash: str, entries: Iterable[Entry]) -> Entry | None:
    """The entry that the loader would use for this content; a staged one only if there is no other."""
    mine = [entry for entry in entries if root_hash and entry.root_hash == root_hash]
    visible = in_loader_order(mine)
    return next(iter(visible or mine), None)


def default_slot(slots: Mapping[str, Slot]) -> str:
    """Name of the slot that the loader takes next; empty if it takes neither."""
    return next((slot.name for slot in slots.values() if slot.default), "")


def is_exhausted_boot(facts: Facts) -> bool:
    """Whether the loader had to take an entry without tries: there was nothing better."""
    return bool(_EXHAUSTED.search(facts.selected))


def _state(
    name: str, root_hash: str, entry: Entry | None, record: Record, facts: Facts, *, is_booted: bool
) -> tuple[State, str]:
    known_reason = record.reasons.get(root_hash, "")
    if entry is None:
        return _without_entry(name, root_hash, record, is_booted=is_booted)
    if entry.staged:
        pending = _pending(root_hash, record)
        if pending and pending.approved_usec:
            return State.APPROVED, "verified and approved; no boot tries it until it is armed"
        return State.STAGED, "verified; no boot tries it until it is armed"
    if entry.tries_left == UNCOUNTED or (steps_aside(entry) and not known_reason):
        return State.GOOD, ""
    if entry.tries_left == 0 and not (is_booted and not known_reason and _is_last_try(entry, facts)):
        return State.BAD, known_reason or used_up(entry)
    if root_hash in record.proven:
        return State.GOOD, ""
    if not (entry.tries_done or record.attempts.get(root_hash) or is_booted):
        return State.ARMED, "the next boot tries it"
    if is_booted:
        return State.TRYING, "it runs on trial and has no verdict yet"
    return State.TRYING, "its trial has begun and has no verdict yet"


def _without_entry(name: str, root_hash: str, record: Record, *, is_booted: bool) -> tuple[State, str]:
    if is_booted:
        return (
            State.BAD,
            "the running system has no boot entry on the ESP, so it cannot be started again",
        )
    interrupted = record.installing
    if interrupted and interrupted.slot == name:
        return State.EMPTY, f"the installation of {interrupted.version} was interrupted"
    last = record.last_transition(name, root_hash)
    if last is None:
        return State.EMPTY, ""
    if last.reason:
        return State.EMPTY, last.reason
    return State.EMPTY, f"its boot entry is gone; it was {last.state} with {last.version}"


def _pending(root_hash: str, record: Record) -> Pending | None:
    """What the record knows of the trial of this content."""
    pending = record.pending
    return pending if pending and root_hash and pending.root_hash == root_hash else None


def used_up(entry: Entry) -> str:
    """Why an entry without tries and without a recorded reason is bad."""
    tries = max(entry.tries_done, 1)
    return (
        f"used up its {tries} tries without a good verdict (failed checks, kernel panic, hang or power loss)"
    )


def _is_last_try(entry: Entry, facts: Facts) -> bool:
    """Whether this boot took the last try of `entry`: it had one left when the loader chose it."""
    return (
        entry.name.lower() == facts.counted.lower() and bool(facts.selected) and not is_exhausted_boot(facts)
    )
