# SPDX-License-Identifier: Apache-2.0
"""Everything about an image file for people and programs that look at it, on any machine."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from common import files, trust
from common import manifest as manifests
from common.image import content, source
from common.image import verify as verification

ARCHITECTURE = "x86-64"
"""The only one whose partition types `source.layout` accepts."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """One image; times are seconds since 1970, what only a manifest says is 0 or "" without one.

    signers are primary fingerprints and empty if nothing was verified; partitions are (role, bytes).
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


def inspect(
    path: Path, *, store: trust.TrustStore | None, cancel: threading.Event | None = None
) -> Inspection:
    """Look at an image; with `store` its signature and every byte are verified, else only parts are read.

    A manifest is used either way and has to fit the image. Raises as common.image.verify.verify does.
    """
    cancel = cancel or threading.Event()
    signers: tuple[str, ...] = ()
    with source.opened(str(path.absolute())) as image, files.scratch_folder() as work:
        layout = source.layout(image)
        if store is None:
            found = content.peek(image, layout, work, cancel=cancel)
            manifest = _unverified(image, layout, found)
        else:
            verified = verification.verify(
                image, layout, store, work, cancel=cancel, advance=lambda count: None
            )
            found, manifest, signers = verified.content, verified.manifest, verified.signers
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
        signers=signers,
        kernel_cmdline=found.cmdline,
        partitions=tuple((role, part.size_bytes) for role, part in layout.by_role().items()),
    )


def _unverified(
    image: source.Image, layout: source.Layout, found: content.Content
) -> manifests.Manifest | None:
    stated = source.statement(image)
    if stated is None:
        return None
    manifest = manifests.parse(stated.raw, name=stated.name)
    verification.bind_layout(manifest, stated.name, image, layout)
    verification.bind_content(manifest, stated.name, image.path.name, found)
    return manifest
