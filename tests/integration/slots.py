# SPDX-License-Identifier: Apache-2.0
"""Slots for the test machine: small signed releases, a disk with two slots, and what the boot loader does.

A release is built with the real release tools, only its root file system has little more than what an update
looks for: nothing in the machine mounts it. The disk is a set of files that HYPERNET_TOPOLOGY shows to
slot-manager in place of block devices; the loader's part of a boot, systemd-boot 252's counting, is played
by `boot_loader`.
"""

import json
import os
import random
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common import gpt, uki
from hypernet_release import boot, disk, statement
from hypernet_release.config import Statement
from hypernet_release.signing import Signer, write_checksum, write_trusted_keys
from tests.fakes import root_images

EFI_FILES = Path("/usr/lib/systemd/boot/efi")
LOADER_VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
SIDECARS = (".img", ".img.sha256", ".img.asc", ".manifest.json", ".manifest.json.asc")
ROOT_BYTES = 2 << 20
TREE_BYTES = 1 << 20
EPOCH = 1_750_000_000

_ENTRY = re.compile(r"hypernet_(\d+)\.(\d+)\.(\d+)(?:\+(\d+)(?:-(\d+))?)?\.efi")

_LOOK_AT_SLOTS = ("hypernet-slot-manager", "hypernet-slot-manager-attempt", "hypernet-bless")
_COUNT_BOOTS = ("hypernet-slot-manager-attempt", "hypernet-boot-health", "hypernet-boot-failed")
UNITS = tuple(sorted({*_LOOK_AT_SLOTS, *_COUNT_BOOTS}))
"""The units that see a machine of these tests in place of the real one."""

_TOPOLOGY = """[Unit]
RequiresMountsFor=/config
[Service]
Environment=HYPERNET_TOPOLOGY=/config/topology.json
ReadWritePaths=/config
"""

# A service in a sandbox sees the boot id of the host, which is the same in each boot of a container.
_BOOT_ID = """[Service]
BindReadOnlyPaths=/config/boot_id:/proc/sys/kernel/random/boot_id
"""


@dataclass(frozen=True)
class Release:
    """A signed image file and what is in it."""

    version: str
    image: Path
    uki: Path
    root_hash: str

    def offer(self, folder: Path, suffixes: Iterable[str] = SIDECARS) -> None:
        """Copy the image and what is beside it."""
        for suffix in suffixes:
            name = self.image.name.removesuffix(".img") + suffix
            shutil.copy(self.image.with_name(name), folder / name)


