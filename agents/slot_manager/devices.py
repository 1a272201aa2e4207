# SPDX-License-Identifier: Apache-2.0
"""The two partitions that an install writes: known to be the right ones, free, and ours until it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from agents.slot_manager.errors import NoSpace, SlotBooted, TopologyError
from agents.slot_manager.topology import SlotDevices, Topology
from common import files, gpt
from common.errors import AgentError, Busy

SYSFS = Path("/sys")
_SECTOR_BYTES = 512  # in sysfs, whatever the sectors of the disk are
_MAX_NUMBER_BYTES = 32


class Device:
    """A device that is claimed: nobody can mount or map it, and no second install can take it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._locked = _open(path, os.O_RDONLY)
        self._claimed = -1
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._claim()
        except BlockingIOError as error:
            self.close()
            raise Busy(f"Another program has locked {path}; wait for its end.") from error
        except AgentError:
            self.close()
            raise

    @property
    def size_bytes(self) -> int:
        return os.lseek(self._claimed, 0, os.SEEK_END)

    @contextmanager
    def lent(self) -> Iterator[Path]:
        """The way to the device for code that claims it itself; the lock stays ours meanwhile."""
        os.close(self._claimed)
        self._claimed = -1
        yield self.path
        self._claim()

    def close(self) -> None:
        for fd in (self._claimed, self._locked):
            with suppress(OSError):
                os.close(fd)
        self._claimed = self._locked = -1

    def _claim(self) -> None:
        self._claimed = _open(self.path, os.O_WRONLY | os.O_EXCL)


def claim(
    topology: Topology, needs: tuple[int, int], stack: ExitStack, *, sysfs: Path = SYSFS
) -> tuple[Device, Device]:
    """The target's devices for system and hash tree, claimed until `stack` closes.

    needs: bytes for each. Raises SlotBooted for a device that is in use or belongs to the running system,
    TopologyError for one that is not the partition that it should be, NoSpace, Busy, AgentError.
    """
    running, target = topology.slots[topology.booted], topology.slots[topology.other]
    used = {_identity(running.data), _identity(running.tree), _identity(topology.disk)}
    partitions = topology.partitions()[target.name]
    found = []
    for path, partition, need in zip(_paths(target), (partitions.data, partitions.tree), needs, strict=True):
        identity = _identity(path)
        if identity in used:
            raise SlotBooted(f"{path} belongs to the running slot {running.name}, so it is not written.")
        used.add(identity)
        node = _node(path, sysfs)
        if node is not None:
            _require_free(path, node)
            _require_partition(path, partition, node)
        device = Device(path)
        stack.callback(device.close)
        if device.size_bytes < need:
            raise NoSpace(
                f"{path} is smaller than the {need} bytes to be written; check the partition table."
            )
        found.append(device)
    return found[0], found[1]


def _paths(devices: SlotDevices) -> tuple[Path, Path]:
    return devices.data, devices.tree


def _require_free(path: Path, node: Path) -> None:
    """Whether nothing is mapped onto the device."""
    holders = node / "holders"
    names = sorted(os.listdir(holders)) if holders.is_dir() else []
    if names:
        raise SlotBooted(
            f"{path} is in use by {', '.join(names)} (see 'lsblk'), so it is not written; release it first."
        )


def _require_partition(path: Path, partition: gpt.Partition, node: Path) -> None:
    """Whether the kernel means the same bytes by this device as the partition table does."""
    if not (node / "partition").exists():
        return  # no partition of a disk that the kernel has split, such as a loop device
    told = [
        int(files.read_bounded(node / name, _MAX_NUMBER_BYTES)) for name in ("partition", "start", "size")
    ]
    start, size = partition.offset_bytes // _SECTOR_BYTES, partition.size_bytes // _SECTOR_BYTES
    if told != [partition.number, start, size]:
        raise TopologyError(
            f"{path} is not the partition {partition.number} that the partition table has on the disk now; "
            "reboot once, so that the kernel reads it again."
        )


def _node(path: Path, sysfs: Path) -> Path | None:
    """The folder of a block device in sysfs; None for a file."""
    status = os.stat(path)
    if not stat.S_ISBLK(status.st_mode):
        return None
    return sysfs / "dev" / "block" / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _identity(path: Path) -> tuple[int, int]:
    """The same for all names of a device, (0, device number), or of a file."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise AgentError(f"{path} cannot be examined: {error.strerror}.") from error
    is_device = stat.S_ISBLK(status.st_mode)
    return (0, status.st_rdev) if is_device else (status.st_ino, status.st_dev)


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise SlotBooted(
                f"{path} is in use (mounted or mapped), so it is not written; release it first."
            ) from error
        raise AgentError(f"{path} cannot be opened for writing: {error.strerror}.") from error
