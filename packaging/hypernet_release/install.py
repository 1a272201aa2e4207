# SPDX-License-Identifier: Apache-2.0
"""`hypernet-image install`: lay out a disk, or a file that is one, and put an image into slot A."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from common import gpt, process
from hypernet_release import disk
from hypernet_release.errors import InstallError

TRIES = 3  # boot attempts of a fresh entry, see systemd-boot(7), boot counting
_CHUNK = 4 << 20
_CHECKSUM_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Request:
    """image: path of a .img with its .sha256 beside it. disk: block device or file.

    size_bytes: size of a file to create; None: the disk exists. wipe: whatever is on the disk is given up.
    definitions: folder of repart.d files, the layout.
    """

    image: Path
    disk: Path
    definitions: Path
    size_bytes: int | None
    wipe: bool


def install(request: Request) -> str:
    """Install and return the version that slot A now holds.

    Raises InstallError, common.gpt's errors or common.process.ProcessError; a disk that failed half way is
    not bootable, because the boot entry is renamed to its final name last.
    """
    check_checksum(request.image)
    with request.image.open("rb") as stream:
        table = gpt.read(stream.fileno(), name=str(request.image))
    parts = {part.type_uuid: part for part in table.partitions}
    missing = [kind for kind in (gpt.ESP, gpt.ROOT_X86_64, gpt.ROOT_X86_64_VERITY) if kind not in parts]
    if missing:
        raise InstallError(f"{request.image} is not a system image: no partition of type {missing[0]}")
    _lay_out(request)
    with request.disk.open("r+b", buffering=0) as target, request.image.open("rb", buffering=0) as source:
        slots = {part.label: part for part in gpt.read(target.fileno(), name=str(request.disk)).partitions}
        for label, kind in (("system_a", gpt.ROOT_X86_64), ("system_a_verity", gpt.ROOT_X86_64_VERITY)):
            part, slot = parts[kind], slots[label]
            if part.size_bytes > slot.size_bytes:
                raise InstallError(
                    f"{request.disk} is too small: {label} got {slot.size_bytes} bytes, the image needs {part.size_bytes}"
                )
            _copy(source.fileno(), part, target.fileno(), slot.offset_bytes)
        os.fsync(target.fileno())
    for label, kind in (("system_a", gpt.ROOT_X86_64), ("system_a_verity", gpt.ROOT_X86_64_VERITY)):
        _set_part_uuid(request.disk, slots[label].number, str(parts[kind].unique_uuid))
    return _fill_esp(request, parts[gpt.ESP].offset_bytes, slots["esp"].offset_bytes)


def check_checksum(image: Path) -> None:
    """Compare an image with IMAGE.sha256 (sha256sum format). Raises InstallError."""
    sidecar = image.with_name(image.name + ".sha256")
    try:
        with sidecar.open("rb") as stream:
            expected = stream.read(_CHECKSUM_MAX_BYTES).decode("ascii", "replace").split()
        digest = hashlib.sha256()
        with image.open("rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InstallError(f"{error.filename} cannot be read: {error.strerror}; give the image with its .sha256") from error
    if not expected or expected[0] != digest.hexdigest():
        raise InstallError(f"{image} does not have the checksum in {sidecar.name}; fetch the image again")


def _lay_out(request: Request) -> None:
    empty = "refuse"
    argv = ["systemd-repart", "--dry-run=no", f"--definitions={request.definitions}", "--no-pager"]
    if request.size_bytes is not None:
        if request.disk.exists() and not request.wipe:
            raise InstallError(f"{request.disk} exists; give another name, or --wipe to give up what is on it")
        request.disk.unlink(missing_ok=True)
        empty = "create"
        argv.append(f"--size={request.size_bytes}")
    elif not request.disk.exists():
        raise InstallError(f"{request.disk} does not exist; name a disk, or --size to create a file")
    elif not stat.S_ISBLK(request.disk.stat().st_mode) and not request.disk.is_file():
        raise InstallError(f"{request.disk} is neither a disk nor a file")
    else:
        empty = "force" if request.wipe else "require"
    try:
        process.run([*argv, f"--empty={empty}", str(request.disk)], timeout_sec=900)
    except process.ProcessError as error:
        hint = "; a disk that holds partitions is only taken with --wipe" if empty == "require" else ""
        raise InstallError(f"{request.disk} could not be partitioned: {error}{hint}") from error


def _copy(source_fd: int, part: gpt.Partition, target_fd: int, offset: int) -> None:
    position = part.offset_bytes
    end = position + part.size_bytes
    while position < end:
        chunk = os.pread(source_fd, min(_CHUNK, end - position), position)
        if not chunk:
            raise InstallError("the image became shorter while it was read; copy it to a local disk first")
        disk.write_all(target_fd, chunk, offset)
        position += len(chunk)
        offset += len(chunk)


def _set_part_uuid(target: Path, number: int, part_uuid: str) -> None:
    argv = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--part-uuid", str(target), str(number), part_uuid]
    process.run(argv, timeout_sec=60)


def _fill_esp(request: Request, source_offset: int, target_offset: int) -> str:
    """Copy the image's ESP, its UKI last and under its counted name; returns the version in that name."""
    source = f"{request.image}@@{source_offset}"
    target = f"{request.disk}@@{target_offset}"
    env = {"MTOOLS_SKIP_CHECK": "1"}
    with TemporaryDirectory(prefix="hypernet-image-") as name:
        folder = Path(name)
        process.run(["mcopy", "-s", "-Q", "-i", source, "::/", str(folder)], timeout_sec=120, env=env)
        kernels = sorted(folder.rglob("EFI/Linux/*.efi"))
        if len(kernels) != 1:
            raise InstallError(f"{request.image} is not a system image: its ESP holds {len(kernels)} UKIs instead of one")
        counted = f"{kernels[0].stem}+{TRIES}.efi"
        kernels[0].rename(folder / counted)
        top = sorted(str(path) for path in folder.iterdir() if path.name != counted)
        process.run(["mcopy", "-s", "-Q", "-i", target, *top, "::/"], timeout_sec=120, env=env)
        process.run(["mcopy", "-Q", "-i", target, str(folder / counted), f"::/EFI/Linux/{counted}"], timeout_sec=120, env=env)
    with request.disk.open("r+b") as stream:
        os.fsync(stream.fileno())
    return kernels[0].stem.removeprefix("hypernet_")
