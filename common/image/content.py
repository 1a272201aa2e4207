# SPDX-License-Identifier: Apache-2.0
"""What an image holds, as its kernel image and its hash tree tell it, and whether they fit together."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from common import process, uki, version
from common.errors import AgentError
from common.image import source, stream, verity
from common.image.errors import misbuilt
from common.image.origin import LocalOrigin, Origin, Region

_MTOOLS_ENV = {"MTOOLS_SKIP_CHECK": "1", "MTOOLSRC": "/dev/null"}
_MTOOLS_TIMEOUT_SEC = 120.0
_UKI_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~^-]{0,200}\.efi", re.ASCII)
_ZEROS = bytes(stream.CHUNK_BYTES)


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
    """Content of an image without reading its root; files go to the folder `work`. Raises as `judge`.

    The root hash of an image without hash tree is what its kernel image says.
    """
    origin = LocalOrigin(image.fd, image.size_bytes, image.path.name, image.path)
    path = work / "esp.img"
    spool(
        Region(origin, layout.esp.offset_bytes, layout.esp.size_bytes, image.path.name), path, cancel=cancel
    )
    if layout.tree is None:
        return judge(image.path.name, path, work, layout=layout)
    head = origin.read(layout.tree.offset_bytes, min(verity.HEAD_BYTES, layout.tree.size_bytes))
    root_hash = tree_root_hash(image.path.name, layout.root.size_bytes, head)
    return judge(image.path.name, path, work, root_hash=root_hash, layout=layout)


def spool(
    origin: Origin, path: Path, *, cancel: threading.Event, advance: stream.Advance = lambda count: None
) -> str:
    """Copy all of an origin into the new file `path`, zeros as holes; returns its SHA-256 (64 hex digits).

    Raises NoSpace, Cancelled, and as the origin does.
    """
    digest = hashlib.sha256()
    fetch = origin.fetcher([(0, origin.size_bytes)])
    buffer = memoryview(bytearray(min(stream.CHUNK_BYTES, origin.size_bytes)))
    with new_file(path, origin.size_bytes) as file:
        offset = 0
        while offset < origin.size_bytes:
            stream.check(cancel)
            chunk = buffer[: fetch(buffer[: origin.size_bytes - offset], offset)]
            digest.update(chunk)
            write_sparse(file.fileno(), offset, chunk, name=str(path))
            offset += len(chunk)
            advance(len(chunk))
    return digest.hexdigest()


@contextmanager
def new_file(path: Path, size_bytes: int) -> Iterator[BinaryIO]:
    """The new file `path`, so many zeros long, open for writing. Raises AgentError."""
    try:
        file = open(path, "xb", buffering=0)  # noqa: SIM115
        file.truncate(size_bytes)
    except OSError as error:
        raise AgentError(f"{path} cannot be made: {error.strerror}; check the disk.") from error
    with file:
        yield file


def tree_root_hash(name: str, root_bytes: int, head: bytes) -> str:
    """Root hash of the hash tree that begins with `head`, for a root partition of `root_bytes`.

    Raises NotAnImage.
    """
    tree = verity.read(head, name=name)
    if tree.data_bytes > root_bytes:
        raise misbuilt(name, "its hash tree covers more than its root partition")
    return tree.root_hash


def judge(
    name: str, esp: Path, work: Path, *, root_hash: str = "", layout: source.Layout | None = None
) -> Content:
    """Content of an image whose ESP is the file `esp`; `work` is a folder for its kernel image.

    root_hash: what the kernel image has to start. layout: whose partition UUIDs have to fit. Raises
    NotAnImage if the parts do not fit together.
    """
    kernel = extract_uki(esp, work, name=name)
    try:
        facts = uki.read(kernel)
    except uki.NotAUki as error:
        raise misbuilt(name, f"its kernel image is damaged ({str(error).rstrip('.')})") from error
    if not version.is_sane(facts.image_version):
        raise misbuilt(name, f"its version '{facts.image_version[:64]}' is not of the form X.Y.Z")
    if not facts.root_hash or facts.root_hash != (root_hash or facts.root_hash):
        raise misbuilt(name, "its kernel image expects another root hash than the image has")
    if layout is not None and facts.verity != (layout.tree is not None):
        raise misbuilt(name, "its kernel image and its partitions disagree about a hash tree")
    if layout is not None and not facts.root_hash.startswith(_identity(layout)):
        raise misbuilt(name, "its partition UUIDs are not made of its root hash")
    with open(kernel, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Content(
        product=facts.image_id,
        version=facts.image_version,
        root_hash=facts.root_hash,
        cmdline=facts.cmdline,
        uki=kernel,
        uki_bytes=kernel.stat().st_size,
        uki_sha256=sha256,
    )


def _identity(layout: source.Layout) -> str:
    """As much of the root hash as the partition UUIDs hold: without a hash tree the first half of it."""
    return layout.root.unique_uuid.hex + (layout.tree.unique_uuid.hex if layout.tree else "")


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
    """Write a chunk (at most stream.CHUNK_BYTES) of a spooled file; zeros stay a hole of it."""
    if not data[0] and data.tobytes() == _ZEROS[: len(data)]:
        return
    os.lseek(fd, offset, os.SEEK_SET)
    stream.write_all(fd, data, name=name)
