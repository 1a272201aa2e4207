# SPDX-License-Identifier: Apache-2.0
"""A machine whose disk writes down what is done to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from agents.slot_manager.machine import Machine
from agents.slot_manager.record import Store
from agents.slot_manager.systemd_boot import SystemdBoot
from agents.slot_manager.topology import SLOTS, SlotDevices, Topology
from common import gpt
from tests.fakes.cuts import DISK, ESP, Range, Recording
from tests.fakes.faulty_disk import FaultyDisk
from tests.fakes.slot_images import MIB, run
from tests.fakes.slot_lab import SLOT_MIB, SLOT_TREE_MIB

CONFIG_MIB = 6


def record(
    machine: Machine, folder: Path, work: Callable[[Machine], object], *, table: Sequence[bytes] = ()
) -> Recording:
    """Do `work` on a copy of a machine that lies on plain files: the copy has one disk with partition table,
    slots and record (ext4), and its ESP is a folder of the same server. table: the region of this name that
    an earlier recording left.
    """
    folder.mkdir()
    image = folder / DISK
    regions = _make_disk(machine, image, folder)
    with open(image, "r+b") as file:
        for (start, _), data in zip(regions["table"], table, strict=False):
            file.seek(start)
            file.write(data)
    before = {DISK: image.read_bytes()}
    image.unlink()
    top = machine.topology
    for path in (path for path in top.esp.rglob("*") if path.is_file()):
        before[f"{ESP}/{path.relative_to(top.esp)}"] = path.read_bytes()
    with ExitStack() as stack:
        disk = stack.enter_context(FaultyDisk(folder / "mounted", before))

        def attach(start: int, end: int) -> Path:
            place = ("--offset", str(start), "--sizelimit", str(end - start))
            name = run("losetup", "--find", "--show", *place, str(disk.folder / DISK)).decode().strip()
            stack.callback(run, "losetup", "--detach", name)
            return Path(name)

        whole = attach(0, len(before[DISK]))
        slots = {slot: SlotDevices(slot, *(attach(*place) for place in regions[slot])) for slot in SLOTS}
        config = folder / "config"
        config.mkdir()
        run("mount", "-t", "ext4", str(attach(*regions["config"][0])), str(config))
        stack.callback(run, "umount", str(config))
        topology = Topology(whole, slots, top.booted, disk.folder / ESP, top.efivars)
        loader = SystemdBoot(topology.esp, topology.efivars)
        copy = replace(machine, topology=topology, loader=loader, store=Store(config / "state"))
        view, mounting = copy.view(), len(disk.events())
        work(copy)
        events = disk.events()
    return Recording(events[mounting:], events[:mounting], before, view, regions, machine)


def _make_disk(machine: Machine, image: Path, folder: Path) -> dict[str, tuple[Range, ...]]:
    script = "label: gpt\nfirst-lba: 2048\nsize=1MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp\n"
    for slot, parts in machine.topology.partitions().items():
        script += f"size={SLOT_MIB}MiB, type={gpt.ROOT_X86_64}, name=system_{slot}, "
        script += f"uuid={parts.data.unique_uuid}\n"
        script += f"size={SLOT_TREE_MIB}MiB, type={gpt.ROOT_X86_64_VERITY}, name=system_{slot}_verity, "
        script += f"uuid={parts.tree.unique_uuid}\n"
    script += f"size={CONFIG_MIB}MiB, name=config\n"
    size = (3 + 2 * (SLOT_MIB + SLOT_TREE_MIB) + CONFIG_MIB) * MIB
    with open(image, "wb") as file:
        file.truncate(size)
    run("sfdisk", "--quiet", str(image), stdin=script.encode())
    config, content = folder / "config.img", folder / "content"
    shutil.copytree(machine.store.folder, content / "state")
    with open(config, "wb") as file:
        file.truncate(CONFIG_MIB * MIB)
    run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0", "-d", str(content), str(config))
    content_of = {"config": config}
    for slot, devices in machine.topology.slots.items():
        content_of |= {f"system_{slot}": devices.data, f"system_{slot}_verity": devices.tree}
    with open(image, "r+b") as file:
        table = gpt.read(file.fileno(), name=str(image)).partitions
        places = {part.label: (part.offset_bytes, part.end_bytes) for part in table}
        for label, path in content_of.items():
            file.seek(places[label][0])
            file.write(path.read_bytes())
    slots = {slot: (places[f"system_{slot}"], places[f"system_{slot}_verity"]) for slot in SLOTS}
    tables = ((0, places["esp"][0]), (places["config"][1], size))
    return {**slots, "config": (places["config"],), "table": tables}
