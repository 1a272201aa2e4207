# SPDX-License-Identifier: Apache-2.0
"""One read of the whole image: its hash, its signature, the hash of each partition, and its ESP spooled
aside.

Nothing on the disk is changed here. What is written later must have the partition hashes found here, so an
image that changes between the two reads is noticed.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agents.slot_manager import blockio, source, verity, version
from agents.slot_manager.errors import ChecksumMismatch, NotAnImage, WrongProduct
from common import gpt, process, trust, uki

PRODUCT = "hypernet"

_MTOOLS_ENV = {"MTOOLS_SKIP_CHECK": "1", "MTOOLSRC": "/dev/null"}
_MTOOLS_TIMEOUT_SEC = 120.0
_UKI_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~^-]{0,200}\.efi", re.ASCII)
_ZEROS = memoryview(bytes(blockio.CHUNK_BYTES))


@dataclass(frozen=True, slots=True)
class Verified:
    """An image that may be installed; hashes are hex SHA-256, `uki` is a file in the work folder."""

    version: str
    root_hash: str
    root_sha256: str
    tree_sha256: str
    uki: Path
    uki_bytes: int


@dataclass(slots=True)
class _Region:
    """A partition of the image, fed with every chunk of the file."""

    partition: gpt.Partition
    take: Callable[[int, memoryview], None]

    def feed(self, offset: int, chunk: memoryview) -> None:
        begin = max(self.partition.offset_bytes, offset)
        end = min(self.partition.end_bytes, offset + len(chunk))
        if begin < end:
            self.take(begin - self.partition.offset_bytes, chunk[begin - offset : end - offset])


@dataclass(slots=True)
class _Tree:
    """Hashes the tree partition and keeps its first blocks."""

    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    head: bytearray = field(default_factory=bytearray)

    def take(self, offset: int, data: memoryview) -> None:
        self.digest.update(data)
        if offset < verity.HEAD_BYTES:
            self.head += data[: verity.HEAD_BYTES - offset]


def verify(
    image: source.Image,
    layout: source.Layout,
    store: trust.TrustStore,
    work: Path,
    *,
    cancel: threading.Event,
    advance: blockio.Advance,
) -> Verified:
    """Check everything about an image that can be checked without writing; files go to the folder `work`.

    Raises Truncated, ChecksumMismatch, the errors of common.trust, NotAnImage, WrongProduct, Cancelled.
    """
    expected = source.expected_sha256(image)
    asc_name, asc = source.signature(image)
    whole, root, tree = hashlib.sha256(), hashlib.sha256(), _Tree()
    spool = work / "esp.img"
    with open(spool, "xb") as esp, trust.Verifier(store, asc, name=asc_name) as verifier:
        esp.truncate(layout.esp.size_bytes)
        regions = (
            _Region(layout.root, lambda _, data: root.update(data)),
            _Region(layout.tree, tree.take),
            _Region(layout.esp, lambda offset, data: _spool(esp.fileno(), offset, data)),
        )
        offset = 0
        for chunk in blockio.chunks(image.fd, 0, image.size_bytes, name=image.path.name, cancel=cancel):
            verifier.write(chunk)  # first: gpgv hashes while we do
            whole.update(chunk)
            for region in regions:
                region.feed(offset, chunk)
            offset += len(chunk)
            advance(len(chunk))
        if whole.hexdigest() != expected:
            raise ChecksumMismatch(
                f"{image.path.name} has another SHA-256 than {image.path.name}.sha256 says; copy or "
                "download both again."
            )
        verifier.finish()
    return _judge(
        image.path.name, layout, bytes(tree.head), root.hexdigest(), tree.digest.hexdigest(), spool, work
    )


def _judge(
    name: str,
    layout: source.Layout,
    head: bytes,
    root_sha256: str,
    tree_sha256: str,
    spool: Path,
    work: Path,
) -> Verified:
    """Whether the parts of a genuine image fit together."""
    tree = verity.read(head, name=name)
    if tree.data_bytes > layout.root.size_bytes:
        raise NotAnImage(
            f"{name}: its hash tree covers more than its root partition; it was not built properly."
        )
    kernel = extract_uki(spool, work, name=name)
    try:
        facts = uki.read(kernel)
    except uki.NotAUki as error:
        raise NotAnImage(f"{name}: its kernel image is damaged: {error}") from error
    if facts.image_id != PRODUCT:
        raise WrongProduct(f"{name} is an image of '{facts.image_id}', not of '{PRODUCT}'.")
    if not version.is_sane(facts.image_version):
        raise NotAnImage(f"{name}: its version '{facts.image_version}' is not of the form X.Y.Z.")
    if facts.root_hash != tree.root_hash:
        raise NotAnImage(f"{name}: its kernel image expects another root hash than its hash tree has.")
    if layout.root.unique_uuid.hex + layout.tree.unique_uuid.hex != tree.root_hash:
        raise NotAnImage(
            f"{name}: its partition UUIDs are not made of its root hash; it was not built properly."
        )
    return Verified(
        facts.image_version, tree.root_hash, root_sha256, tree_sha256, kernel, kernel.stat().st_size
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
        raise NotAnImage(f"{name}: its ESP has no readable folder EFI/Linux ({error}).") from error
    paths = listing.stdout.decode("utf-8", errors="replace").splitlines()
    kernels = [path.rpartition("/")[2] for path in paths if path.lower().endswith(".efi")]
    if len(kernels) != 1 or not _UKI_NAME.fullmatch(kernels[0]):
        raise NotAnImage(
            f"{name}: its ESP holds {len(kernels)} kernel images in EFI/Linux, exactly one is needed."
        )
    target = work / "kernel.efi"
    try:
        process.run(
            ["mcopy", "-n", "-i", str(spool), f"::/EFI/Linux/{kernels[0]}", str(target)],
            timeout_sec=_MTOOLS_TIMEOUT_SEC,
            env=_MTOOLS_ENV,
        )
    except process.ProcessError as error:
        raise NotAnImage(f"{name}: its kernel image cannot be read from its ESP ({error}).") from error
    return target


def _spool(fd: int, offset: int, data: memoryview) -> None:
    """Write a chunk of the ESP; zeros stay a hole of the sparse file."""
    if data == _ZEROS[: len(data)]:
        return
    os.lseek(fd, offset, os.SEEK_SET)
    blockio.write_all(fd, data, name="the spool file of the ESP")
