# SPDX-License-Identifier: Apache-2.0
"""The parts of an image that boot it: initrd (dracut(8)), unified kernel image, EFI system partition."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from hypernet_release import tools
from hypernet_release.errors import BuildError
from hypernet_release.rootfs import in_tree

_STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
_LOADER = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
_OMIT = "network network-legacy ifcfg nfs iscsi multipath lvm mdraid btrfs dmraid crypt plymouth i18n resume"
_DRIVERS = (
    "erofs squashfs ext4 dm-verity vfat nls_ascii nls_cp437 virtio_blk virtio_pci virtio_scsi nvme ahci"
    " sd_mod usb_storage uas megaraid_sas mpt3sas hpsa i6300esb iTCO_wdt sp5100_tco ipmi_watchdog"
)
_PAGE = 0x1000
_SECTION_ROW = r"^\s*\d+\s+\.\S+\s+([0-9a-f]+)\s+([0-9a-f]+)"  # size and address, as objdump(1) prints them
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
        raise BuildError(
            f"An image needs one kernel, but this has: {names}; mend packages in its configuration."
        )
    return Kernel(found[0].name.removeprefix("vmlinuz-"), found[0])


def make_initrd(tree: Path, module: Path, target: Path, epoch: int) -> None:
    """Build the initrd with dracut inside the tree: systemd, verity, and our module's machine identity."""
    kernel = find_kernel(tree)
    modules = tree / "usr/lib/dracut/modules.d"
    shutil.copytree(module, modules / module.name, dirs_exist_ok=True)
    available = _module_names(tree / "usr/lib/modules" / kernel.release)
    drivers = [name for name in _DRIVERS.split() if name.replace("-", "_") in available]
    argv = ["dracut", "--force", "--no-hostonly", "--no-hostonly-cmdline", "--reproducible"]
    argv += [
        "--no-early-microcode",
        "--quiet",
        "--kver",
        kernel.release,
        "--add",
        "systemd-veritysetup hypernet",
        "--omit",
        _OMIT,
    ]
    argv += ["--drivers", " ".join(drivers), "--filesystems", "erofs squashfs ext4 vfat"]
    argv += ["--gzip", "/tmp/initrd"]
    env = {"SOURCE_DATE_EPOCH": str(epoch), "dracutbasedir": "/usr/lib/dracut"}
    in_tree(tree, argv, timeout_sec=600, env=env)
    shutil.move(tree / "tmp/initrd", target)
    target.chmod(0o644)


def _module_names(folder: Path) -> set[str]:
    """Names of a kernel's modules, built-in ones too, with underscores as lsmod(8) shows them."""
    files = [*folder.rglob("*.ko*"), *map(Path, (folder / "modules.builtin").read_text().splitlines())]
    return {path.name.split(".ko")[0].replace("-", "_") for path in files}


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
    # The PE header gets the time that the stub has there; it would be the present one otherwise.
    argv = ["objcopy", "--preserve-dates"]
    address = _end_of_sections(stub)
    for name, path in parts.items():
        argv += [f"--add-section={name}={path}", f"--change-section-vma={name}={address:#x}"]
        address += -(-path.stat().st_size // _PAGE) * _PAGE
    tools.run([*argv, str(stub), str(target)], timeout_sec=120, env={"SOURCE_DATE_EPOCH": str(epoch)})
    cmdline_file.unlink()


def _end_of_sections(stub: Path) -> int:
    if not stub.exists():
        raise BuildError(
            f"The image has no /{_STUB}; add systemd-boot-efi to packages in its configuration."
        )
    completed = tools.run(["objdump", "--section-headers", "--wide", str(stub)], timeout_sec=60)
    rows = re.findall(_SECTION_ROW, completed.stdout.decode(), re.MULTILINE)
    if not rows:
        raise BuildError(f"{stub} has no PE sections; use the one of the package systemd-boot-efi.")
    end = max(int(size, 16) + int(address, 16) for size, address in rows)
    return -(-end // _PAGE) * _PAGE


def make_esp(tree: Path, uki: Path, version: str, target: Path, epoch: int) -> None:
    """Make the FAT32 file system image of the ESP: boot loader, its configuration and the UKI."""
    folder = target.with_suffix(".tree")
    loader = tree / _LOADER
    if not loader.exists():
        raise BuildError(
            f"The image has no /{_LOADER}; add systemd-boot-efi to packages in its configuration."
        )
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
    tools.run(fat, timeout_sec=60, env=env)
    for path in sorted(folder.rglob("*")):
        inside = f"::/{path.relative_to(folder)}"
        argv = ["mcopy", "-i", str(target), str(path), inside]
        if path.is_dir():
            argv = ["mmd", "-i", str(target), inside]
        tools.run(argv, timeout_sec=120, env=env)
    shutil.rmtree(folder)
