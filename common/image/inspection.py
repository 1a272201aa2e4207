# SPDX-License-Identifier: Apache-2.0
"""Everything about an image file for people and programs that look at it, on any machine."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from common import files, lint, trust
from common import manifest as manifests
from common.image import compressed, content, source
from common.image import verify as verification
from common.image.origin import LocalOrigin, Origin
from common.manifest import Manifest

ARCHITECTURE = "x86-64"
"""The only one whose partition types `source.layout` accepts."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """One image; times are seconds since 1970, what only a manifest says is 0 or "" without one.

    signers are primary fingerprints and empty if nothing was verified; partitions are (role, bytes).
    filesystem: of the root, "" if unknown; verity: whether there is a hash tree. compressed_bytes: size of
    the compressed form that the manifest names, 0 for none.
    """

    path: Path
    bytes: int
    version: str
    product: str
    arch: str
    channel: str
    root_hash: str
    serial: int
    issued_sec: int
    expires_sec: int
    has_manifest: bool
    signers: tuple[str, ...]
    kernel_cmdline: str
    partitions: tuple[tuple[str, int], ...]
    filesystem: str = ""
    verity: bool = True
    compressed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was found in the image itself. root: its bytes from where the root partition begins."""

    content: content.Content
    manifest: Manifest | None
    signers: tuple[str, ...]
    partitions: tuple[tuple[str, int], ...]
    head: bytes


def inspect(
    path: Path, *, store: trust.TrustStore | None, cancel: threading.Event | None = None
) -> Inspection:
    """Look at an image, or at the compressed form of one; with `store` its signature and every byte are
    verified, else only parts are read.

    A manifest is used either way and has to fit the image; the compressed form needs one. Raises as
    common.image.verify.verify does.
    """
    cancel = cancel or threading.Event()
    with source.opened(str(path.absolute())) as image, files.scratch_folder() as work:
        look = _packed if compressed.is_compressed(image) else _plain
        seen = look(image, store, work, cancel)
        manifest, found = seen.manifest, seen.content
        transport = manifest.transport if manifest else None
        return Inspection(
            path=path,
            bytes=image.size_bytes,
            version=found.version,
            product=found.product,
            arch=manifest.arch if manifest else ARCHITECTURE,
            channel=manifest.channel if manifest else "",
            root_hash=found.root_hash,
            serial=manifest.serial if manifest else 0,
            issued_sec=manifest.issued_sec if manifest else 0,
            expires_sec=manifest.expires_sec if manifest else 0,
            has_manifest=manifest is not None,
            signers=seen.signers,
            kernel_cmdline=found.cmdline,
            partitions=seen.partitions,
            filesystem=lint.kind_of(seen.head),
            verity="root-verity" in dict(seen.partitions),
            compressed_bytes=transport.size_bytes if transport else 0,
        )


def _plain(
    image: source.Image, store: trust.TrustStore | None, work: Path, cancel: threading.Event
) -> _Seen:
    layout, statement = source.layout(image), source.statement(image)
    signers: tuple[str, ...] = ()
    if store is None:
        found = content.peek(image, layout, work, cancel=cancel)
        manifest = None
        if statement is not None:
            manifest = manifests.parse(statement.raw, name=statement.name)
            verification.bind_layout(manifest, statement.name, image, layout)
            verification.bind_content(manifest, statement.name, image.path.name, found)
    else:
        verified = verification.verify(image, layout, store, work, statement=statement, cancel=cancel)
        found, manifest, signers = verified.content, verified.manifest, verified.signers
    partitions = tuple((role, part.size_bytes) for role, part in layout.by_role().items())
    origin = LocalOrigin(image.fd, image.size_bytes, image.path.name, image.path)
    head = _head(origin, layout.root.offset_bytes, layout.root.size_bytes)
    return _Seen(found, manifest, signers, partitions, head)


def _packed(
    image: source.Image, store: trust.TrustStore | None, work: Path, cancel: threading.Event
) -> _Seen:
    statement = compressed.statement(image)
    signers: tuple[str, ...] = ()
    if store is None:
        manifest = manifests.parse(statement.raw, name=statement.name)
    else:
        manifest, accepted = verification.vouched(statement, store)
        signers = accepted.fingerprints
    origin = compressed.unpacking(image, manifest, statement.name)
    if store is not None:
        compressed.check_bytes(image, origin, manifest, statement.name, cancel=cancel)
    found = compressed.peek(origin, manifest, statement.name, work, cancel=cancel)
    partitions = tuple((part.role, part.size_bytes) for part in manifest.parts)
    root = manifest.part("root")
    return _Seen(found, manifest, signers, partitions, _head(origin, root.offset_bytes, root.size_bytes))


def _head(origin: Origin, offset: int, size: int) -> bytes:
    return origin.read(offset, min(size, lint.HEAD_BYTES))
