# SPDX-License-Identifier: Apache-2.0
"""Verdicts on slots: good boots, failed trials, marks, rollback. The caller holds the machine's lock.

Each step first makes sure that the slot to be booted can be booted, and only then takes anything from the
other. arming.py begins trials, attempts.py counts them, proof.py says what a verdict leaves in the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from agents.slot_manager import arming, messages, policy, proof, tell
from agents.slot_manager.errors import LoaderError, NoSuchSlot, OtherSlotNotGood, WrongState
from agents.slot_manager.loader import REARM_TRIES, UNCOUNTED, Entry, steps_aside
from agents.slot_manager.machine import Machine, View
from agents.slot_manager.record import Record, Refused, Rollback
from agents.slot_manager.state import Slot, State, is_exhausted_boot, used_up
from agents.slot_manager.topology import other_slot
from common import journal
from common.errors import AgentError

NO_REASON = "no reason given"
ASKED_FOR = "asked for by an administrator"


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A completed change of the default slot."""

    to_slot: str
    from_version: str
    to_version: str
    reason: str


@dataclass(frozen=True, slots=True)
class Blessed:
    """What `bless` found: the good slot, and the trial that failed before, if one did."""

    slot: str
    version: str
    trial_succeeded: bool
    rollback: Rollback | None


def bless(machine: Machine, *, insist: bool = False) -> Blessed:
    """Record that the booted slot came up healthy; call it after boot-complete.target.

    A slot that was marked bad during this boot stays bad, unless the caller insists.

    A trial of the other slot that ended without success is recorded as a rollback. The booted entry gets a
    fresh counter if the other slot is good, so that a later failure has somewhere to go, and none otherwise.
    Only here the floor and the known time rise, and a newer set of trusted keys is taken over.
    """
    view = machine.view()
    booted, other = view.booted, view.other
    if booted.entry is None:
        raise LoaderError(f"Slot {booted.name}: {booted.reason}; restore its boot entry.")
    if view.booted.state is State.BAD and not insist and not is_exhausted_boot(view.facts):
        journal.send(
            f"Slot {booted.name} was marked bad during this boot, so it is not blessed: {booted.reason}",
            priority=journal.WARNING,
            slot=booted.name,
        )
        return Blessed(booted.name, booted.version, False, None)
    _warn_if_uncounted(view)
    record, rollback = _close_failed_trial(machine, view)
    root_hash = booted.root_hash
    succeeded = record.pending is not None and record.pending.root_hash == root_hash
    news = proof.is_news(record, root_hash)
    record = proof.proven(record, booted, machine.store.clock(), machine.built_usec())
    if news:
        record = machine.transition(record, booted.name, booted.version, root_hash, State.GOOD, "")
    if record != view.record:
        machine.store.save(record)
    _give_tries(machine, booted.entry, other)
    if record.pending is None:
        machine.store.settle(root_hash)
    if not insist:  # an administrator's word is no proof that the image, with its keys, is good
        _adopt_keys(machine)
    tell.rolled_back(machine.store, record, booted.name)
    if succeeded:
        journal.send(
            f"Update to {booted.version} succeeded: slot {booted.name} was booted and is good.",
            priority=journal.NOTICE,
            message_id=messages.UPDATE_SUCCEEDED,
            slot=booted.name,
            version=booted.version,
            roothash=root_hash,
        )
    return Blessed(booted.name, booted.version, succeeded, rollback)


def rearm(machine: Machine) -> None:
    """Give the running slot its tries back, for a boot that was judged and stays, but came up degraded.

    This is no good verdict: the record stays as it is. Raises WrongState unless the slot is good already.
    """
    view = machine.view()
    booted = view.booted
    if booted.entry is None or booted.state is not State.GOOD:
        raise WrongState(
            f"Slot {booted.name} is '{booted.state}': only a good slot gets tries back without a verdict."
        )
    _give_tries(machine, booted.entry, view.other)
    tell.rolled_back(machine.store, view.record, booted.name)


def close_failed_trial(machine: Machine, view: View) -> None:
    """Record that the trial of the other slot has failed as soon as the good one runs again, however this
    boot may end.

    A running slot that is not good may be the one that failed: the boot loader had nothing better.
    """
    if view.booted.state is State.GOOD:
        record, _ = _close_failed_trial(machine, view)
        if record != view.record:
            machine.store.save(record)


