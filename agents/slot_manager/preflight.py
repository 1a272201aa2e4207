# SPDX-License-Identifier: Apache-2.0
"""What has to hold before an install may destroy the content of a slot. Nothing is changed here."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from agents.slot_manager import lifecycle, policy
from agents.slot_manager.errors import (
    LoaderError,
    NoManifest,
    NoSpace,
    OtherSlotNotGood,
    SameVersion,
    WrongState,
)
from agents.slot_manager.machine import Machine, View
from agents.slot_manager.state import State
from common import paths
from common.errors import AgentError

RECORD_ROOM_BYTES = 1 << 20
"""Free bytes that the record's file system needs: more than a few copies of a full record."""

_WORK_PREFIX = "install-"


def require_safe(view: View) -> None:
    """Whether the slot that is not running may be lost.

    Raises OtherSlotNotGood, WrongState during a trial, LoaderError.
    """
    booted, target = view.booted, view.other
    if booted.entry is None:
        raise LoaderError(
            f"Slot {booted.name}: {booted.reason}; repair the ESP before you install an update."
        )
    if booted.state is State.TRYING and target.state is State.GOOD:
        raise OtherSlotNotGood(
            f"Slot {booted.name} is still on trial and slot {target.name} is its way back; wait for the "
            "verdict."
        )
    if booted.state is State.TRYING:
        raise WrongState(f"Slot {booted.name} is still on trial; wait for the verdict.")
    if booted.state is not State.GOOD and target.state is State.GOOD:
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


def require(
    machine: Machine, release: policy.Release, decision: policy.Decision | None, *, dry_run: bool
) -> None:
    """Raise the error of a refusal, if there is one, after it was put into the record for status to tell."""
    if decision is None or decision.error is None:
        return
    if not dry_run and decision.error is not SameVersion:  # what runs already is not a refused release
        lifecycle.refuse(machine, release, decision)
    raise decision.error(decision.reason)


def require_room(view: View, sizes: Mapping[str, int], name: str) -> None:
    """Whether the partitions of the target are large enough for those of the image, bytes by role.

    Raises NoSpace.
    """
    target = view.partitions[view.other.name]
    for what, have, need in (
        ("system", target.data.size_bytes, sizes["root"]),
        ("hash tree", target.tree.size_bytes, sizes.get("root-verity", 0)),
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


def work_folder(cache: Path) -> tempfile.TemporaryDirectory[str]:
    """A new folder for unpacking; what a power cut left of earlier ones goes. Raises AgentError."""
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in cache.glob(_WORK_PREFIX + "*"):
            shutil.rmtree(stale)
        # What cannot be removed at the end is no reason to call a finished install a failure.
        return tempfile.TemporaryDirectory(dir=cache, prefix=_WORK_PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        raise AgentError(f"{cache} cannot be used for unpacking: {error.strerror}.") from error


def require_work_room(work: Path, need: int) -> None:
    """Whether the work folder takes so many bytes. Raises NoSpace, AgentError."""
    try:
        free = os.statvfs(work)
    except OSError as error:
        raise AgentError(f"{work} cannot be examined: {error.strerror}.") from error
    if free.f_bavail * free.f_frsize < need:
        raise NoSpace(
            f"{work.parent} (partition cache) needs {need} free bytes for the install; make room there."
        )
