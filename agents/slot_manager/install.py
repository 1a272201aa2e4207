# SPDX-License-Identifier: Apache-2.0
"""The install engine: from an image file to an armed slot, in the only order that a power cut cannot hurt.

Everything that can be checked is checked first; a refused image leaves disk, ESP and record as they were.
Then: take the counter off the running slot, record the intent, remove the target's boot entries, take its
partition UUIDs away, write, flush, read back, stage the UKI, set the UUIDs, record the trial, arm the entry.
Whatever goes wrong after the first of these steps leaves the target empty and the running slot bootable.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from agents.slot_manager import blockio, messages, partuuid, preflight, source, verify
from agents.slot_manager.errors import (
    ChecksumMismatch,
    LoaderError,
    NoSpace,
    ReadBackMismatch,
)
from agents.slot_manager.loader import TRIAL_TRIES
from agents.slot_manager.machine import Machine, View
from agents.slot_manager.record import Installing, Pending
from agents.slot_manager.state import State
from common import journal, trust
from common.errors import AgentError


class Stage(StrEnum):
    """Stages of an install, as on the bus."""

    CHECK = "check"
    VERIFY = "verify"
    WRITE = "write"
    READBACK = "readback"
    ENTRY = "entry"
    DONE = "done"


Progress = Callable[[Stage, int, int], None]
"""Called with the stage, the bytes done and the bytes to do in all."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A finished install."""

    slot: str
    version: str


