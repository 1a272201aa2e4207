# SPDX-License-Identifier: Apache-2.0
"""What has to hold before an install may destroy the content of a slot. Nothing is changed here."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agents.slot_manager import blockio, source, verify, version
from agents.slot_manager.errors import (
    Downgrade,
    LoaderError,
    NoSpace,
    OtherSlotNotGood,
    SameVersion,
    SlotBooted,
)
from agents.slot_manager.machine import Machine, View
from agents.slot_manager.state import State
from common.errors import AgentError

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


def require_new(view: View, verified: verify.Verified) -> None:
    """Whether the image is newer than the running system. Raises SameVersion, Downgrade."""
    running = view.booted.version
    # The file system of the ESP does not tell upper from lower case.
    if verified.root_hash == view.booted.root_hash or verified.version.lower() == running.lower():
        raise SameVersion(f"Version {verified.version} is running already in slot {view.booted.name}.")
    if version.compare(verified.version, running) <= 0:
        raise Downgrade(
            f"Version {verified.version} is older than the running {running}; to go back, use "
            "'hypernet-admin rollback'."
        )


def require_room(view: View, layout: source.Layout, name: str) -> None:
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
        return tempfile.TemporaryDirectory(dir=cache, prefix=_WORK_PREFIX)
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
