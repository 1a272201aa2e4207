# SPDX-License-Identifier: Apache-2.0
"""The parts of an image that boot it: initrd (dracut(8)), unified kernel image, EFI system partition."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import process
from hypernet_release.errors import BuildError
from hypernet_release.rootfs import in_tree

_STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
_LOADER = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
_OMIT = "network network-legacy ifcfg nfs iscsi multipath lvm mdraid btrfs dmraid crypt plymouth i18n resume"
_DRIVERS = (
    "erofs dm-verity ext4 vfat nls_ascii nls_cp437 virtio_blk virtio_pci virtio_scsi nvme ahci sd_mod usb_storage"
    " uas megaraid_sas mpt3sas hpsa i6300esb iTCO_wdt sp5100_tco ipmi_watchdog"
)
_PAGE = 0x1000
ESP_MIN_BYTES = 64 << 20  # room for the FAT32 that UEFI wants, and for loader and UKI


@dataclass(frozen=True, slots=True)
class Kernel:
    """Kernel release (uname -r) and image of a root tree."""

    release: str
    image: Path


def find_kernel(tree: Path) -> Kernel:
    """The one kernel of a tree. Raises BuildError if there is none or more than one."""
    found = sorted((tree / "boot").glob("vmlinuz-*"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise BuildError(f"an image needs exactly one kernel, found: {names}; mend packages in build-config.yaml")
    return Kernel(found[0].name.removeprefix("vmlinuz-"), found[0])


def make_initrd(tree: Path, module: Path, target: Path, epoch: int) -> None:
    """Build the initrd with dracut inside the tree: systemd, verity, and our module's machine identity."""
    kernel = find_kernel(tree)
    modules = tree / "usr/lib/dracut/modules.d"
    shutil.copytree(module, modules / module.name, dirs_exist_ok=True)
    available = {path.name.split(".ko")[0].replace("-", "_") for path in (tree / "usr/lib/modules").rglob("*.ko*")}
    builtin = (tree / "usr/lib/modules" / kernel.release / "modules.builtin").read_text()
    available |= {Path(line).name.split(".ko")[0].replace("-", "_") for line in builtin.splitlines()}
    drivers = [name for name in _DRIVERS.split() if name.replace("-", "_") in available]
    argv = ["dracut", "--force", "--no-hostonly", "--no-hostonly-cmdline", "--reproducible", "--no-early-microcode"]
    argv += ["--quiet", "--kver", kernel.release, "--add", "systemd-veritysetup hypernet", "--omit", _OMIT]
    argv += ["--drivers", " ".join(drivers), "--filesystems", "erofs ext4 vfat", "--gzip", "/tmp/initrd"]
    env = {"SOURCE_DATE_EPOCH": str(epoch), "dracutbasedir": "/usr/lib/dracut"}
    in_tree(tree, argv, timeout_sec=600, env=env)
    shutil.move(tree / "tmp/initrd", target)
    target.chmod(0o644)


def make_uki(tree: Path, kernel: Path, initrd: Path, cmdline: str, target: Path, epoch: int) -> None:
    """Join stub, os-release, command line, kernel and initrd into one PE file (systemd-stub(7)).

    Sections follow each other page by page behind those of the stub, as ukify(1) lays them out.
    """
    stub = tree / _STUB
    cmdline_file = target.with_suffix(".cmdline")
    cmdline_file.write_text(cmdline)
    parts = {
        ".osrel": tree / "usr/lib/os-release",
        ".cmdline": cmdline_file,
        ".linux": kernel,
        ".initrd": initrd,
    }
    argv = ["objcopy", "--enable-deterministic-archives"]
    address = _end_of_sections(stub)
    for name, path in parts.items():
        argv += [f"--add-section={name}={path}", f"--change-section-vma={name}={address:#x}"]
        address += -(-path.stat().st_size // _PAGE) * _PAGE
    process.run([*argv, str(stub), str(target)], timeout_sec=120, env={"SOURCE_DATE_EPOCH": str(epoch)})
    cmdline_file.unlink()


def _end_of_sections(stub: Path) -> int:
    listing = process.run(["objdump", "--section-headers", "--wide", str(stub)], timeout_sec=60).stdout.decode()
    rows = re.findall(r"^\s*\d+\s+\.\S+\s+([0-9a-f]+)\s+([0-9a-f]+)", listing, re.MULTILINE)
    if not rows:
        raise BuildError(f"{stub}: no PE sections found; is systemd-boot-efi among the packages?")
    end = max(int(size, 16) + int(address, 16) for size, address in rows)
    return -(-end // _PAGE) * _PAGE


def make_esp(tree: Path, uki: Path, version: str, target: Path, epoch: int) -> None:
    """Make the FAT32 file system image of the ESP: boot loader, its configuration and the UKI."""
    folder = target.with_suffix(".tree")
    loader = tree / _LOADER
    (folder / "EFI/BOOT").mkdir(parents=True)
    (folder / "EFI/systemd").mkdir()
    (folder / "EFI/Linux").mkdir()
    (folder / "loader").mkdir()
    shutil.copyfile(loader, folder / "EFI/BOOT/BOOTX64.EFI")
    shutil.copyfile(loader, folder / "EFI/systemd/systemd-bootx64.efi")
    shutil.copyfile(uki, folder / f"EFI/Linux/hypernet_{version}.efi")
    # No default and no preferred entry: both would overrule boot counting (loader.conf(5)).
    (folder / "loader/loader.conf").write_text("timeout 0\neditor no\nauto-entries no\nauto-firmware no\n")
    (folder / "loader/entries.srel").write_text("type1\n")
    content = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    size = max(ESP_MIN_BYTES, -(-content * 5 // 4 // (1 << 20)) * (1 << 20))
    with target.open("wb") as stream:
        stream.truncate(size)
    env = {"SOURCE_DATE_EPOCH": str(epoch), "MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}
    fat = ["mkfs.vfat", "--invariant", "-F", "32", "-s", "1", "-n", "ESP", "-i", "48595052", str(target)]
    process.run(fat, timeout_sec=60, env=env)
    for path in sorted(folder.rglob("*")):
        inside = f"::/{path.relative_to(folder)}"
        _copy_to_fat(target, path, inside, env)
    shutil.rmtree(folder)


def _copy_to_fat(image: Path, path: Path, inside: str, env: dict[str, str]) -> None:
    argv: Sequence[str] = ["mmd", "-i", str(image), inside]
    if path.is_file():
        argv = ["mcopy", "-i", str(image), str(path), inside]
    process.run(argv, timeout_sec=120, env=env)
