# SPDX-License-Identifier: Apache-2.0
"""From an installed slot to one that the next boot tries, and back. The caller holds the machine's lock.

A staged slot is complete but has no entry that the boot loader sees, so no boot by chance starts it.
Approval changes the record only; arming is the one step that shows the entry to the loader.
"""

from __future__ import annotations

from dataclasses import replace

from agents.slot_manager import messages, policy, proof
from agents.slot_manager.errors import LoaderError, OtherSlotNotGood, WrongState
from agents.slot_manager.loader import TRIAL_TRIES
from agents.slot_manager.machine import Machine, View
from agents.slot_manager.state import Slot, State
from common import journal, version
from common.errors import InvalidArgument

ALL = "all"


def approve(machine: Machine) -> State:
    """Agree to the staged release; an approved one stays approved. Raises WrongState, Denied, BelowFloor."""
    view = machine.view()
    slot = view.other
    if slot.state is State.APPROVED:
        return slot.state
    if slot.state is not State.STAGED:
        raise WrongState(_sentence(slot, "approved", "staged"))
    policy.require_not_revoked(slot.version, slot.root_hash, view.record)
    pending = proof.pending_again(view.record, slot, machine.store.clock(), 0)
    record = replace(view.record, pending=pending)
    machine.store.save(
        machine.transition(record, slot.name, slot.version, slot.root_hash, State.APPROVED, "")
    )
    _log(slot, State.APPROVED, messages.SLOT_APPROVED, "It is not tried before it is armed.")
    return State.APPROVED


def arm(machine: Machine) -> State:
    """Let the next boot try the staged or approved slot; an armed one stays armed.

    Raises WrongState, Denied, BelowFloor, OtherSlotNotGood, LoaderError.
    """
    view = machine.view()
    slot = view.other
    if slot.state is State.ARMED:
        machine.loader.clear_overrides()
        machine.give_way()
        return slot.state
    if slot.state not in (State.STAGED, State.APPROVED):
        raise WrongState(_sentence(slot, "armed", "staged or approved"))
    policy.require_not_revoked(slot.version, slot.root_hash, view.record)
    start_trial(machine, view, slot, "")
    after = machine.view().other
    if after.state is not State.ARMED or not after.default:
        raise LoaderError(
            f"Slot {slot.name} reads back as '{after.state}' after arming; look for other entries on the "
            "ESP."
        )
    _log(slot, State.ARMED, messages.SLOT_ARMED, "The next boot tries it.")
    return State.ARMED


def require_way_back(view: View, release_version: str) -> None:
    """Whether the running slot can step aside for a release that is older. Raises OtherSlotNotGood."""
    booted = view.booted
    if booted.state is not State.GOOD and version.compare(release_version, booted.version) < 0:
        raise OtherSlotNotGood(
            f"Slot {booted.name} has to be good before the older {release_version} is tried, but it is "
            f"'{booted.state}'; wait for the verdict or mark it good."
        )


def start_trial(machine: Machine, view: View, slot: Slot, reason: str) -> None:
    """Give a slot with content, which is not running, the tries of a new trial, whatever it was before.

    Raises WrongState, OtherSlotNotGood, LoaderError.
    """
    if slot.entry is None:
        raise WrongState(_sentence(slot, "tried", "not empty"))
    require_way_back(view, slot.version)
    pending = proof.pending_again(view.record, slot, machine.store.clock(), TRIAL_TRIES)
    record = view.record.without(slot.root_hash).allowing({slot.root_hash})
    record = replace(record, pending=pending)
    machine.store.save(
        machine.transition(record, slot.name, slot.version, slot.root_hash, State.ARMED, reason)
    )
    machine.keep_running_slot(view)
    if slot.entry.staged:
        machine.loader.arm(slot.version, TRIAL_TRIES)
    else:
        machine.loader.set_tries(slot.entry, TRIAL_TRIES)
    machine.loader.clear_overrides()
    machine.give_way()


def disarm(machine: Machine) -> State:
    """Take an armed slot that no boot has tried yet back to staged. Raises WrongState, LoaderError."""
    view = machine.view()
    slot = view.other
    if slot.state is not State.ARMED or slot.entry is None:
        raise WrongState(_sentence(slot, "disarmed", "armed and not tried yet"))
    machine.keep_running_slot(view)  # it may have stepped aside
    machine.loader.disarm(slot.entry)
    pending = replace(proof.pending_again(view.record, slot, 0, 0), approved_usec=0)
    record = replace(view.record, pending=pending)
    machine.store.save(machine.transition(record, slot.name, slot.version, slot.root_hash, State.STAGED, ""))
    after = machine.view()
    if after.other.state is not State.STAGED or after.other.default:
        raise LoaderError(
            f"Slot {slot.name} reads back as '{after.other.state}' after disarming; look for other entries "
            "on the ESP."
        )
    _log(slot, State.STAGED, messages.SLOT_DISARMED, "The next boot starts the running slot again.")
    return State.STAGED


def clear_denied(machine: Machine, version: str) -> int:
    """Allow releases again that failed here: those of `version`, or "all"; returns how many.

    A slot that holds one of them stays bad. Raises InvalidArgument if there are none.
    """
    record = machine.store.load()
    found = {root_hash: item for root_hash, item in record.denied.items() if version in (ALL, item.version)}
    if not found:
        what = "No release is" if version == ALL else f"Release '{version}' is not"
        raise InvalidArgument(
            f"{what} denied on this machine; 'hypernet-admin status' lists those that are."
        )
    machine.store.save(record.allowing(found))
    for item in found.values():
        journal.send(
            f"Release {item.version} may be installed again; it had failed here: {item.reason}",
            priority=journal.NOTICE,
            message_id=messages.DENIAL_CLEARED,
            version=item.version,
            reason=item.reason,
        )
    return len(found)


def _sentence(slot: Slot, what: str, needed: str) -> str:
    return (
        f"Slot {slot.name} is '{slot.state}', so it cannot be {what}: it has to be {needed}; see "
        "'hypernet-admin status'."
    )


def _log(slot: Slot, new: State, message_id: str, then: str) -> None:
    journal.send(
        f"Slot {slot.name} ({slot.version}) is {new}. {then}",
        priority=journal.NOTICE,
        message_id=message_id,
        slot=slot.name,
        version=slot.version,
        roothash=slot.root_hash,
    )
