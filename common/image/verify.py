# SPDX-License-Identifier: Apache-2.0
"""One read of the whole image: its hash, the hash of each partition, its signature, and its ESP spooled
aside.

With a manifest the signature is the manifest's and the image is bound to it, by size, hash, partitions, root
hash, product, version and kernel image. Without one the image's own .sha256 and .asc are needed. Nothing is
changed here. What is written later must have the partition hashes found here, so an image that changes
between the two reads is noticed.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from common import gpt, trust
from common import manifest as manifests
from common.image import content, source, stream, verity
from common.image.errors import ChecksumMismatch, Truncated
from common.manifest import Manifest, ManifestInvalid, Part


class Statement(Protocol):
    """A manifest as it came, of which nothing is verified yet; `name` is its file."""

    @property
    def name(self) -> str: ...
    @property
    def raw(self) -> bytes: ...

    def signature(self) -> tuple[str, bytes]:
        """(file name, content) of its detached signature. Raises NoSignature."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A genuine image: what it holds, hex SHA-256 of the whole, its partitions, and who signed it.

    signers are primary fingerprints, signed_sec is the time of the newest signature (seconds since 1970);
    manifest is None for an image that was signed as a whole.
    """

    content: content.Content
    sha256: str
    parts: tuple[Part, ...]
    signers: tuple[str, ...]
    signed_sec: int
    manifest: Manifest | None


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
class _Part:
    """Hashes a partition and keeps its first bytes."""

    keep_bytes: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    head: bytearray = field(default_factory=bytearray)

    def take(self, offset: int, data: memoryview) -> None:
        self.digest.update(data)
        if offset < self.keep_bytes:
            self.head += data[: self.keep_bytes - offset]


def verify(
    image: source.Image,
    layout: source.Layout,
    store: trust.TrustStore,
    work: Path,
    *,
    statement: Statement | None,
    channel: str = "",
    now_sec: float | None = None,
    cancel: threading.Event,
    advance: stream.Advance = lambda count: None,
) -> Verified:
    """Check everything about an image that can be checked by reading it; files go to the folder `work`.

    statement: its manifest, if there is one. channel: whose keys may sign an image without a manifest (a
    manifest names its own), "" for any. now_sec: seconds since 1970, None for the clock. Raises Truncated,
    ChecksumMismatch, ManifestInvalid, the errors of common.trust, NotAnImage, Cancelled.
    """
    name = image.path.name
    spool, esp = work / "esp.img", hashlib.sha256()
    whole, root, tree = hashlib.sha256(), _Part(), _Part(verity.HEAD_BYTES)
    with ExitStack() as stack:
        verifier = manifest = None
        if statement is not None:
            manifest, accepted = vouched(statement, store, now_sec)
            bind_layout(manifest, statement.name, image, layout)
            expected, where = manifest.image_sha256, statement.name
        else:
            expected, where = source.expected_sha256(image), f"{name}.sha256"
            asc_name, asc = source.signature(image)
            verifier = stack.enter_context(
                trust.Verifier(store, asc, name=asc_name, channel=channel, now_sec=now_sec)
            )
        spooled = stack.enter_context(content.new_file(spool, layout.esp.size_bytes))

        def take_esp(offset: int, data: memoryview) -> None:
            esp.update(data)
            content.write_sparse(spooled.fileno(), offset, data, name=str(spool))

        regions = [_Region(layout.root, root.take), _Region(layout.esp, take_esp)]
        if layout.tree is not None:
            regions.append(_Region(layout.tree, tree.take))
        offset = 0
        for chunk in stream.chunks(image.fd, 0, image.size_bytes, name=name, cancel=cancel):
            if verifier is not None:
                verifier.write(chunk)  # first: gpgv hashes while we do
            whole.update(chunk)
            for region in regions:
                region.feed(offset, chunk)
            offset += len(chunk)
            advance(len(chunk))
        if whole.hexdigest() != expected:
            raise ChecksumMismatch(
                f"{name} has another SHA-256 than {where} says; copy or download both again."
            )
        if verifier is not None:
            accepted = verifier.finish()
    root_hash = root.digest.hexdigest()
    if layout.tree is not None:
        root_hash = content.tree_root_hash(name, layout.root.size_bytes, bytes(tree.head))
    found = content.judge(name, spool, work, root_hash=root_hash, layout=layout)
    hashes = {
        "esp": esp.hexdigest(),
        "root": root.digest.hexdigest(),
        "root-verity": tree.digest.hexdigest(),
    }
    if manifest is not None and statement is not None:
        for part in manifest.parts:
            if part.sha256 != hashes[part.role]:
                raise contradiction(statement.name, name, f"the SHA-256 of its partition {part.role}")
        bind_content(manifest, statement.name, name, found)
    return Verified(
        content=found,
        sha256=whole.hexdigest(),
        parts=tuple(
            Part(role, place.offset_bytes, place.size_bytes, hashes[role])
            for role, place in layout.by_role().items()
        ),
        signers=accepted.fingerprints,
        signed_sec=accepted.created_sec,
        manifest=manifest,
    )


def vouched(
    statement: Statement, store: trust.TrustStore, now_sec: float | None = None
) -> tuple[Manifest, trust.Accepted]:
    """The manifest once its signature holds, and who signed it. Nothing of it is parsed before.

    Raises ManifestInvalid and the errors of common.trust.
    """
    asc_name, asc = statement.signature()

    def accepted(channel: str) -> trust.Accepted:
        return trust.verify_bytes(
            store,
            statement.raw,
            asc,
            name=asc_name,
            purpose="release",
            channel=channel,
            now_sec=now_sec,
        )

    accepted("")
    manifest = manifests.parse(statement.raw, name=statement.name)
    return manifest, accepted(manifest.channel)  # its keys must be good for the channel that it names


def bind_layout(manifest: Manifest, manifest_name: str, image: source.Image, layout: source.Layout) -> None:
    """Whether size and partitions of the image are those of the manifest.

    Raises Truncated, ChecksumMismatch, ManifestInvalid.
    """
    name = image.path.name
    if image.size_bytes < manifest.image_bytes:
        raise Truncated(
            f"{name} has {image.size_bytes} bytes but {manifest_name} says {manifest.image_bytes}; copy or "
            "download it again."
        )
    if image.size_bytes > manifest.image_bytes:
        raise ChecksumMismatch(
            f"{name} has {image.size_bytes} bytes, more than the {manifest.image_bytes} that "
            f"{manifest_name} says; copy or download both again."
        )
    roles = layout.by_role()
    if len(manifest.parts) != len(roles):
        raise contradiction(manifest_name, name, "whether it has a hash tree")
    for role, partition in roles.items():
        part = manifest.part(role)
        if (part.offset_bytes, part.size_bytes) != (partition.offset_bytes, partition.size_bytes):
            raise ChecksumMismatch(
                f"{name} has its partition {role} at another place than {manifest_name} says; copy or "
                "download both again."
            )


def bind_content(manifest: Manifest, manifest_name: str, name: str, found: content.Content) -> None:
    """Whether the manifest describes what the image holds. Raises ManifestInvalid."""
    for what, said, have in (
        ("product", manifest.product, found.product),
        ("version", manifest.version, found.version),
        ("root hash", manifest.root_hash, found.root_hash),
        ("size of its kernel image", manifest.uki_bytes, found.uki_bytes),
        ("SHA-256 of its kernel image", manifest.uki_sha256, found.uki_sha256),
    ):
        if said != have:
            raise contradiction(manifest_name, name, f"the {what}")


def contradiction(manifest_name: str, name: str, what: str) -> ManifestInvalid:
    """The error for a manifest and an image that are genuine but do not belong together."""
    return ManifestInvalid(
        f"{manifest_name} and {name} differ in {what}; the release was not built properly, get another from "
        "the vendor."
    )
