# SPDX-License-Identifier: Apache-2.0
"""What has to hold before an install may destroy the content of a slot. Nothing is changed here."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agents.slot_manager import blockio, lifecycle, policy
from agents.slot_manager.errors import (
    ImageUnfit,
    LoaderError,
    NoManifest,
    NoSpace,
    OtherSlotNotGood,
    SameVersion,
    SlotBooted,
)
from agents.slot_manager.machine import Machine, View
from agents.slot_manager.state import State
from common import image as images
from common import lint, paths
from common.errors import AgentError
from common.image import source
from common.image.verify import Verified
from common.manifest import Manifest

RECORD_ROOM_BYTES = 1 << 20
"""Free bytes that the record's file system needs: more than a few copies of a full record."""

_WORK_PREFIX = "install-"


def require_safe(view: View) -> None:
    """Whether the slot that is not running may be lost. Raises OtherSlotNotGood, LoaderError."""
    booted, target = view.booted, view.other
    if booted.entry is None:
        raise LoaderError(
            f"Slot {booted.name}: {booted.reason}; repair the ESP before you install an update."
        )
    if target.state is not State.GOOD:
        return
    if booted.state is State.TRYING:
        raise OtherSlotNotGood(
            f"Slot {booted.name} is still on trial and slot {target.name} is its way back; wait for the "
            "verdict."
        )
    if booted.state is not State.GOOD:
        raise OtherSlotNotGood(
            f"Slot {booted.name} is bad and slot {target.name} is the only good one; reboot into slot "
            f"{target.name} first."
        )


def require_statement(machine: Machine, name: str, *, stated: bool) -> None:
    """Whether the image `name` may come without a manifest, if it does (not `stated`). Raises NoManifest."""
    if machine.settings.require_manifest and not stated:
        raise NoManifest(
            f"{name} comes without a manifest, which updates.yaml demands; copy its .manifest.json and "
            ".manifest.json.asc beside it."
        )


def release_of(verified: Verified) -> policy.Release:
    """What the rules have to know about an image; without a manifest that is little."""
    content, manifest = verified.content, verified.manifest
    if manifest is None:
        return policy.Release(
            content.product,
            images.ARCHITECTURE,
            content.version,
            content.root_hash,
            digest=verified.sha256,
            legacy=True,
        )
    return stated_release(manifest)


def stated_release(manifest: Manifest) -> policy.Release:
    """What a genuine manifest says of its image."""
    return policy.Release(
        manifest.product,
        manifest.arch,
        manifest.version,
        manifest.root_hash,
        channel=manifest.channel,
        serial=manifest.serial,
        issued_sec=manifest.issued_sec,
        expires_sec=manifest.expires_sec,
        min_version=manifest.min_version,
        min_from_version=manifest.min_from_version,
        key_epoch=manifest.key_epoch,
        config_schema=manifest.config_schema,
        digest=manifest.digest,
    )


def refusal(
    machine: Machine, view: View, release: policy.Release, *, allow_downgrade: bool
) -> policy.Decision | None:
    """The first rule that refuses the release on this machine."""
    return policy.refusal(
        policy.judge(
            release,
            machine.local(view),
            view.record,
            now_sec=machine.now_sec(view.record),
            allow_downgrade=allow_downgrade,
        )
    )


def unfitness(
    machine: Machine,
    view: View,
    image: source.Image,
    layout: source.Layout,
    verified: Verified,
    *,
    key_epoch_here: int,
) -> policy.Decision | None:
    """The refusal of an image after which this machine could not update or save itself again.

    key_epoch_here: of the keys that this machine relies on and keeps. Raises FileUnwritable.
    """
    local = machine.local(view)
    key_epoch = verified.manifest.key_epoch if verified.manifest else 0
    root = lint.open_root(image.fd, layout.root.offset_bytes, layout.root.size_bytes, image.path.name)
    findings = lint.check(
        root,
        cmdline=verified.content.cmdline,
        root_hash=verified.content.root_hash,
        channel=local.channel,
        signers=verified.signers,
        config_schema_here=local.config_schema,
        now_sec=machine.now_sec(view.record),
        key_epoch=key_epoch if key_epoch > key_epoch_here else 0,
    )
    if not findings:
        return None
    first, more = findings[0].message.rstrip("."), len(findings) - 1
    also = f" ('hypernet-image lint' lists {more} more)" if more else ""
    reason = f"{image.path.name} is unfit for this machine: {first[0].lower()}{first[1:]}{also}."
    return policy.Decision(f"lint-{findings[0].rule}", ok=False, reason=reason, error=ImageUnfit)