def rollback(machine: Machine, reason: str = ASKED_FOR) -> RolledBack:
    """Make the other slot the default and mark the running one bad.

    Raises OtherSlotNotGood; nothing reboots.
    """
    view = machine.view()
    booted, other = view.booted, view.other
    other_entry = _require_good(other, f"to go back from slot {booted.name}")
    reason = reason or ASKED_FOR
    done = Rollback(
        booted.name, booted.version, other.name, other.version, reason[:1000], machine.store.clock()
    )
    record = replace(_with_bad(machine, view.record, booted, reason), last_rollback=done)
    machine.store.save(record)
    _make_default(machine, view, booted, other_entry)
    journal.send(
        f"Rolled back from {booted.version} (slot {booted.name}) to {other.version} (slot {other.name}): "
        f"{reason}",
        priority=journal.WARNING,
        message_id=messages.ROLLED_BACK,
        slot=other.name,
        version=other.version,
        from_version=booted.version,
        reason=reason,
    )
    return RolledBack(other.name, booted.version, other.version, reason)


def mark_bad(machine: Machine, name: str, reason: str) -> State:
    """Keep the loader from taking a slot.

    Raises OtherSlotNotGood if no good slot would be left, NoSuchSlot.
    """
    view = machine.view()
    slot = _require_content(view.slots, name)
    rest = view.slots[other_slot(name)]
    rest_entry = _require_good(rest, f"to mark slot {name} bad")
    reason = reason or NO_REASON
    record = _with_bad(machine, view.record, slot, reason)
    if slot.state is State.TRYING:
        # The trial stays pending: the slot that comes up instead reports it as failed, with this reason.
        record = replace(record, pending=view.record.pending)
    machine.store.save(record)
    if slot.entry is not None and not slot.entry.staged:
        _make_default(machine, view, slot, rest_entry)
    else:
        machine.loader.clear({rest.root_hash})
    _log_mark(slot, State.BAD, reason)
    return State.BAD


def mark_good(machine: Machine, name: str) -> State:
    """Give a slot another chance: the running slot becomes good and gets its tries back, any other begins a
    trial.

    Returns its new state.

    A slot that is not running and is good or on trial already stays as it is. Raises NoSuchSlot for an empty
    one, OtherSlotNotGood if the running slot is newer and not good, for the loader would take that.
    """
    view = machine.view()
    slot = _require_content(view.slots, name)
    if slot.booted:
        bless(machine, insist=True)
        _log_mark(slot, State.GOOD, "")
        return State.GOOD
    if slot.state in (State.GOOD, State.ARMED, State.TRYING):
        return slot.state
    arming.start_trial(machine, view, slot, "marked good")
    _log_mark(slot, State.ARMED, "")
    return State.ARMED


def refuse(machine: Machine, release: policy.Release, decision: policy.Decision) -> None:
    """Keep for status that a rule refused a verified release; what cannot be kept is only logged."""
    record, reason = machine.store.load(), decision.reason
    if any(
        (item.root_hash, item.rule, item.reason) == (release.root_hash, decision.rule, reason)
        for item in record.refused
    ):
        return
    others = tuple(item for item in record.refused if item.root_hash != release.root_hash)
    now_usec = machine.store.clock()
    new = Refused(release.version, release.root_hash, release.digest, decision.rule, reason, now_usec)
    try:
        machine.store.save(replace(record, refused=(*others, new)))
    except AgentError as error:
        journal.send(f"The refusal of {release.version} is not kept: {error}", priority=journal.WARNING)


def _close_failed_trial(machine: Machine, view: View) -> tuple[Record, Rollback | None]:
    """The record without the other slot's trial if that has failed, and the rollback that this is.

    The same for a slot that was good once and has used up the tries it was re-armed with.
    """
    record, pending, other, booted = view.record, view.record.pending, view.other, view.booted
    if pending and pending.root_hash not in (booted.root_hash, view.partitions[other.name].root_hash):
        record = replace(record, pending=None)  # the trial's content is gone: nothing to report on
    on_trial = record.pending is not None and record.pending.root_hash == other.root_hash
    given_up = other.root_hash in record.proven  # a re-armed slot that was good once
    if other.entry is None or other.entry.tries_left or other.state is State.GOOD:
        return record, None
    if not (on_trial or given_up):
        return record, None
    reason = record.reasons.get(other.root_hash) or used_up(other.entry)
    record = _with_bad(machine, record, other, reason)
    done = Rollback(other.name, other.version, booted.name, booted.version, reason, machine.store.clock())
    journal.send(
        f"{other.version} (slot {other.name}) failed, {booted.version} (slot {booted.name}) runs again: "
        f"{reason}",
        priority=journal.ERR,
        message_id=messages.TRIAL_FAILED,
        slot=other.name,
        version=other.version,
        reason=reason,
    )
    return replace(record, last_rollback=done), done


