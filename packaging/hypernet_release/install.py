# SPDX-License-Identifier: Apache-2.0
"""`hypernet-image install`: lay out a disk, or a file that is one, and put an image into slot A.

Nothing is written before the image was found to be whole. The boot entry gets its name last, when all
else has reached the disk: whatever fails before leaves a disk that does not boot.
"""

from __future__ import annotations

import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from common import files, gpt, uki
from hypernet_release import disk, tools
from hypernet_release.cache import file_digest
from hypernet_release.errors import InstallError, ToolError
from hypernet_release.tools import step

TRIES = 3  # boot attempts of a fresh entry, see systemd-boot(7), boot counting
_CHUNK = 4 << 20
_CHECKSUM_MAX_BYTES = 4096
_LAYOUT_MAX_BYTES = 64 << 10
_TOOLS = ("mcopy", "mren", "sfdisk", "systemd-repart", "wipefs")
_ENTRIES = "::/EFI/Linux"


@dataclass(frozen=True, slots=True)
class Request:
    """image: path of a .img with its .sha256 beside it. disk: block device or file.

    definitions: folder of repart.d(5) files, the layout. size_bytes: size of a file to create; None: the
    disk exists. wipe: whatever is on the disk is given up. epoch: seconds since 1970, the time of the files
    on the ESP; None: now.
    """

    image: Path
    disk: Path
    definitions: Path
    size_bytes: int | None
    wipe: bool
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class _Image:
    """An image's partitions and its UKI, which lies unpacked with the rest of the ESP in `files`.

    tree: None for an image without dm-verity. root_hash: 64 hex digits that both partitions of a slot are
    named by.
    """

    esp: gpt.Partition
    root: gpt.Partition
    tree: gpt.Partition | None
    files: Path
    uki: Path
    version: str
    root_hash: str


def install(request: Request) -> str:
    """Install and return the version that slot A now holds.

    A file that is created has its name only when it is complete. Raises InstallError, ToolError, OSError and
    the errors of common.gpt and common.uki.
    """
    tools.require([*_TOOLS, *_formatters(request.definitions)])
    with step(f"Checking {request.image}"):
        check_checksum(request.image)
    with (
        TemporaryDirectory(prefix="hypernet-image-") as folder,
        request.image.open("rb", buffering=0) as source,
    ):
        image = _read(request, source.fileno(), Path(folder))
        with _target(request) as target:
            with step(f"Partitioning {request.disk}"):
                _lay_out(request, target)
            with step(f"Writing {image.version} to slot A"):
                esp = _fill_slot(request, image, source.fileno(), target)
                _fill_esp(request, image, target, esp)
    return image.version


def check_checksum(image: Path) -> None:
    """Compare an image with IMAGE.sha256 (sha256sum format). Raises InstallError."""
    sidecar = image.with_name(image.name + ".sha256")
    try:
        expected = files.read_bounded(sidecar, _CHECKSUM_MAX_BYTES).decode("ascii", "replace").split()
        actual = file_digest(image)
    except OSError as error:
        raise InstallError(
            f"{image} cannot be read: {error.strerror}; name the .img of a release."
        ) from error
    except files.FileError as error:
        raise InstallError(f"{str(error).rstrip('.')}; it belongs beside the image.") from error
    if expected[:1] != [actual]:
        raise InstallError(f"{image} does not have the checksum in {sidecar.name}; fetch the image again.")


def _formatters(definitions: Path) -> list[str]:
    """The programs that make the file systems of a layout."""
    texts = (
        files.read_bounded(path, _LAYOUT_MAX_BYTES).decode() for path in sorted(definitions.glob("*.conf"))
    )
    kinds = {kind for text in texts for kind in re.findall(r"^Format=(\w+)$", text, re.MULTILINE)}
    return sorted(f"mkfs.{kind}" for kind in kinds)


def _read(request: Request, fd: int, folder: Path) -> _Image:
    """Look into the image and unpack its ESP to `folder`. Raises InstallError if it is no system image."""
    table = gpt.read(fd, name=str(request.image))
    esp, root = _only(request, table, gpt.ESP, "ESP"), _only(request, table, gpt.ROOT_X86_64, "root")
    tree = None
    if table.by_type(gpt.ROOT_X86_64_VERITY):
        tree = _only(request, table, gpt.ROOT_X86_64_VERITY, "hash tree")
    source = f"{request.image}@@{esp.offset_bytes}"
    tools.run(
        ["mcopy", "-s", "-Q", "-i", source, "::/", str(folder)], timeout_sec=120, env=_environment(request)
    )
    kernels = sorted(folder.rglob("EFI/Linux/*.efi"))
    if len(kernels) != 1:
        raise _no_image(request, f"its ESP holds {len(kernels)} unified kernel images instead of one")
    facts = uki.read(kernels[0])
    if facts.image_id != "hypernet" or not facts.image_version:
        raise _no_image(request, "its unified kernel image is not one of ours")
    held = root.unique_uuid.hex + (tree.unique_uuid.hex if tree else facts.root_hash[32:])
    if facts.root_hash != held or facts.verity != (tree is not None):
        raise _no_image(request, "its unified kernel image starts another root file system than it holds")
    return _Image(esp, root, tree, folder, kernels[0], facts.image_version, facts.root_hash)


def _only(request: Request, table: gpt.Table, kind: uuid.UUID, what: str) -> gpt.Partition:
    partitions = table.by_type(kind)
    if len(partitions) != 1:
        raise _no_image(request, f"it has {len(partitions)} {what} partitions instead of one")
    return partitions[0]


