# SPDX-License-Identifier: Apache-2.0
"""A large system image with signed manifest, and a machine whose other slot are loop devices."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agents.slot_manager.machine import Machine
from agents.slot_manager.record import Store
from agents.slot_manager.systemd_boot import SystemdBoot
from agents.slot_manager.topology import SlotDevices, Topology
from common import gpt
from hypernet_release import disk, statement
from hypernet_release.config import Statement
from hypernet_release.signing import Signer
from tests.bench.write_path import FOLDERS, MIB, loop_device, make_payload
from tests.fakes import root_images, slot_images

VERSION = "2.0.0"
RUNNING_ROOT_HASH = "0123456789abcdef" * 4
_ESP_MIB, _TREE_MIB = 16, 16
_VARIABLE = "-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


@dataclass(frozen=True)
class Release:
    """image: with manifest and signature beside it. root: the bytes of its root partition. gnupg: home of
    the key that signed it; trusted: the folder with its public key.
    """

    image: Path
    root: Path
    root_hash: str
    gnupg: Path
    trusted: Path

    @property
    def root_bytes(self) -> int:
        return self.root.stat().st_size


def make_release(folder: Path, root_mib: int) -> Release:
    """An image whose root partition has `root_mib` MiB, a multiple of 32: a fit system, the rest payload."""
    key = slot_images.make_key(folder / "gnupg", "vendor")
    slot_images.trust(folder / "trusted", key)
    tree, root, hashes = folder / "root-tree", folder / "root", folder / "root-verity"
    tree.mkdir()
    system = b"ID=debian\nIMAGE_ID=hypernet\nIMAGE_VERSION=" + VERSION.encode() + b"\n"
    root_images.fill(tree, trusted=folder / "trusted", extra={"usr/lib/os-release": system})
    make_payload(tree / "usr/share/payload", root_mib * MIB)
    with (tree / "usr/share/payload").open("rb+") as file:
        file.truncate((root_mib - 1) * MIB)  # room for the rest of the file system
    disk.make_root(tree, root, root_images.EPOCH)
    with root.open("rb+") as file:
        file.truncate(root_mib * MIB)
    (tree / "usr/share/payload").unlink()
    root_hash = disk.make_hash_tree(root, hashes)
    uki = slot_images.make_uki(folder / "uki.efi", version=VERSION, root_hash=root_hash)
    esp = slot_images.make_esp(folder / "esp", uki, (f"hypernet_{VERSION}.efi",))
    ids = disk.part_uuids(root_hash)
    parts = [
        disk.Part("esp", gpt.ESP, uuid.uuid4(), esp),
        disk.Part("root", gpt.ROOT_X86_64, ids[0], root),
        disk.Part("root-verity", gpt.ROOT_X86_64_VERITY, ids[1], hashes),
    ]
    image = folder / f"hypernet-{VERSION}.img"
    disk.assemble(parts, image, "bench")
    stated = statement.write_manifest(image, Statement(), issued_sec=int(time.time()) - 60)
    Signer(key.home, "").sign(stated)
    return Release(image, root, root_hash, key.home, folder / "trusted")


@dataclass(frozen=True)
class Place:
    """Where a machine keeps everything: a folder, and the devices of its slot b."""

    folder: Path
    data: str
    tree: str

    def machine(self) -> Machine:
        """The machine as it was made or left."""
        esp, variables = self.folder / "efi", self.folder / "efivars"
        running = SlotDevices("a", self.folder / "slot-a", self.folder / "slot-a-tree")
        other = SlotDevices("b", Path(self.data), Path(self.tree))
        return Machine(
            Topology(self.folder / "disk.img", {"a": running, "b": other}, "a", esp, variables),
            SystemdBoot(esp, variables),
            Store(self.folder / "state"),
            self.folder / "trusted",
            self.folder / "cache",
            vendor_keys=self.folder / "vendor-keys",
            config=self.folder / "config",
            built=self.folder / "os-release",
        )

    def reset(self, release: Release) -> None:
        """As freshly installed: slot a runs 1.0.0, slot b is empty and belongs to nothing."""
        for name in ("efi/EFI/Linux", "efivars", "state", "cache"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            for path in (self.folder / name).iterdir():
                if path.is_file():
                    path.unlink()
        root_mib = release.root_bytes // MIB
        with (self.folder / "disk.img").open("wb") as file:
            file.truncate((2 + _ESP_MIB + 2 * (root_mib + _TREE_MIB)) * MIB)
        script = f"label: gpt\nsize={_ESP_MIB}MiB, type={gpt.ESP}, name=esp\n"
        for slot, halves in (("a", disk.part_uuids(RUNNING_ROOT_HASH)), ("b", (uuid.uuid4(), uuid.uuid4()))):
            script += f"size={root_mib}MiB, type={gpt.ROOT_X86_64}, name=system_{slot}, uuid={halves[0]}\n"
            script += f"size={_TREE_MIB}MiB, type={gpt.ROOT_X86_64_VERITY}, name=system_{slot}_verity, "
            script += f"uuid={halves[1]}\n"
        slot_images.run("sfdisk", "--quiet", str(self.folder / "disk.img"), stdin=script.encode())
        for name in ("slot-a", "slot-a-tree"):
            (self.folder / name).touch()
        slot_images.make_uki(
            self.folder / "efi/EFI/Linux/hypernet_1.0.0.efi", version="1.0.0", root_hash=RUNNING_ROOT_HASH
        )
        for name, value in (
            ("LoaderInfo", "systemd-boot 252"),
            ("LoaderEntrySelected", "hypernet_1.0.0.efi"),
        ):
            text = (value + "\0").encode("utf-16-le")
            (self.folder / "efivars" / f"{name}{_VARIABLE}").write_bytes(b"\x06\0\0\0" + text)
        if not (self.folder / "trusted").exists():
            (self.folder / "trusted").symlink_to(release.trusted)


@contextmanager
def place(where: str, release: Release) -> Iterator[Place]:
    """A machine with slots on tmpfs or disk (FOLDERS) and the size of the release."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=FOLDERS[where])))
        direct = where == "disk"
        data = stack.enter_context(loop_device(FOLDERS[where], release.root_bytes, direct=direct))
        tree = stack.enter_context(loop_device(FOLDERS[where], _TREE_MIB * MIB, direct=direct))
        made = Place(folder, data, tree)
        made.reset(release)
        yield made
