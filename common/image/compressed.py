# SPDX-License-Identifier: Apache-2.0
"""The compressed form of an image as a local file, looked at and verified through its manifest."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import replace
from pathlib import Path

from common.errors import InvalidArgument
from common.image import content, source, stream
from common.image import verify as verification
from common.image.errors import ChecksumMismatch, Truncated
from common.image.frames import FrameOrigin, parse_table
from common.image.origin import LocalOrigin, Origin, Region
from common.manifest import Extent, Manifest

SUFFIX = ".zst"
_ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1


def is_compressed(image: source.Image) -> bool:
    """Whether the file begins as the compressed form does and an image never does."""
    return os.pread(image.fd, len(_ZSTD), 0) == _ZSTD


def statement(image: source.Image) -> source.Statement:
    """hypernet-X.Y.Z.manifest.json beside hypernet-X.Y.Z.img.zst. Raises InvalidArgument."""
    plain = replace(image, path=image.path.with_name(image.path.name.removesuffix(SUFFIX)))
    found = source.statement(plain)
    if found is None:
        raise InvalidArgument(
            f"There is no manifest beside {image.path.name}, which tells what is in it; copy it there."
        )
    return found


def unpacking(image: source.Image, manifest: Manifest, manifest_name: str) -> FrameOrigin:
    """The image whose compressed form is `image`. Raises InvalidArgument, Truncated, ChecksumMismatch."""
    name, transport = image.path.name, manifest.transport
    if transport is None:
        raise InvalidArgument(
            f"{manifest_name} describes no compressed form of the image; take the .img instead of {name}."
        )
    if image.size_bytes != transport.size_bytes:
        kind = Truncated if image.size_bytes < transport.size_bytes else ChecksumMismatch
        raise kind(
            f"{name} has {image.size_bytes} bytes but {manifest_name} says {transport.size_bytes}; copy or "
            "download it again."
        )
    origin = LocalOrigin(image.fd, image.size_bytes, name, image.path)
    raw = _checked(origin, transport.frames, manifest_name)
    table = parse_table(raw, image_bytes=manifest.image_bytes, transport=transport, name=name)
    return FrameOrigin(origin, table, name)


def check_bytes(
    image: source.Image, origin: Origin, manifest: Manifest, manifest_name: str, *, cancel: threading.Event
) -> None:
    """Whether all of the compressed form is as its manifest says. Raises ChecksumMismatch, Cancelled."""
    assert manifest.transport is not None
    packed = LocalOrigin(image.fd, image.size_bytes, image.path.name, image.path)
    _checked(packed, manifest.transport.index, manifest_name)
    digest = hashlib.sha256()
    fetch = origin.fetcher([(0, origin.size_bytes)])
    buffer = memoryview(bytearray(stream.CHUNK_BYTES))
    offset = 0
    while offset < origin.size_bytes:
        stream.check(cancel)
        count = fetch(buffer[: origin.size_bytes - offset], offset)
        digest.update(buffer[:count])
        offset += count
    if digest.hexdigest() != manifest.image_sha256:
        raise _unlike(image.path.name, manifest_name)


def peek(
    origin: Origin, manifest: Manifest, manifest_name: str, work: Path, *, cancel: threading.Event
) -> content.Content:
    """Content of the image, by its boot partition; files go to the folder `work`.

    Raises NotAnImage, ManifestInvalid.
    """
    part, esp = manifest.part("esp"), work / "esp.img"
    content.spool(Region(origin, part.offset_bytes, part.size_bytes, origin.name), esp, cancel=cancel)
    found = content.judge(origin.name, esp, work, root_hash=manifest.root_hash)
    verification.bind_content(manifest, manifest_name, origin.name, found)
    return found


def _checked(origin: Origin, extent: Extent, manifest_name: str) -> bytes:
    raw = origin.read(extent.offset_bytes, extent.size_bytes)
    if hashlib.sha256(raw).hexdigest() != extent.sha256:
        raise _unlike(origin.name, manifest_name)
    return raw


def _unlike(name: str, manifest_name: str) -> ChecksumMismatch:
    return ChecksumMismatch(f"{name} is not what {manifest_name} says; copy or download both again.")
