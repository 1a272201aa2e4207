# SPDX-License-Identifier: Apache-2.0
"""Asks slot-manager about the slots, over the bus: io.hypernet.SlotManager1."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agents.boot_health import boot
from agents.boot_health.errors import SlotsInvalid
from agents.boot_health.places import Places
from common import bus
from common.errors import AgentError, NotRunning

NAME: Final = "io.hypernet.SlotManager1"
PATH: Final = "/io/hypernet/SlotManager1"
QUERY_SEC: Final = 20.0
MARK_SEC: Final = 25.0
UNCOUNTED: Final = -1


@dataclass(frozen=True, slots=True)
class Slots:
    """trial: the booted slot has yet to prove itself. other_good: the slot that is not booted was proven
    good, None if slot-manager does not tell. rearmed: the booted slot was proven good, and the boot loader
    counts its boots nevertheless. root_hash: of the booted system, empty if it is not known.
    """

    trial: bool
    other_good: bool | None
    rearmed: bool = False
    root_hash: str = ""


def query() -> Slots:
    """Return what matters about the slots. Raises NotRunning, RemoteError, SlotsInvalid."""
    return asyncio.run(_query())


def mark_booted_bad(reason: str) -> None:
    """Mark the booted slot bad, so that the boot loader takes the other one. Raises NotRunning,
    RemoteError.
    """
    asyncio.run(_call("MarkBad", "ss", "booted", reason))


def rearm_booted() -> None:
    """Give the booted slot, which was good before, its tries back. Raises NotRunning, RemoteError."""
    asyncio.run(_call("Rearm", ""))


async def _query() -> Slots:
    try:
        async with asyncio.timeout(QUERY_SEC), bus.connect() as client:
            value = await client.get_property(NAME, PATH, NAME, "Slots")
    except TimeoutError as error:
        raise NotRunning(f"{NAME} did not answer within {QUERY_SEC:g} s.") from error
    return interpret(value)


async def _call(member: str, signature: str, *arguments: str) -> None:
    async with bus.connect() as client:
        await client.call(NAME, PATH, NAME, member, signature, *arguments, timeout_sec=MARK_SEC)


def interpret(value: object) -> Slots:
    """Read the property Slots (aa{sv}, plain values). Raises SlotsInvalid."""
    if not isinstance(value, Sequence) or not all(isinstance(item, Mapping) for item in value):
        raise SlotsInvalid(
            f"The property Slots of {NAME} is not a list of slots;"
            " see 'journalctl -u hypernet-slot-manager'."
        )
    items: list[Mapping[str, Any]] = list(value)
    booted = [item for item in items if item.get("booted") is True]
    others = [item for item in items if item.get("booted") is not True]
    return Slots(
        trial=any(item.get("state") == "trying" for item in booted),
        other_good=any(item.get("state") == "good" for item in others),
        rearmed=any(
            item.get("state") == "good" and item.get("tries_left", UNCOUNTED) != UNCOUNTED for item in booted
        ),
        root_hash=next(
            (root_hash for item in booted if isinstance(root_hash := item.get("root_hash"), str)), ""
        ),
    )


def guess(places: Places, proven: str) -> Slots:
    """Return what can be told without slot-manager: a boot that the boot loader counts is a trial.

    But a good slot is counted, too, once it is re-armed; proven: root hash of a system that was no trial.
    """
    root_hash = boot.root_hash(places.proc)
    known_good = root_hash != "" and root_hash == proven
    return Slots(boot.counted(places.efivars) and not known_good, other_good=None, root_hash=root_hash)


def query_or_none() -> tuple[Slots | None, str]:
    """Return the slots and an empty sentence, or None and the sentence why they are not known."""
    try:
        return query(), ""
    except AgentError as error:
        return None, str(error)
