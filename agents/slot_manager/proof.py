# SPDX-License-Identifier: Apache-2.0
"""What a good boot and a failed one leave in the record: pure functions, no input or output.

Only a good boot raises the floor, the known time and the last good slot: an update that fails must not lock
out the system that it came from.
"""

from __future__ import annotations

from dataclasses import replace

from agents.slot_manager.record import Denied, Floor, LastGood, Pending, Record
from agents.slot_manager.state import Slot
from common import version

KNOWN_STEP_USEC = 3600 * 1_000_000
"""The known time alone is no reason to write the record: only this much of it is."""

PLAUSIBLE_USEC = 366 * 86400 * 1_000_000
"""A clock that is further ahead of all that is known may be broken: believed once, it would make every
manifest expire until that time comes. This much does no lasting harm, for a manifest is valid for a year.
"""


def proven(record: Record, slot: Slot, now_usec: int, built_usec: int = 0) -> Record:
    """The record after `slot`, built at `built_usec`, was proven good at `now_usec`, if that is news; else
    with a later known time at most.
    """
    pending = record.pending if record.pending and record.pending.root_hash == slot.root_hash else None
    root_hash = slot.root_hash
    if is_news(record, root_hash):
        record = record.without(root_hash).allowing({root_hash, *_outdated(record, slot.version)})
        record = replace(record, proven={**record.proven, root_hash: now_usec})
        if pending is not None:
            record = replace(record, floor=_raised(record.floor, pending))
    last = record.last_good
    if last is None or (last.slot, last.root_hash) != (slot.name, root_hash):
        record = replace(record, last_good=LastGood(slot.name, slot.version, root_hash, now_usec))
    known_usec = max(record.known_usec, record.floor.signed_usec, built_usec)
    if not known_usec or now_usec <= known_usec + PLAUSIBLE_USEC:
        known_usec = max(known_usec, now_usec)
    if known_usec >= record.known_usec + KNOWN_STEP_USEC:
        record = replace(record, known_usec=known_usec)
    return record


def is_news(record: Record, root_hash: str) -> bool:
    """Whether this content is not known to be good, or was on trial, or was called bad."""
    on_trial = record.pending is not None and record.pending.root_hash == root_hash
    return on_trial or root_hash not in record.proven or root_hash in record.reasons


def failed(record: Record, slot: Slot, reason: str, now_usec: int) -> Record:
    """The record after the content of `slot` failed: it is bad, and must not be installed again."""
    root_hash, pending, known = slot.root_hash, record.pending, record.denied.get(slot.root_hash)
    # Its attempts stay: should the power fail before the loader knows, they do not begin anew.
    record = replace(record.without(root_hash), attempts=record.attempts)
    record = replace(record, reasons={**record.reasons, root_hash: reason})
    if known is not None:
        return replace(record, denied={**record.denied, root_hash: replace(known, reason=reason)})
    denied = Denied(slot.version, "", reason, now_usec)
    if pending is not None and pending.root_hash == root_hash:
        denied = replace(
            denied,
            digest=pending.digest,
            serial=pending.serial,
            min_version=pending.min_version,
            signed_usec=pending.signed_usec,
            key_epoch=pending.key_epoch,
        )
    return replace(record, denied={**record.denied, root_hash: denied})


def pending_again(record: Record, slot: Slot, now_usec: int, tries: int) -> Pending:
    """A new trial of `slot`, with all that is still known of its release."""
    old, denied = record.pending, record.denied.get(slot.root_hash)
    if old is not None and old.root_hash == slot.root_hash:
        return replace(
            old,
            armed_usec=now_usec,
            tries=tries,
            approved_usec=old.approved_usec or now_usec,
            slot=slot.name,
        )
    pending = Pending(slot.name, slot.version, slot.root_hash, now_usec, tries, approved_usec=now_usec)
    if denied is None:
        return pending
    return replace(
        pending,
        digest=denied.digest,
        serial=denied.serial,
        min_version=denied.min_version,
        signed_usec=denied.signed_usec,
        key_epoch=denied.key_epoch,
    )


def _outdated(record: Record, blessed: str) -> set[str]:
    """Root hashes of denied releases that are older than the one that is good now."""
    return {
        root_hash for root_hash, item in record.denied.items() if version.compare(item.version, blessed) < 0
    }


def _raised(floor: Floor, pending: Pending) -> Floor:
    is_higher = version.compare(pending.min_version, floor.min_version) > 0
    return replace(
        floor,
        serial=max(floor.serial, pending.serial),
        min_version=pending.min_version if is_higher else floor.min_version,
        signed_usec=max(floor.signed_usec, pending.signed_usec),
        key_epoch=max(floor.key_epoch, pending.key_epoch),
    )
