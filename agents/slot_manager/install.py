# SPDX-License-Identifier: Apache-2.0
"""The install engine: from an image file to an armed slot, in the only order that a power cut cannot hurt.

Everything that can be checked is checked first; a refused image leaves disk, ESP and record as they were,
but for the note about the refusal. Then: take the counter off the running slot, record the intent, remove
the target's boot entries, take its partition UUIDs away, write, flush, read back, stage the UKI, set the
UUIDs, record the trial, arm the entry. Whatever goes wrong after the first of these steps leaves the target
empty and the running slot bootable.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from agents.slot_manager import arming, blockio, partuuid, policy, preflight
from agents.slot_manager.errors import ChecksumMismatch, LoaderError, ReadBackMismatch
from agents.slot_manager.loader import TRIAL_TRIES
from agents.slot_manager.machine import Machine, View
from agents.slot_manager.progress import Meter, Progress, Stage, Story
from agents.slot_manager.record import Installing, Pending
from agents.slot_manager.state import State
from common import gpt, journal, trust
from common.errors import AgentError, InvalidArgument
from common.image import source
from common.image.verify import Verified, verify

__all__ = ["Installed", "Progress", "Stage", "install"]


@dataclass(frozen=True, slots=True)
class Installed:
    """A finished install: which version is in which slot (or would be, after a dry run), and the slot's
    state.
    """

    slot: str
    version: str
    state: State
    dry_run: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    """An image that passed all checks, and where it goes."""

    view: View
    image: source.Image
    layout: source.Layout
    verified: Verified
    release: policy.Release
    devices: tuple[preflight.Device, preflight.Device]

    @property
    def target(self) -> str:
        return self.view.other.name


def install(
    machine: Machine,
    path: str,
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
    """Install the image at `path` into the slot that is not running.

    allow_downgrade: accept an older version than the running one. dry_run: stop before the first change.
    slot: the target's name, if the caller wants to be sure of it. found: called with the version once the
    image is verified. before_write: called before the first change; what it raises ends the install. fields:
    more fields for the journal entries.

    Raises Busy, Cancelled, InvalidArgument, the errors of agents.slot_manager.errors, common.manifest and
    common.trust; each is one sentence for the user.
    """
    cancel = cancel or threading.Event()
    target = machine.topology.other
    story = Story(path, {**fields, "source": path, "slot": target}, silent=dry_run)
    try:
        with machine.lock(), source.opened(path) as image, ExitStack() as stack:
            if slot not in ("", target):
                raise InvalidArgument(
                    f"An update goes into slot {target} now, not into '{slot}'; leave the slot out."
                )
            progress(Stage.CHECK, 0, image.size_bytes)
            layout = source.layout(image)
            passes = 0 if dry_run else 2
            total = image.size_bytes + passes * (layout.root.size_bytes + layout.tree.size_bytes)
            meter = Meter(total, progress)
            plan = _prepare(
                machine, image, layout, story, stack, cancel, meter, found, allow_downgrade, dry_run
            )
            state = plan.view.other.state
            if not dry_run:
                before_write()
                blockio.check(cancel)
                state = State.ARMED if arm else State.STAGED
                _carry_out(machine, plan, state, story, cancel, meter)
            meter.enter(Stage.DONE)
            return Installed(target, plan.release.version, state, dry_run)
    except Exception as error:
        story.ended(error)
        raise


def _prepare(
    machine: Machine,
    image: source.Image,
    layout: source.Layout,
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
    name = image.path.name
    preflight.require_room(view, layout, name)
    preflight.require_safe(view)
    preflight.require_statement(machine, name, stated=source.statement(image) is not None)
    store = trust.load(
        machine.trusted_keys, vendor=machine.vendor_keys, min_epoch=view.record.floor.key_epoch
    )
    work = Path(stack.enter_context(preflight.work_folder(machine.cache, layout.esp.size_bytes)))

    def judge(release: policy.Release) -> None:
        story.learn(release)
        refusal = preflight.refusal(machine, view, release, allow_downgrade=allow_downgrade)
        preflight.require(machine, release, refusal, dry_run=dry_run)

    meter.enter(Stage.VERIFY)
    verified = verify(
        image,
        layout,
        store,
        work,
        channel=machine.settings.channel,
        now_sec=machine.now_sec(view.record),
        stated=lambda manifest: judge(preflight.stated_release(manifest)),
        cancel=cancel,
        advance=meter.advance,
    )
    # By what was verified: the file may have gone since, and then the image was judged by less.
    preflight.require_statement(machine, name, stated=verified.manifest is not None)
    release = preflight.release_of(verified)
    judge(release)
    found(release.version)
    arming.require_way_back(view, release.version)
    unfitness = preflight.unfitness(machine, view, image, layout, verified, key_epoch_here=store.epoch)
    preflight.require(machine, release, unfitness, dry_run=dry_run)
    preflight.require_boot_room(machine, view, verified.content.uki_bytes)
    preflight.require_record_room(machine)
    devices = preflight.open_devices(machine, layout, stack)
    blockio.check(cancel)
    return _Plan(view, image, layout, verified, release, devices)


def _carry_out(
    machine: Machine, plan: _Plan, state: State, story: Story, cancel: threading.Event, meter: Meter
) -> None:
    """The steps that change the machine; `state` is the one that the target gets at the end."""
    machine.keep_running_slot(machine.view())  # systemd-bless-boot may have renamed its entry since
    _begin(machine, plan)
    story.started()
    try:
        machine.loader.clear({plan.view.booted.root_hash})
        partuuid.set_random(machine.topology, plan.target)
        _write(plan, cancel, meter)
        meter.enter(Stage.ENTRY)
        _finish(machine, plan, state)
    except BaseException as error:
        _abandon(machine, plan.view, plan.release, error)
        raise
    story.succeeded(state)


def _begin(machine: Machine, plan: _Plan) -> None:
    """Record the intent; the next step is the first that cannot be taken back."""
    release, record = plan.release, machine.store.load()
    old_hash = plan.view.partitions[plan.target].root_hash
    record = record.without(old_hash).without(release.root_hash)
    record = replace(
        record, pending=None, installing=Installing(plan.target, release.version, machine.store.clock())
    )
    machine.store.save(
        machine.transition(record, plan.target, release.version, release.root_hash, State.INSTALLING, "")
    )


def _write(plan: _Plan, cancel: threading.Event, meter: Meter) -> None:
    jobs = (
        (plan.devices[0], plan.layout.root, plan.verified.root_sha256),
        (plan.devices[1], plan.layout.tree, plan.verified.tree_sha256),
    )
    image = plan.image
    meter.enter(Stage.WRITE)
    for device, partition, _ in jobs:
        os.lseek(device.fd, 0, os.SEEK_SET)
        place = (image.fd, partition.offset_bytes, partition.size_bytes)
        for chunk in blockio.chunks(*place, name=image.path.name, cancel=cancel):
            blockio.write_all(device.fd, chunk, name=str(device.path))
            meter.advance(len(chunk))
        blockio.flush(device.fd, name=str(device.path))
    meter.enter(Stage.READBACK)
    for device, partition, sha256 in jobs:
        found = blockio.digest_from_medium(
            device.path, partition.size_bytes, cancel=cancel, advance=meter.advance
        )
        if found != sha256:
            _explain_mismatch(image, partition, sha256, device.path, cancel)


def _explain_mismatch(
    image: source.Image, partition: gpt.Partition, sha256: str, device: Path, cancel: threading.Event
) -> None:
    """Tell a failing disk from an image that was changed after it had been verified. Always raises."""
    digest = hashlib.sha256()
    place = (image.fd, partition.offset_bytes, partition.size_bytes)
    for chunk in blockio.chunks(*place, name=image.path.name, cancel=cancel):
        digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise ChecksumMismatch(
            f"{image.path} was changed while it was being installed; do not touch it and try again."
        )
    raise ReadBackMismatch(
        f"{device} does not read back as written; the disk may be failing, check it with smartctl."
    )


def _finish(machine: Machine, plan: _Plan, state: State) -> None:
    """Make what was written bootable, and armed if that is to be its state."""
    target, release = plan.target, plan.release
    arm = state is State.ARMED
    machine.loader.stage(plan.verified.content.uki, release.version)
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
        signed_usec=plan.verified.signed_sec * 1_000_000,
        key_epoch=release.key_epoch,
        digest=release.digest,
    )
    record = replace(machine.store.load(), pending=pending, installing=None)
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
        record = replace(machine.store.load().without(release.root_hash), pending=None, installing=None)
        machine.store.save(machine.transition(record, target, release.version, "", State.EMPTY, reason))