class ReleaseMaker:
    """Makes releases that one key signs. folder: for images and keys."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Release] = {}
        home = folder / "gnupg"
        home.mkdir(mode=0o700)
        gpg = ["gpg", "--batch", "--quiet", "--homedir", str(home)]
        key = [
            "--passphrase=",
            "--quick-generate-key",
            "Test <test@hypernet.io>",
            "ed25519",
            "sign",
            "never",
        ]
        subprocess.run([*gpg, *key], check=True, timeout=60, capture_output=True)
        self._signer = Signer(home, "")
        self._keys = folder / "trusted-keys"
        write_trusted_keys(self._signer, self._keys)
        self._tree = folder / "tree"
        shutil.copytree(EFI_FILES, self._tree / EFI_FILES.relative_to("/"))

    def trust(self, folder: Path) -> None:
        """Write the trusted key set to a new folder."""
        shutil.copytree(self._keys, folder)

    def get(self, version: str, stated: Statement | None = None) -> Release:
        """Return hypernet-VERSION.img, which is built and signed once; stated: what its manifest says."""
        if version not in self._made:
            self._made[version] = self._make(version, stated or Statement())
        return self._made[version]

    def _make(self, version: str, stated: Statement) -> Release:
        work = self._folder / version
        work.mkdir()
        root, tree, esp = work / "root", work / "tree", work / "esp"
        text = f"ID=debian\nIMAGE_ID=hypernet\nIMAGE_VERSION={version}\n"
        content = {"usr/lib/os-release": text.encode(), "usr/share/noise": _noise(version)}
        root_images.make_root(root, trusted=self._keys, extra=content)
        os.truncate(root, ROOT_BYTES)
        root_hash = disk.make_hash_tree(root, tree)
        (self._tree / "usr/lib/os-release").write_text(text)
        arguments = f"roothash={root_hash} ro {root_images.KERNEL_ARGS}"
        boot.make_uki(self._tree, root, root, arguments, work / "uki.efi", EPOCH)
        boot.make_esp(self._tree, work / "uki.efi", version, esp, EPOCH)
        root_uuid, tree_uuid = disk.part_uuids(root_hash)
        parts = [
            disk.Part("esp", gpt.ESP, disk.esp_uuid(root_hash), esp),
            disk.Part("root", gpt.ROOT_X86_64, root_uuid, root),
            disk.Part("root-verity", gpt.ROOT_X86_64_VERITY, tree_uuid, tree),
        ]
        image = self._folder / f"hypernet-{version}.img"
        disk.assemble(parts, image, root_hash)
        image.chmod(0o644)
        write_checksum(image)
        self._signer.sign(image)
        self._signer.sign(statement.write_manifest(image, stated, issued_sec=int(time.time()) - 60))
        return Release(version, image, work / "uki.efi", root_hash)


class SlotDisk:
    """The machine's disk, below its /config, and its ESP. folder, efi: where /config and /efi come from."""

    def __init__(self, config: Path, efi: Path) -> None:
        self._config = config
        self._entries = efi / "EFI/Linux"
        self._variables = config / "efivars"

    def create(self, release: Release) -> None:
        """Lay out the disk with `release` in slot a, good, and an empty slot b."""
        self._entries.mkdir(parents=True)
        self._variables.mkdir()
        root_uuid, tree_uuid = disk.part_uuids(release.root_hash)
        sectors = {"": ROOT_BYTES // 512, "_verity": TREE_BYTES // 512}
        lines = ["label: gpt"]
        for slot in "ab":
            for suffix, kind in (("", gpt.ROOT_X86_64), ("_verity", gpt.ROOT_X86_64_VERITY)):
                uuid = {"a": root_uuid, "a_verity": tree_uuid}.get(f"{slot}{suffix}")
                line = f'size={sectors[suffix]}, type={kind}, name="system_{slot}{suffix}"'
                lines.append(f"{line}, uuid={uuid}" if uuid else line)
        table = self._config / "disk.img"
        with table.open("wb") as file:
            file.truncate(4 * (ROOT_BYTES + TREE_BYTES))
        subprocess.run(
            ["sfdisk", "--quiet", str(table)], input="\n".join(lines), text=True, check=True, timeout=60
        )
        for slot in "ab":
            (self._config / f"{slot}.data").write_bytes(bytes(ROOT_BYTES))
            (self._config / f"{slot}.tree").write_bytes(bytes(TREE_BYTES))
        shutil.copyfile(release.uki, self._entries / f"hypernet_{release.version}.efi")

    def entries(self) -> list[str]:
        """Return the names of the boot entries on the ESP."""
        return sorted(path.name for path in self._entries.iterdir())

    def boot_loader(self) -> str:
        """Choose an entry and count the attempt, as systemd-boot does; return the slot that it starts."""
        name = max(filter(_ENTRY.fullmatch, self.entries()), key=_order)
        match = _ENTRY.fullmatch(name)
        assert match is not None
        started = name
        (self._config / "boot_id").write_text(f"{uuid.uuid4()}\n")
        self._set("LoaderInfo", "systemd-boot 252.39")
        self._set("LoaderEntrySelected", name)
        (self._variables / f"LoaderBootCountPath-{LOADER_VENDOR}").unlink(missing_ok=True)
        if match[4] is not None:
            left, done = max(0, int(match[4]) - 1), int(match[5] or 0) + 1
            started = f"hypernet_{'.'.join(match.group(1, 2, 3))}+{left}-{done}.efi"
            (self._entries / name).rename(self._entries / started)
            self._set("LoaderBootCountPath", f"\\EFI\\Linux\\{started}")
        slot = self._slot_of(self._entries / started)
        self._describe(slot)
        return slot

    def _slot_of(self, entry: Path) -> str:
        root_hash = uki.read(entry).root_hash
        with (self._config / "disk.img").open("rb") as file:
            table = gpt.read(file.fileno(), name="disk.img")
        for slot in "ab":
            (data,), (tree,) = table.by_label(f"system_{slot}"), table.by_label(f"system_{slot}_verity")
            if data.unique_uuid.hex + tree.unique_uuid.hex == root_hash:
                return slot
        raise AssertionError(f"{entry.name} belongs to no slot: a real machine would not come up")

    def _describe(self, booted: str) -> None:
        slots = {slot: {"data": f"/config/{slot}.data", "tree": f"/config/{slot}.tree"} for slot in "ab"}
        topology = {
            "disk": "/config/disk.img",
            "booted": booted,
            "slots": slots,
            "efivars": "/config/efivars",
        }
        (self._config / "topology.json").write_text(json.dumps(topology))

    def _set(self, name: str, value: str) -> None:
        data = b"\x06\0\0\0" + value.encode("utf-16-le") + b"\0\0"
        (self._variables / f"{name}-{LOADER_VENDOR}").write_bytes(data)


def _noise(version: str) -> bytes:
    return random.Random(version).randbytes(ROOT_BYTES // 2)


def use_topology(root: Path) -> None:
    """Let the agents of the machine with this root tree look at the topology file instead of at sysfs."""
    for units, name, text in (
        (_LOOK_AT_SLOTS, "topology.conf", _TOPOLOGY),
        (_COUNT_BOOTS, "boot-id.conf", _BOOT_ID),
    ):
        for unit in units:
            folder = root / f"etc/systemd/system/{unit}.service.d"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


def _order(name: str) -> tuple[bool, tuple[int, ...]]:
    """Entries that have no tries left come last, then the higher version comes first."""
    match = _ENTRY.fullmatch(name)
    assert match is not None
    return match[4] != "0", tuple(int(number) for number in match.group(1, 2, 3))