class _Meter:
    """Counts bytes over all stages."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._done = 0
        self._total = total
        self._progress = progress
        self._stage = Stage.CHECK

    def enter(self, stage: Stage) -> None:
        self._stage = stage
        self._progress(stage, self._done, self._total)

    def advance(self, count: int) -> None:
        self._done += count
        self._progress(self._stage, self._done, self._total)


def install(
    machine: Machine,
    path: str,
    *,
    arm: bool = True,
    cancel: threading.Event | None = None,
    progress: Progress = lambda stage, done, total: None,
    found: Callable[[str], None] = lambda version: None,
) -> Installed:
    """Install the image at `path` into the slot that is not running.

    `found` is called with the version once the image is verified. Raises Busy, Cancelled, the errors of
    agents.slot_manager.errors and common.trust; each is one sentence for the user.
    """
    cancel = cancel or threading.Event()
    with machine.lock(), source.opened(path) as image:
        progress(Stage.CHECK, 0, image.size_bytes)
        layout = source.layout(image)
        view = machine.view()
        preflight.require_safe(view)
        preflight.require_room(view, layout, image.path.name)
        store = trust.load(machine.trusted_keys)
        written = layout.root.size_bytes + layout.tree.size_bytes
        meter = _Meter(image.size_bytes + 2 * written, progress)
        with ExitStack() as stack:
            work = Path(stack.enter_context(preflight.work_folder(machine.cache, layout.esp.size_bytes)))
            meter.enter(Stage.VERIFY)
            verified = verify.verify(image, layout, store, work, cancel=cancel, advance=meter.advance)
            found(verified.version)
            preflight.require_new(view, verified)
            keep = {view.booted.root_hash}
            if machine.loader.room_bytes(keep) < verified.uki_bytes:
                raise NoSpace(
                    f"The ESP has no room for a kernel image of {verified.uki_bytes} bytes; remove old "
                    "files."
                )
            devices = preflight.open_devices(machine, layout, stack)
            blockio.check(cancel)
            machine.keep_running_slot(view)
            _begin(machine, view, verified)
            try:
                machine.loader.clear(keep)
                partuuid.set_random(machine.topology, view.other.name)
                _write(machine, image, layout, verified, devices, cancel, meter)
                _finish(machine, view, verified, arm=arm, meter=meter)
            except BaseException as error:
                _abandon(machine, view, verified, error)
                raise
        meter.enter(Stage.DONE)
        return Installed(view.other.name, verified.version)


def _begin(machine: Machine, view: View, verified: verify.Verified) -> None:
    """Record the intent; the next step is the first that cannot be taken back."""
    target = view.other.name
    old_hash = view.partitions[target].root_hash
    record = view.record.without(old_hash).without(verified.root_hash)
    record = replace(
        record, pending=None, installing=Installing(target, verified.version, machine.store.clock())
    )
    machine.store.save(
        machine.transition(record, target, verified.version, verified.root_hash, State.INSTALLING, "")
    )
    journal.send(
        f"Installing {verified.version} into slot {target}.",
        priority=journal.NOTICE,
        message_id=messages.INSTALL_STARTED,
        slot=target,
        version=verified.version,
    )


def _write(
    machine: Machine,
    image: source.Image,
    layout: source.Layout,
    verified: verify.Verified,
    devices: tuple[preflight.Device, preflight.Device],
    cancel: threading.Event,
    meter: _Meter,
) -> None:
    jobs = (
        (devices[0], layout.root, verified.root_sha256),
        (devices[1], layout.tree, verified.tree_sha256),
    )
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
            _explain_mismatch(
                image, partition.offset_bytes, partition.size_bytes, sha256, device.path, cancel
            )


def _explain_mismatch(
    image: source.Image, offset: int, size: int, sha256: str, device: Path, cancel: threading.Event
) -> None:
    """Tell a failing disk from an image that was changed after it had been verified. Always raises."""
    digest = hashlib.sha256()
    for chunk in blockio.chunks(image.fd, offset, size, name=image.path.name, cancel=cancel):
        digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise ChecksumMismatch(
            f"{image.path} was changed while it was being installed; do not touch it and try again."
        )
    raise ReadBackMismatch(
        f"{device} does not read back as written; the disk may be failing, check it with smartctl."
    )


def _finish(machine: Machine, view: View, verified: verify.Verified, *, arm: bool, meter: _Meter) -> None:
    target = view.other.name
    meter.enter(Stage.ENTRY)
    machine.loader.stage(verified.uki, verified.version)
    partuuid.set_root_hash(machine.topology, target, verified.root_hash)
    tries = TRIAL_TRIES if arm else 0
    pending = Pending(target, verified.version, verified.root_hash, machine.store.clock(), tries)
    record = replace(machine.store.load(), pending=pending, installing=None)
    new = State.ARMED if arm else State.STAGED
    machine.store.save(machine.transition(record, target, verified.version, verified.root_hash, new, ""))
    if arm:
        machine.loader.arm(verified.version, TRIAL_TRIES)
        machine.loader.clear_overrides()
    after = machine.view().other
    if after.state is not new or after.version != verified.version or (arm and not after.default):
        raise LoaderError(
            f"Slot {target} reads back as '{after.state}' after the installation, not as '{new}'."
        )
    journal.send(
        f"Installed {verified.version} into slot {target}; it is {new}.",
        priority=journal.NOTICE,
        message_id=messages.UPDATE_INSTALLED,
        slot=target,
        version=verified.version,
    )


def _abandon(machine: Machine, view: View, verified: verify.Verified, error: BaseException) -> None:
    """Leave the target empty: no entry, no identity.

    What fails here is logged; the first error is the one told.
    """
    target = view.other.name
    reason = str(error) if isinstance(error, AgentError) else "the installation was broken off"
    steps: tuple[Callable[[], None], ...] = (
        lambda: machine.loader.clear({view.booted.root_hash}),
        lambda: partuuid.set_random(machine.topology, target),
    )
    for step in steps:
        try:
            step()
        except AgentError as second:
            journal.send(f"Cleaning up slot {target} failed: {second}", priority=journal.ERR, slot=target)
    with suppress(AgentError):
        record = replace(machine.store.load().without(verified.root_hash), pending=None, installing=None)
        machine.store.save(machine.transition(record, target, verified.version, "", State.EMPTY, reason))
