# SPDX-License-Identifier: Apache-2.0
"""The manifest of an image: what the vendor states about it, and what is read from the image itself."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from common import lint as rules
from common import manifest
from common.image import ARCHITECTURE
from common.version import compare, numbers
from hypernet_release import lint
from hypernet_release.cache import file_digest
from hypernet_release.config import Statement
from hypernet_release.errors import BuildError

_CHUNK = 4 << 20


def write_manifest(
    image: Path,
    statement: Statement,
    *,
    issued_sec: int,
    transport: manifest.Transport | None = None,
    archive: manifest.Transport | None = None,
) -> Path:
    """Write hypernet-X.Y.Z.manifest.json beside hypernet-X.Y.Z.img; returns its path.

    issued_sec: seconds since 1970. transport, archive: its compressed forms, if it has them.

    Raises BuildError, and what reading the image raises.
    """
    with lint.opened(image) as found:
        parts = tuple(
            manifest.Part(
                role,
                part.offset_bytes,
                part.size_bytes,
                _digest(found.image.fd, part.offset_bytes, part.size_bytes),
            )
            for role, part in found.layout.by_role().items()
        )
        release = manifest.Manifest(
            product=found.content.product,
            arch=ARCHITECTURE,
            channel=statement.channel,
            version=found.content.version,
            serial=serial_of(found.content.version) if statement.serial is None else statement.serial,
            issued_sec=issued_sec,
            expires_sec=issued_sec + int(statement.valid_sec),
            min_version=statement.min_version,
            min_from_version=statement.min_from_version,
            key_epoch=rules.trusted_keys(found.root).epoch,
            config_schema=rules.config_version(found.root),
            root_hash=found.content.root_hash,
            image_name=image.name,
            image_bytes=found.image.size_bytes,
            image_sha256=file_digest(image),
            parts=parts,
            uki_bytes=found.content.uki_bytes,
            uki_sha256=found.content.uki_sha256,
            notes_url=statement.notes_url,
            digest="",
            transport=transport,
            archive=archive,
        )
    raw = manifest.render(release)
    path = image.with_name(image.name.removesuffix(".img") + manifest.SUFFIX)
    # What servers would refuse is found here, where the configuration can still be mended.
    manifest.parse(raw, name=path.name)
    path.write_bytes(raw)
    return path


def check(statement: Statement, version: str) -> None:
    """Refuse, before the long build, what no manifest of this version can state. Raises BuildError."""
    if statement.serial is None:
        serial_of(version)
    for key, bound in (
        ("min_version", statement.min_version),
        ("min_from_version", statement.min_from_version),
    ):
        if compare(bound, version) > 0:
            raise BuildError(
                f"{key}: {bound} is newer than the release itself, {version}; mend one of them."
            )


def serial_of(version: str) -> int:
    """The serial number of X.Y.Z, which rises with the version. Raises BuildError for too large a one."""
    parts, serial = numbers(version), manifest.default_serial(version)
    if not parts or max(parts[1:]) >= manifest.SERIAL_STEP or serial > manifest.MAX_SERIAL:
        raise BuildError(f"No serial number follows from the version {version}; give one with serial:.")
    return serial


def _digest(fd: int, offset: int, size: int) -> str:
    """SHA-256 (hex) of a part of a file."""
    digest = hashlib.sha256()
    end = offset + size
    while offset < end:
        chunk = os.pread(fd, min(_CHUNK, end - offset), offset)
        if not chunk:
            raise BuildError("The image ended while its manifest was made; build it again.")
        digest.update(chunk)
        offset += len(chunk)
    return digest.hexdigest()
