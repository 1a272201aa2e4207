# SPDX-License-Identifier: Apache-2.0
"""Slots, releases and the record as the dictionaries of the bus, see its interface file."""

from __future__ import annotations

from typing import Any, Final

from agents.slot_manager.machine import Machine, View
from agents.slot_manager.record import Record
from agents.slot_manager.state import Slot
from common import bus

MAX_TRANSITIONS: Final = 20
DENYLIST: Final = "denylist"

Values = dict[str, Any]


def slots(machine: Machine, view: View) -> list[Values]:
    """Property Slots."""
    return [_slot(machine, view, slot) for slot in view.slots.values()]


def last_rollback(record: Record) -> Values:
    """Property LastRollback."""
    last = record.last_rollback
    if last is None:
        return {}
    return {
        "from": last.from_slot,
        "from_version": last.from_version,
        "to": last.to_slot,
        "to_version": last.to_version,
        "reason": last.reason,
        "since": _usec(last.since_usec),
    }


def last_good(record: Record) -> Values:
    """Property LastGood."""
    last = record.last_good
    if last is None:
        return {}
    return {
        "slot": last.slot,
        "version": last.version,
        "root_hash": last.root_hash,
        "since": _usec(last.since_usec),
    }


def floor(record: Record) -> Values:
    """Property Floor."""
    return {
        "serial": record.floor.serial,
        "min_version": record.floor.min_version,
        "key_epoch": record.floor.key_epoch,
        "signed": _usec(record.floor.signed_usec),
    }


def denied(record: Record) -> list[Values]:
    """Property Denied."""
    found = sorted(record.denied.items(), key=lambda item: item[1].since_usec)
    return [
        {
            "version": item.version,
            "root_hash": root_hash,
            "reason": item.reason,
            "since": _usec(item.since_usec),
        }
        for root_hash, item in found
    ]


def transitions(record: Record) -> list[Values]:
    """Property Transitions."""
    return [
        {
            "since": _usec(item.since_usec),
            "slot": item.slot,
            "version": item.version,
            "state": item.state,
            "reason": item.reason,
        }
        for item in record.transitions[-MAX_TRANSITIONS:]
    ]


def releases(view: View) -> list[Values]:
    """Property Releases: each release once, by its root hash; the first verdict that fits is its verdict."""
    record, booted, other = view.record, view.booted, view.other
    found: dict[str, Values] = {}

    def add(root_hash: str, version: str, verdict: str, rule: str, reason: str, since_usec: int) -> None:
        if root_hash and root_hash not in found:
            found[root_hash] = {
                "version": version,
                "root_hash": root_hash,
                "verdict": verdict,
                "rule": rule,
                "reason": reason,
                "since": _usec(since_usec),
            }

    failed = record.denied.get(booted.root_hash)
    add(
        booted.root_hash,
        booted.version,
        "running",
        DENYLIST if failed else "",
        failed.reason if failed else booted.reason,
        booted.since_usec,
    )
    if other.root_hash not in record.denied:
        add(other.root_hash, other.version, "installed", "", other.reason, other.since_usec)
    for root_hash, item in record.denied.items():
        add(root_hash, item.version, "denied", DENYLIST, item.reason, item.since_usec)
    for refused in reversed(record.refused):
        add(refused.root_hash, refused.version, "refused", refused.rule, refused.reason, refused.since_usec)
    return list(found.values())


def _slot(machine: Machine, view: View, slot: Slot) -> Values:
    pending = view.record.pending
    return {
        "name": slot.name,
        "state": str(slot.state),
        "version": slot.version,
        "root_hash": slot.root_hash,
        "booted": slot.booted,
        "default": slot.default,
        "tries_left": slot.tries_left,
        "tries_done": slot.tries_done,
        "attempts": view.record.attempts.get(slot.root_hash, 0),
        "approved": bool(
            pending and slot.root_hash and pending.root_hash == slot.root_hash and pending.approved_usec
        ),
        "entry": slot.entry.name if slot.entry else "",
        "reason": slot.reason,
        "device": str(machine.topology.slots[slot.name].data),
        "size_bytes": view.partitions[slot.name].data.size_bytes,
        "since": slot.since_usec,
    }


def _usec(value: int) -> bus.Variant:
    return bus.Variant("t", value)
