# SPDX-License-Identifier: Apache-2.0
"""The install engine: from an image to an armed slot, in the only order that a power cut cannot hurt.

Everything that can be checked is checked first; a refused image leaves disk, ESP and record as they were,
but for the note about the refusal. Then: take the counter off the running slot, record the intent, remove
the target's boot entries, take its partition UUIDs away, write and prove the partitions (writing.py), stage
the UKI, set the UUIDs, record the trial, arm the entry. Whatever goes wrong after the first of these steps
leaves the target empty and the running slot bootable; what was written by then is kept for the next try.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from agents.slot_manager import arming, candidate, devices, partuuid, policy, preflight, sources
from agents.slot_manager.assembly import Statistics
from agents.slot_manager.candidate import Candidate
from agents.slot_manager.errors import LoaderError
from agents.slot_manager.loader import TRIAL_TRIES
from agents.slot_manager.machine import Machine, View
from agents.slot_manager.progress import Meter, Progress, Stage, Story
from agents.slot_manager.record import Begun, Installing, Pending
from agents.slot_manager.sources import OpenFiles, Supply
from agents.slot_manager.state import Installed, State
from agents.slot_manager.writing import Writer
from common import journal, trust
from common.errors import AgentError, InvalidArgument
from common.image.stream import check

__all__ = ["Installed", "Progress", "Stage", "install"]


@dataclass(frozen=True, slots=True)
class _Plan:
    """A release that passed all checks, where it goes, and the folder for what has to be unpacked.

    in_place: the target may hold parts of it. key_epoch_here: of the keys that this machine relies on.
    """

    view: View
    supply: Supply
    candidate: Candidate
    devices: tuple[devices.Device, devices.Device]
    work: Path
    in_place: bool
    key_epoch_here: int

    @property
    def target(self) -> str:
        return self.view.other.name

    @property
    def release(self) -> policy.Release:
        return self.candidate.release


def install(
    machine: Machine,
    wanted: str | OpenFiles,
    *,
    arm: bool = True,
    allow_downgrade: bool = False,
    dry_run: bool = False,
    slot: str = "",
    cancel: threading.Event | None = None,
    progress: Progress = lambda stage, done, total: None,
    found: Callable[[str], None] = lambda version: None,
    before_write: Callable[[], None] = lambda: None,
    fields: Mapping[str, str | int] = {},
) -> Installed:
    """Install an image (a path, a URL or open files) into the slot that is not running.

    allow_downgrade: accept an older version than the running one. dry_run: stop before the first change.
    slot: the target's name, if the caller wants to be sure of it. found: called with the version once the
    release is verified. before_write: called before the first change; what it raises ends the install.
    fields: more fields for the journal entries.

    Raises Busy, Cancelled, InvalidArgument, the errors of agents.slot_manager.errors, common.image.errors,
    common.manifest and common.trust; each is one sentence for the user.
    """
    cancel = cancel or threading.Event()
    target = machine.topology.other
    name = sources.shown(wanted)
    story = Story(name, {**fields, "source": name, "slot": target}, silent=dry_run)
    try:
        with machine.lock(), ExitStack() as stack:
            if slot not in ("", target):
                raise InvalidArgument(
                    f"An update goes into slot {target} now, not into '{slot}'; leave the slot out."
                )
            meter = Meter(progress)
            meter.enter(Stage.CHECK)
            plan = _prepare(machine, wanted, story, stack, cancel, meter, found, allow_downgrade, dry_run)
            installed = Installed(target, plan.release.version, plan.view.other.state, dry_run)
            if not dry_run:
                before_write()
                check(cancel)
                installed = _carry_out(machine, plan, arm, story, cancel, meter)
            meter.enter(Stage.DONE)
            return installed
    except Exception as error:
        story.ended(error)
        raise


def _prepare(
    machine: Machine,
    wanted: str | OpenFiles,
    story: Story,
    stack: ExitStack,
    cancel: threading.Event,
    meter: Meter,
    found: Callable[[str], None],
    allow_downgrade: bool,
    dry_run: bool,
) -> _Plan:
    """All checks, in order; nothing but a refusal is recorded. Files and devices stay open in `stack`."""
    view = machine.view()
    preflight.require_safe(view)
    supply = stack.enter_context(sources.opened(wanted, machine.settings, cancel))
    preflight.require_statement(machine, supply.name, stated=supply.statement is not None)
    store = trust.load(
        machine.trusted_keys, vendor=machine.vendor_keys, min_epoch=view.record.floor.key_epoch
    )
    work = Path(stack.enter_context(preflight.work_folder(machine.cache)))

    def judge(release: policy.Release) -> None:
        story.learn(release)
        refusal = preflight.refusal(machine, view, release, allow_downgrade=allow_downgrade)
        preflight.require(machine, release, refusal, dry_run=dry_run)

    meter.enter(Stage.VERIFY)
    proven = candidate.examine(
        machine, view, supply, work, store, judge=judge, dry_run=dry_run, cancel=cancel, meter=meter
    )
    release = proven.release
    found(release.version)
    arming.require_way_back(view, release.version)
    if proven.plain is not None:
        _require_fit(machine, view, proven, proven.plain.fd, proven.root.offset_bytes, store.epoch, dry_run)
    preflight.require_boot_room(machine, view, proven.content.uki_bytes)
    preflight.require_record_room(machine)
    needs = proven.root.size_bytes, proven.tree.size_bytes if proven.tree else 0
    claimed = devices.claim(machine.topology, needs, stack)
    check(cancel)
    began = view.record.begun
    kept = {
        view.partitions[view.other.name].root_hash,
        began.root_hash if began and began.slot == view.other.name else "",
    }
    in_place = release.root_hash in kept
    return _Plan(view, supply, proven, claimed, work, in_place, store.epoch)


def _require_fit(
    machine: Machine,
    view: View,
    proven: Candidate,
    root_fd: int,
    root_offset: int,
    key_epoch_here: int,
    dry_run: bool,
) -> None:
    unfitness = candidate.unfitness(
        machine, view, proven, root_fd, root_offset, key_epoch_here=key_epoch_here
    )
    preflight.require(machine, proven.release, unfitness, dry_run=dry_run)


def _carry_out(
    machine: Machine, plan: _Plan, arm: bool, story: Story, cancel: threading.Event, meter: Meter
) -> Installed:
    """The steps that change the machine."""
    state = State.ARMED if arm else State.STAGED
    machine.keep_running_slot(machine.view())  # systemd-bless-boot may have renamed its entry since
    _begin(machine, plan)
    story.started()
    try:
        machine.loader.clear({plan.view.booted.root_hash})
        partuuid.set_random(machine.topology, plan.target)
        meter.enter(Stage.WRITE)
        statistics = _write(machine, plan, cancel, meter)
        meter.enter(Stage.ENTRY)
        _finish(machine, plan, state)
    except BaseException as error:
        _abandon(machine, plan.view, plan.release, error)
        raise
    fetched = plan.supply.fetched_bytes or statistics.fetched
    story.succeeded(state, statistics, fetched)
    return Installed(plan.target, plan.release.version, state, False, statistics, fetched)


def _write(machine: Machine, plan: _Plan, cancel: threading.Event, meter: Meter) -> Statistics:
    """Write and prove the partitions; what could not be read before is judged by its content now."""
    booted = plan.view.booted
    writer = Writer(
        plan.candidate,
        plan.supply,
        plan.devices,
        machine.topology.slots[booted.name],
        booted.root_hash,
        plan.work,
        in_place=plan.in_place,
        cancel=cancel,
        meter=meter,
    )
    statistics = writer.write()
    if plan.candidate.plain is None:
        fd = os.open(plan.devices[0].path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _require_fit(machine, plan.view, plan.candidate, fd, 0, plan.key_epoch_here, dry_run=False)
        finally:
            os.close(fd)
    return statistics


def _begin(machine: Machine, plan: _Plan) -> None:
    """Record the intent; the next step is the first that cannot be taken back."""
    release, record = plan.release, machine.store.load()
    old_hash = plan.view.partitions[plan.target].root_hash
    record = record.without(old_hash).without(release.root_hash)
    now_usec = machine.store.clock()
    record = replace(
        record,
        pending=None,
        installing=Installing(plan.target, release.version, now_usec),
        begun=Begun(plan.target, release.root_hash, now_usec),
    )
    machine.store.save(
        machine.transition(record, plan.target, release.version, release.root_hash, State.INSTALLING, "")
    )


def _finish(machine: Machine, plan: _Plan, state: State) -> None:
    """Make what was written bootable, and armed if that is to be its state."""
    target, release = plan.target, plan.release
    arm = state is State.ARMED
    found = plan.candidate.content
    machine.loader.stage(found.uki, release.version, found.uki_sha256)
    partuuid.set_root_hash(machine.topology, target, release.root_hash)
    now_usec = machine.store.clock()
    pending = Pending(
        slot=target,
        version=release.version,
        root_hash=release.root_hash,
        armed_usec=now_usec,
        tries=TRIAL_TRIES if arm else 0,
        approved_usec=now_usec if arm else 0,
        serial=policy.serial_of(release),
        min_version=release.min_version,
        signed_usec=plan.candidate.signed_sec * 1_000_000,
        key_epoch=release.key_epoch,
        digest=release.digest,
    )
    record = replace(machine.store.load(), pending=pending, installing=None, begun=None)
    machine.store.save(machine.transition(record, target, release.version, release.root_hash, state, ""))
    if arm:
        machine.loader.arm(release.version, TRIAL_TRIES)
        machine.loader.clear_overrides()
    after = (machine.give_way() if arm else machine.view()).other
    if after.state is not state or after.version != release.version or (arm and not after.default):
        raise LoaderError(
            f"Slot {target} reads back as '{after.state}' after the installation, not as '{state}'."
        )


def _abandon(machine: Machine, view: View, release: policy.Release, error: BaseException) -> None:
    """Leave the target empty: no entry, no identity.

    What fails here is logged; the first error is the one told.
    """
    target = view.other.name
    reason = str(error) if isinstance(error, AgentError) else "the installation was broken off"
    steps: tuple[Callable[[], None], ...] = (
        lambda: machine.loader.clear({view.booted.root_hash}),
        lambda: partuuid.set_random(machine.topology, target),
        lambda: machine.keep_running_slot(machine.view()),
    )
    for step in steps:
        try:
            step()
        except AgentError as second:
            journal.send(f"Cleaning up slot {target} failed: {second}", priority=journal.ERR, slot=target)
    with suppress(AgentError):
        record = machine.store.load()
        refused = record.refused  # it may be why we are here
        record = replace(record.without(release.root_hash), pending=None, installing=None, refused=refused)
        machine.store.save(machine.transition(record, target, release.version, "", State.EMPTY, reason))