def require(
    machine: Machine, release: policy.Release, decision: policy.Decision | None, *, dry_run: bool
) -> None:
    """Raise the error of a refusal, if there is one, after it was put into the record for status to tell."""
    if decision is None or decision.error is None:
        return
    if not dry_run and decision.error is not SameVersion:  # what runs already is not a refused release
        lifecycle.refuse(machine, release, decision)
    raise decision.error(decision.reason)


def require_room(view: View, layout: source.Layout, name: str) -> None:
    """Whether the partitions of the target are large enough. Raises NoSpace."""
    target = view.partitions[view.other.name]
    for what, have, need in (
        ("system", target.data.size_bytes, layout.root.size_bytes),
        ("hash tree", target.tree.size_bytes, layout.tree.size_bytes),
    ):
        if need > have:
            raise NoSpace(
                f"{name} does not fit: its {what} has {need} bytes, the partition of slot {view.other.name} "
                f"only {have}."
            )


def require_boot_room(machine: Machine, view: View, uki_bytes: int) -> None:
    """Whether the ESP takes another kernel image. Raises NoSpace."""
    if machine.loader.room_bytes({view.booted.root_hash}) < uki_bytes:
        raise NoSpace(
            f"The ESP has no room for a kernel image of {uki_bytes} bytes; remove old files from "
            f"{paths.ESP}."
        )


def require_record_room(machine: Machine) -> None:
    """Whether the record can be kept during the install. Raises NoSpace, AgentError."""
    folder = machine.store.folder
    try:
        free = os.statvfs(folder)
    except OSError as error:
        raise AgentError(f"{folder} cannot be examined: {error.strerror}.") from error
    if free.f_bavail * free.f_frsize < RECORD_ROOM_BYTES:
        raise NoSpace(f"{folder} (partition config) needs {RECORD_ROOM_BYTES} free bytes; make room there.")


def work_folder(cache: Path, esp_bytes: int) -> tempfile.TemporaryDirectory[str]:
    """A new folder for unpacking; what a power cut left of earlier ones goes. Raises NoSpace, AgentError."""
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in cache.glob(_WORK_PREFIX + "*"):
            shutil.rmtree(stale)
        free = os.statvfs(cache)
        if free.f_bavail * free.f_frsize < 2 * esp_bytes:
            raise NoSpace(
                f"{cache} needs {2 * esp_bytes} free bytes to unpack the image's ESP; make room there."
            )
        # What cannot be removed at the end is no reason to call a finished install a failure.
        return tempfile.TemporaryDirectory(dir=cache, prefix=_WORK_PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        raise AgentError(f"{cache} cannot be used for unpacking: {error.strerror}.") from error


@dataclass(frozen=True, slots=True)
class Device:
    path: Path
    fd: int


def open_devices(machine: Machine, layout: source.Layout, stack: ExitStack) -> tuple[Device, Device]:
    """Both partitions of the target, held exclusively until the install ends. Raises SlotBooted, NoSpace."""
    topology = machine.topology
    running, target = topology.slots[topology.booted], topology.slots[topology.other]
    used = {_identity(running.data), _identity(running.tree)}
    opened = []
    for path, need in ((target.data, layout.root.size_bytes), (target.tree, layout.tree.size_bytes)):
        if _identity(path) in used:
            raise SlotBooted(f"{path} belongs to the running slot {running.name}, so it is not written.")
        used.add(_identity(path))
        fd = blockio.open_exclusively(path)
        stack.callback(os.close, fd)
        if os.lseek(fd, 0, os.SEEK_END) < need:
            raise NoSpace(
                f"{path} is smaller than the {need} bytes to be written; check the partition table."
            )
        opened.append(Device(path, fd))
    return opened[0], opened[1]


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise AgentError(f"{path} cannot be examined: {error.strerror}.") from error
    return (0, status.st_rdev) if status.st_rdev else (status.st_dev, status.st_ino)