def _give_tries(machine: Machine, entry: Entry, other: Slot) -> None:
    """Let the loader count the running slot, with its entry, if there is another good one to go to."""
    if not (steps_aside(entry) and other.state is State.ARMED):
        machine.loader.set_tries(entry, REARM_TRIES if other.state is State.GOOD else UNCOUNTED)
        machine.give_way()  # an arming that lost power before this step


def _make_default(machine: Machine, view: View, bad: Slot, good: Entry) -> None:
    """Let the loader take `good`, without counting, and not `bad`.

    Raises LoaderError if it does not read back so; the record of `view` is back then if `bad` is as it was.
    """
    try:
        if good.tries_left != UNCOUNTED:
            machine.loader.set_tries(good, UNCOUNTED)
        if bad.entry is not None:
            # Not the name that systemd-bless-boot gives to a bad entry: it would make that good again if
            # this boot were completed later on.
            machine.loader.set_tries(bad.entry, 0, bad.entry.tries_done + 1)
    except AgentError:
        with suppress(AgentError):
            if machine.view().slots[bad.name].tries_left == bad.tries_left != 0:
                machine.store.save(view.record)
        raise
    machine.loader.clear_overrides()
    after = machine.view().slots
    if after[bad.name].default or not after[other_slot(bad.name)].default:
        raise LoaderError(
            f"Slot {other_slot(bad.name)} is still not the one that boots next; look for other entries on "
            "the ESP."
        )


def _with_bad(machine: Machine, record: Record, slot: Slot, reason: str) -> Record:
    record = proof.failed(record, slot, reason, machine.store.clock())
    return machine.transition(record, slot.name, slot.version, slot.root_hash, State.BAD, reason)


def _require_good(slot: Slot, purpose: str) -> Entry:
    if slot.state is not State.GOOD or slot.entry is None:
        detail = f": {slot.reason}" if slot.reason else ""
        raise OtherSlotNotGood(
            f"Slot {slot.name} has to be good {purpose}, but it is '{slot.state}'{detail}."
        )
    return slot.entry


def _require_content(slots: Mapping[str, Slot], name: str) -> Slot:
    slot = slots[name]
    if slot.entry is None:
        raise NoSuchSlot(f"Slot {name} is {slot.state}: there is nothing in it to mark.")
    return slot


def _log_mark(slot: Slot, new: State, reason: str) -> None:
    journal.send(
        f"Slot {slot.name} ({slot.version}) was marked {new}" + (f": {reason}" if reason else "."),
        priority=journal.NOTICE,
        message_id=messages.SLOT_MARKED,
        slot=slot.name,
        version=slot.version,
        reason=reason,
    )


def _adopt_keys(machine: Machine) -> None:
    """Take over the key set of the system that is good now, if it is newer than the machine's."""
    if not machine.vendor_keys.is_dir():
        return
    from common import trust

    try:
        adopted = trust.adopt(machine.vendor_keys, machine.trusted_keys)
    except (AgentError, OSError) as error:
        journal.send(f"The trusted keys of the image are not taken over: {error}", priority=journal.WARNING)
        return
    if adopted:
        journal.send(
            f"The newer trusted keys of the image are in {machine.trusted_keys} now.",
            priority=journal.NOTICE,
        )


def _warn_if_uncounted(view: View) -> None:
    """The loader boots on without counting if it cannot rename the entry (systemd issue 36170)."""
    entry = view.booted.entry
    if entry is None or entry.tries_left == UNCOUNTED or steps_aside(entry):
        return
    if view.facts.loader and not view.facts.counted:
        journal.send(
            f"This boot of {entry.name} was not counted by the boot loader; check the ESP.",
            priority=journal.WARNING,
            message_id=messages.UNCOUNTED_BOOT,
            slot=view.booted.name,
        )
