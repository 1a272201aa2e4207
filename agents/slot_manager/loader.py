# SPDX-License-Identifier: Apache-2.0
"""What slot-manager needs of a boot loader, whichever it is.

An entry starts the slot that has its root hash; tries are counted by the loader. systemd_boot.py implements
this with file names on the ESP.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common import version

TRIAL_TRIES = 3
"""Tries of a freshly installed slot: for what user space cannot judge (panic, hang, loss of power)."""

REARM_TRIES = 5
"""Tries of a good slot while the other one is good too: a few quick power cuts must not use them up."""

UNCOUNTED = -1


@dataclass(frozen=True, slots=True)
class Entry:
    """A boot entry of ours.

    `stem` is its name without counter, `tries_left` is -1 where the loader does not count. A staged entry is
    complete but not visible to the loader.
    """

    name: str
    stem: str
    tries_left: int
    tries_done: int
    staged: bool
    root_hash: str
    version: str
    sort_key: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the loader told about this boot; empty where it told nothing.

    `selected` is the entry as it was named when it was chosen, `counted` as it was named after its try was
    taken.
    """

    loader: str = ""
    selected: str = ""
    counted: str = ""


def steps_aside(entry: Entry) -> bool:
    """Whether a good entry lets an older one be tried first: it has no tries, although none was ever taken.

    Once the other one has used up its own tries the loader takes this one again, as it is the newer.
    """
    return entry.tries_left == 0 and entry.tries_done == 0 and not entry.staged


class BootLoader(Protocol):
    """Entries of both slots. Every change is durable and read back when the method returns."""

    name: str

    def entries(self) -> tuple[Entry, ...]:
        """All entries of ours, staged ones too, in no particular order."""

    def facts(self) -> Facts:
        """What the loader says about this boot."""

    def room_bytes(self, keep: Collection[str]) -> int:
        """Bytes that an entry can have once all entries but those with a root hash in `keep` are gone."""

    def clear(self, keep: Collection[str]) -> None:
        """Remove each of our entries whose root hash is not in `keep`."""

    def stage(self, uki: Path, version: str, sha256: str) -> None:
        """Copy a UKI so that it is complete but invisible to the loader; sha256: of what is read back."""

    def arm(self, version: str, tries: int) -> None:
        """Make the staged entry of `version` visible with `tries` tries."""

    def disarm(self, entry: Entry) -> None:
        """Make an armed entry a staged one again: complete, but invisible to the loader."""

    def set_tries(self, entry: Entry, left: int, done: int = 0) -> None:
        """Give an entry another counter: -1 good, 0 bad, else tries left. Removes twins of the same name."""

    def clear_overrides(self) -> None:
        """Remove every persistent or one-time choice that would overrule the order of entries."""


def in_loader_order(entries: Iterable[Entry]) -> list[Entry]:
    """Visible entries, the one that the loader takes first at the front.

    systemd-boot's config_entry_compare (src/boot/efi/boot.c): exhausted ones last, then sort key, then
    version descending, then file name descending, then more tries left, then fewer tries done.
    """
    return sorted((entry for entry in entries if not entry.staged), key=functools.cmp_to_key(_compare))


def _compare(left: Entry, right: Entry) -> int:
    order = (left.tries_left == 0) - (right.tries_left == 0) or (not left.sort_key) - (not right.sort_key)
    if order:
        return order
    if left.sort_key != right.sort_key:
        return -1 if left.sort_key < right.sort_key else 1
    if left.sort_key:
        order = -version.compare(left.version, right.version)
    order = order or -version.compare(left.name.lower(), right.name.lower())
    if order or UNCOUNTED in (left.tries_left, right.tries_left):
        return order
    return (right.tries_left - left.tries_left) or (left.tries_done - right.tries_done)