def _no_image(request: Request, why: str) -> InstallError:
    return InstallError(
        f"{request.image} is not a system image: {why}; name one made by hypernet-image build."
    )


@contextmanager
def _target(request: Request) -> Iterator[Path]:
    """Where to work: the disk itself, or a file in a hidden folder that gets its name at the end."""
    name = request.disk
    if request.size_bytes is None:
        _check_disk(name, wipe=request.wipe)
        yield name
        return
    if name.exists() and not name.is_file():
        raise InstallError(
            f"{name} is no file, so it cannot be created with --size; leave --size out for a disk."
        )
    if name.exists() and not request.wipe:
        raise InstallError(f"{name} exists; give another name, or --wipe to give up what is in it.")
    with TemporaryDirectory(prefix=".hypernet-image-", dir=name.absolute().parent) as folder:
        part = Path(folder) / name.name
        yield part
        part.replace(name)
    files.sync_directory(name.absolute().parent)


def _check_disk(path: Path, *, wipe: bool) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InstallError(f"{path} does not exist; name a disk, or --size to create a file.") from None
    if not stat.S_ISBLK(mode) and not stat.S_ISREG(mode):
        raise InstallError(f"{path} is neither a disk nor a file; name one, such as /dev/sda.")
    if stat.S_ISBLK(mode):
        try:
            # For block devices this asks whether anything on it is mounted or otherwise in use (open(2)).
            os.close(os.open(path, os.O_RDONLY | os.O_EXCL))
        except OSError as error:
            raise InstallError(f"{path} is in use: {error.strerror}; unmount what is on it.") from error
    listing = tools.run(["wipefs", "--noheadings", "--output=TYPE", str(path)], timeout_sec=60)
    holds = ", ".join(dict.fromkeys(listing.stdout.decode().split()))
    if holds and not wipe:
        raise InstallError(
            f"{path} is not empty ({holds}); name another disk, or --wipe to give up what is on it."
        )


def _lay_out(request: Request, target: Path) -> None:
    # Not seeded from this machine's ID, as would be the default: two servers' disks must differ.
    argv = ["systemd-repart", "--dry-run=no", "--no-pager", "--seed=random"]
    argv.append(f"--definitions={request.definitions}")
    if request.size_bytes is None:
        argv.append(f"--empty={'force' if request.wipe else 'require'}")
    else:
        argv += ["--empty=create", f"--size={request.size_bytes}"]
    try:
        tools.run([*argv, str(target)], timeout_sec=900, env=_environment(request))
    except ToolError as error:
        raise InstallError(f"{request.disk} could not be partitioned: {error}") from error


def _fill_slot(request: Request, image: _Image, source_fd: int, target: Path) -> gpt.Partition:
    """Copy root and hash tree to slot A and give them their PARTUUIDs; returns the ESP of the disk."""
    with target.open("r+b", buffering=0) as stream:
        table = gpt.read(stream.fileno(), name=str(request.disk))
        esp, root, tree = (_labelled(table, label) for label in ("esp", "system_a", "system_a_verity"))
        for part, slot in ((image.root, root), (image.tree, tree)):
            if part is None:
                continue
            if part.size_bytes > slot.size_bytes:
                raise InstallError(
                    f"{request.disk} is too small: the image needs {part.size_bytes} bytes in {slot.label}, "
                    f"which got {slot.size_bytes}; take a larger disk."
                )
            _copy(source_fd, part, stream.fileno(), slot.offset_bytes)
        os.fsync(stream.fileno())
    sfdisk = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--part-uuid", str(target)]
    for slot, value in zip((root, tree), disk.part_uuids(image.root_hash), strict=True):
        tools.run([*sfdisk, str(slot.number), str(value)], timeout_sec=60)
    return esp


def _labelled(table: gpt.Table, label: str) -> gpt.Partition:
    partitions = table.by_label(label)
    if len(partitions) != 1:
        raise InstallError(
            f"The layout makes {len(partitions)} partitions {label}, one is needed; mend repart.d."
        )
    return partitions[0]


def _copy(source_fd: int, part: gpt.Partition, target_fd: int, offset: int) -> None:
    position = part.offset_bytes
    while position < part.end_bytes:
        chunk = os.pread(source_fd, min(_CHUNK, part.end_bytes - position), position)
        if not chunk:
            raise InstallError("The image became shorter while it was read; copy it to a local disk first.")
        disk.write_all(target_fd, chunk, offset)
        position += len(chunk)
        offset += len(chunk)


def _fill_esp(request: Request, image: _Image, target: Path, esp: gpt.Partition) -> None:
    """Copy the image's ESP; its UKI gets the name by which the boot loader finds it when all is on disk."""
    fat = ["-i", f"{target}@@{esp.offset_bytes}"]
    env = _environment(request)
    entry = f"{image.uki.stem}+{TRIES}.efi"
    part = image.files / f"{entry}.part"
    image.uki.rename(part)
    top = sorted(str(path) for path in image.files.iterdir() if path != part)
    tools.run(["mcopy", "-s", "-Q", *fat, *top, "::/"], timeout_sec=120, env=env)
    tools.run(["mcopy", "-Q", *fat, str(part), f"{_ENTRIES}/{part.name}"], timeout_sec=120, env=env)
    _flush(target)
    tools.run(["mren", *fat, f"{_ENTRIES}/{part.name}", entry], timeout_sec=60, env=env)
    _flush(target)


def _flush(path: Path) -> None:
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def _environment(request: Request) -> dict[str, str]:
    env = {"MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}
    return env if request.epoch is None else env | {"SOURCE_DATE_EPOCH": str(request.epoch)}
