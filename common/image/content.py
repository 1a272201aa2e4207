# SPDX-License-Identifier: Apache-2.0
"""What an image holds, as its kernel image and its hash tree tell it, and whether the two fit together."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

from common import process, uki, version
from common.errors import AgentError
from common.image import source, stream, verity
from common.image.errors import Truncated, misbuilt

_MTOOLS_ENV = {"MTOOLS_SKIP_CHECK": "1", "MTOOLSRC": "/dev/null"}
_MTOOLS_TIMEOUT_SEC = 120.0
_UKI_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~^-]{0,200}\.efi", re.ASCII)
_ZEROS = memoryview(bytes(stream.CHUNK_BYTES))


@dataclass(frozen=True, slots=True)
class Content:
    """An image whose parts fit together; `uki` is its kernel image, a file in the work folder.

    root_hash and uki_sha256 are 64 hex digits, cmdline is the kernel command line of the UKI.
    """

    product: str
    version: str
    root_hash: str
    cmdline: str
    uki: Path
    uki_bytes: int
    uki_sha256: str


def peek(image: source.Image, layout: source.Layout, work: Path, *, cancel: threading.Event) -> Content:
    """Content of an image without reading its root; files go to the folder `work`. Raises as `judge`."""
    spool = work / "esp.img"
    place = (image.fd, layout.esp.offset_bytes, layout.esp.size_bytes)
    with open(spool, "xb") as esp:
        esp.truncate(layout.esp.size_bytes)
        offset = 0
        for chunk in stream.chunks(*place, name=image.path.name, cancel=cancel):
            write_sparse(esp.fileno(), offset, chunk, name=str(spool))
            offset += len(chunk)
    try:
        head = os.pread(image.fd, verity.HEAD_BYTES, layout.tree.offset_bytes)
    except OSError as error:
        raise AgentError(f"{image.path.name} cannot be read: {error.strerror}.") from error
    if len(head) < verity.HEAD_BYTES:
        raise Truncated(f"{image.path.name} ends inside its hash tree; copy or download it again.")
    return judge(image.path.name, layout, head, spool, work)


def judge(name: str, layout: source.Layout, head: bytes, spool: Path, work: Path) -> Content:
    """Content of an image whose ESP is the file `spool` and whose hash tree begins with `head`.

    Raises NotAnImage if the parts do not fit together.
    """
    tree = verity.read(head, name=name)
    if tree.data_bytes > layout.root.size_bytes:
        raise misbuilt(name, "its hash tree covers more than its root partition")
    kernel = extract_uki(spool, work, name=name)
    try:
        facts = uki.read(kernel)
    except uki.NotAUki as error:
        raise misbuilt(name, f"its kernel image is damaged ({str(error).rstrip('.')})") from error
    if not version.is_sane(facts.image_version):
        raise misbuilt(name, f"its version '{facts.image_version[:64]}' is not of the form X.Y.Z")
    if facts.root_hash != tree.root_hash:
        raise misbuilt(name, "its kernel image expects another root hash than its hash tree has")
    if layout.root.unique_uuid.hex + layout.tree.unique_uuid.hex != tree.root_hash:
        raise misbuilt(name, "its partition UUIDs are not made of its root hash")
    with open(kernel, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Content(
        product=facts.image_id,
        version=facts.image_version,
        root_hash=tree.root_hash,
        cmdline=facts.cmdline,
        uki=kernel,
        uki_bytes=kernel.stat().st_size,
        uki_sha256=sha256,
    )


def extract_uki(spool: Path, work: Path, *, name: str) -> Path:
    """The only EFI/Linux/*.efi of a FAT image, copied into `work`. Raises NotAnImage."""
    try:
        listing = process.run(
            ["mdir", "-i", str(spool), "-b", "::/EFI/Linux"],
            timeout_sec=_MTOOLS_TIMEOUT_SEC,
            env=_MTOOLS_ENV,
        )
    except process.ProcessError as error:
        why = f"its ESP has no readable folder EFI/Linux ({str(error).rstrip('.')})"
        raise misbuilt(name, why) from error
    paths = listing.stdout.decode("utf-8", errors="replace").splitlines()
    kernels = [path.rpartition("/")[2] for path in paths if path.lower().endswith(".efi")]
    if len(kernels) != 1 or not _UKI_NAME.fullmatch(kernels[0]):
        raise misbuilt(
            name, f"its ESP holds {len(kernels)} kernel images in EFI/Linux, exactly one is needed"
        )
    target = work / "kernel.efi"
    try:
        process.run(
            ["mcopy", "-n", "-i", str(spool), f"::/EFI/Linux/{kernels[0]}", str(target)],
            timeout_sec=_MTOOLS_TIMEOUT_SEC,
            env=_MTOOLS_ENV,
        )
    except process.ProcessError as error:
        why = f"its kernel image cannot be read from its ESP ({str(error).rstrip('.')})"
        raise misbuilt(name, why) from error
    return target


def write_sparse(fd: int, offset: int, data: memoryview, *, name: str) -> None:
    """Write a chunk (at most stream.CHUNK_BYTES) of the spooled ESP; zeros stay a hole of the file."""
    if data == _ZEROS[: len(data)]:
        return
    os.lseek(fd, offset, os.SEEK_SET)
    stream.write_all(fd, data, name=name)
