# SPDX-License-Identifier: Apache-2.0
"""Identity of a slot: sfdisk sets the UUIDs of its two partitions, our own reader checks them afterwards."""

from __future__ import annotations

import uuid
from pathlib import Path

from agents.slot_manager.errors import ReadBackMismatch, SlotBooted
from agents.slot_manager.topology import SlotPartitions, Topology
from common import process

_TIMEOUT_SEC = 60.0


def set_root_hash(topology: Topology, slot: str, root_hash: str) -> None:
    """Give a slot the identity by which `root_hash` (64 hex digits) is booted. Raises as `set_uuids`."""
    set_uuids(topology, slot, uuid.UUID(root_hash[:32]), uuid.UUID(root_hash[32:]))


def set_random(topology: Topology, slot: str) -> None:
    """Take a slot's identity away: nothing can boot from it. Raises as `set_uuids`."""
    set_uuids(topology, slot, uuid.uuid4(), uuid.uuid4())


def set_uuids(topology: Topology, slot: str, data: uuid.UUID, tree: uuid.UUID) -> None:
    """Set both UUIDs and read them back.

    Raises SlotBooted for the running slot, ProcessError, ReadBackMismatch.
    """
    if slot == topology.booted:
        raise SlotBooted(f"Slot {slot} is running, so its partitions are not changed.")
    parts = topology.partitions()[slot]
    if topology.table().from_backup:
        # A power cut has torn the table at the start of the disk, and sfdisk begins with the one at the end:
        # the same bytes once more, lest another power cut takes that too.
        _write(topology.disk, parts.data.number, parts.data.unique_uuid)
    _write(topology.disk, parts.data.number, data)
    _write(topology.disk, parts.tree.number, tree)
    after: SlotPartitions = topology.partitions()[slot]
    if (after.data.unique_uuid, after.tree.unique_uuid) != (data, tree):
        raise ReadBackMismatch(
            f"The partition UUIDs of slot {slot} on {topology.disk} do not read back as written."
        )


def _write(disk: Path, number: int, value: uuid.UUID) -> None:
    """sfdisk flushes the disk after the table at its end, and again after the one at its start."""
    argv = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--part-uuid"]
    process.run([*argv, str(disk), str(number), str(value)], timeout_sec=_TIMEOUT_SEC)
