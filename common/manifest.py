# SPDX-License-Identifier: Apache-2.0
"""The signed statement about a release: hypernet-X.Y.Z.manifest.json.

The parser takes nothing on trust: it reads bytes whose signature may not have been checked yet, and a field
that is missing, empty or of another form refuses the whole file, so that no later check can be skipped for
want of a value. Keys that this version does not know are logged and ignored, except those that begin with
"crit_": a newer builder uses them for what an older system must not install without understanding it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from itertools import chain
from typing import Final, NoReturn

from common import duration, journal, strictjson, version
from common.errors import ERROR_PREFIX, AgentError

FORMAT: Final = 2
MAX_BYTES: Final = 64 << 10
SUFFIX: Final = ".manifest.json"
SERIAL_STEP: Final = 10**6
MAX_SERIAL: Final = strictjson.LIMIT - 1
ROLES: Final = ("esp", "root", "root-verity")
"""An image without hash tree lacks the last."""

MAX_TABLE_BYTES: Final = 4 << 20
"""Of the frame table of the compressed form, which a machine holds in memory: enough for 32 GiB in frames of
64 KiB; larger images need larger frames.
"""

SKIPPABLE_HEAD_BYTES: Final = 8
"""What precedes the block index in the compressed form (common.image.frames)."""

_WORD: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~^-]{0,200}")
_URL: Final = re.compile(r"(https://[!-~]{1,2000})?")
_CRITICAL: Final = "crit_"
_FORMS: Final = ("transport", "archive")
_MAX_NAMED_KEYS: Final = 8


def default_serial(of_version: str) -> int:
    """The serial of a release that states none: X*10^12 + Y*10^6 + Z, 0 if it does not begin with X.Y.Z.

    Builder and machine have to agree on it. It may exceed MAX_SERIAL, and a Y or Z of SERIAL_STEP or more
    makes it ambiguous: the builder asks for a serial then.
    """
    major, minor, patch = version.numbers(of_version) or (0, 0, 0)
    return (major * SERIAL_STEP + minor) * SERIAL_STEP + patch


class ManifestInvalid(AgentError):
    """The manifest is no manifest, or a field of it is missing or wrong."""

    dbus_name = ERROR_PREFIX + "ManifestInvalid"
    exit_status = 12


@dataclass(frozen=True, slots=True)
class Part:
    """A partition of the image; `role` is one of ROLES, sha256 64 lower-case hex digits."""

    role: str
    offset_bytes: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a file, and their SHA-256 (64 lower-case hex digits)."""

    offset_bytes: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Transport:
    """The compressed form of the image, a file beside it (common.image.frames).

    index: the block index, without the head of its frame. frames: the frame with the seek table, the end of
    the file.
    """

    name: str
    size_bytes: int
    frames: Extent
    index: Extent


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that a release says about itself; times in seconds since 1970, hashes in lower-case hex.

    min_version: nothing older may be installed once this release was blessed. min_from_version: the running
    version has to be at least this one. root_hash: without a hash tree the SHA-256 of the root partition.
    parts: one for each of ROLES, or of all but the hash tree. digest: SHA-256 of the file. archive: another
    compressed form, of larger frames: less to fetch where all of the image is needed.
    """

    product: str
    arch: str
    channel: str
    version: str
    serial: int
    issued_sec: int
    expires_sec: int
    min_version: str
    min_from_version: str
    key_epoch: int
    config_schema: int
    root_hash: str
    image_name: str
    image_bytes: int
    image_sha256: str
    parts: tuple[Part, ...]
    uki_bytes: int
    uki_sha256: str
    notes_url: str
    digest: str
    transport: Transport | None = None
    archive: Transport | None = None

    @property
    def verity(self) -> bool:
        """Whether the image has a hash tree."""
        return any(part.role == "root-verity" for part in self.parts)

    def part(self, role: str) -> Part:
        """The partition with this role, one of ROLES; the hash tree's only if the image has one."""
        return next(part for part in self.parts if part.role == role)


def parse(raw: bytes, *, name: str) -> Manifest:
    """Read a manifest; `name` is its file in errors. Raises ManifestInvalid."""
    if len(raw) > MAX_BYTES:
        _refuse(name, f"it has {len(raw)} bytes, at most {MAX_BYTES} are allowed")
    try:
        return _read(raw, name)
    except strictjson.Refused as error:
        _refuse(name, str(error))


def _read(raw: bytes, name: str) -> Manifest:
    top = strictjson.parse(raw)
    written = top.number("format", minimum=1)
    if written != FORMAT:
        raise ManifestInvalid(
            f"{name} has format {written}, this system reads format {FORMAT}; get a release for this "
            "system from the vendor."
        )
    image, uki = top.member("image"), top.member("uki")
    partitions = top.members("partitions")
    forms = {key: top.member(key) for key in _FORMS if top.has(key)}
    extents = {key: (item.member("frames"), item.member("index")) for key, item in forms.items()}
    transports = {key: _transport(item, *extents[key]) for key, item in forms.items()}
    manifest = Manifest(
        product=top.text("product", _WORD, "a word of lower-case letters and digits"),
        arch=top.text("arch", _WORD, "a word of lower-case letters and digits"),
        channel=top.text("channel", _WORD, "a word of lower-case letters and digits"),
        version=_version(top, "version"),
        serial=top.number("serial"),
        issued_sec=top.time_sec("issued"),
        expires_sec=top.time_sec("expires"),
        min_version=_version(top, "min_version"),
        min_from_version=_version(top, "min_from_version"),
        key_epoch=top.number("key_epoch"),
        config_schema=top.number("config_schema"),
        root_hash=top.sha256("root_hash"),
        image_name=image.text("name", _FILE_NAME, "the plain name of a file"),
        image_bytes=image.number("size", minimum=1),
        image_sha256=image.sha256("sha256"),
        parts=tuple(_part(item) for item in partitions),
        uki_bytes=uki.number("size", minimum=1),
        uki_sha256=uki.sha256("sha256"),
        notes_url=top.text("notes_url", _URL, "an address that begins with https://", default=""),
        digest=hashlib.sha256(raw).hexdigest(),
        transport=transports.get("transport"),
        archive=transports.get("archive"),
    )
    _check(manifest, name)
    read = (top, image, uki, *partitions, *forms.values(), *chain.from_iterable(extents.values()))
    unknown = [key for item in read for key in item.unknown()]
    _judge_unknown(unknown, name)
    return manifest


def render(manifest: Manifest) -> bytes:
    """The file for a manifest, always the same bytes for the same fields; `digest` is not part of it."""
    fields: dict[str, object] = {
        "format": FORMAT,
        "product": manifest.product,
        "arch": manifest.arch,
        "channel": manifest.channel,
        "version": manifest.version,
        "serial": manifest.serial,
        "issued": duration.format_time(manifest.issued_sec),
        "expires": duration.format_time(manifest.expires_sec),
        "min_version": manifest.min_version,
        "min_from_version": manifest.min_from_version,
        "key_epoch": manifest.key_epoch,
        "config_schema": manifest.config_schema,
        "root_hash": manifest.root_hash,
        "image": {
            "name": manifest.image_name,
            "size": manifest.image_bytes,
            "sha256": manifest.image_sha256,
        },
        "partitions": [
            {"role": part.role, "offset": part.offset_bytes, "size": part.size_bytes, "sha256": part.sha256}
            for part in manifest.parts
        ],
        "uki": {"size": manifest.uki_bytes, "sha256": manifest.uki_sha256},
        "notes_url": manifest.notes_url,
    }
    for key in _FORMS:
        form: Transport | None = getattr(manifest, key)
        if form is not None:
            fields[key] = {
                "name": form.name,
                "size": form.size_bytes,
                "frames": _rendered(form.frames),
                "index": _rendered(form.index),
            }
    return (json.dumps(fields, sort_keys=True, indent=1) + "\n").encode("ascii")


def _check(manifest: Manifest, name: str) -> None:
    """What no single field can show."""
    if manifest.issued_sec >= manifest.expires_sec:
        _refuse(name, "it expires before it was issued")
    for key, bound in (
        ("min_version", manifest.min_version),
        ("min_from_version", manifest.min_from_version),
    ):
        if version.compare(bound, manifest.version) > 0:
            _refuse(name, f"{key} {bound} is newer than the release itself, {manifest.version}")
    roles = ROLES if manifest.verity else ROLES[:-1]
    if sorted(part.role for part in manifest.parts) != sorted(roles):
        _refuse(name, f"partitions has to list each of {', '.join(ROLES)} once")
    if not manifest.verity and manifest.root_hash != manifest.part("root").sha256:
        _refuse(
            name, "without a partition root-verity, root_hash has to be the sha256 of the partition root"
        )
    end_bytes = 0
    for part in sorted(manifest.parts, key=lambda part: part.offset_bytes):
        if part.offset_bytes < end_bytes:
            _refuse(name, f"partition {part.role} overlaps another one")
        end_bytes = part.offset_bytes + part.size_bytes
        if end_bytes > manifest.image_bytes:
            _refuse(name, f"partition {part.role} ends behind the end of the image")
    for key in _FORMS:
        form: Transport | None = getattr(manifest, key)
        if form is not None:
            _check_transport(form, manifest.image_bytes, key, name)


def _check_transport(transport: Transport, image_bytes: int, key: str, name: str) -> None:
    """Frames of the image, index and table have to follow each other and be the whole file."""
    frames, index = transport.frames, transport.index
    if frames.size_bytes > MAX_TABLE_BYTES:
        _refuse(name, f"{key}.frames.size may be at most {MAX_TABLE_BYTES}")
    if index.size_bytes > (image_bytes >> 8) + (1 << 10):
        _refuse(name, f"{key}.index.size is more than an image of this size can have")
    if (
        index.offset_bytes <= SKIPPABLE_HEAD_BYTES
        or index.offset_bytes + index.size_bytes != frames.offset_bytes
        or frames.offset_bytes + frames.size_bytes != transport.size_bytes
    ):
        _refuse(name, f"{key}.index and {key}.frames have to be the end of the file, in this order")


def _version(item: strictjson.Object, key: str) -> str:
    text = item.text(key)
    if not version.is_sane(text):
        item.refuse(key, "has to be a version X.Y.Z")
    return text


def _part(item: strictjson.Object) -> Part:
    return Part(
        role=item.text("role", _WORD, f"one of {', '.join(ROLES)}"),
        offset_bytes=item.number("offset"),
        size_bytes=item.number("size", minimum=1),
        sha256=item.sha256("sha256"),
    )


def _transport(item: strictjson.Object, frames: strictjson.Object, index: strictjson.Object) -> Transport:
    return Transport(
        name=item.text("name", _FILE_NAME, "the plain name of a file"),
        size_bytes=item.number("size", minimum=1),
        frames=_extent(frames),
        index=_extent(index),
    )


def _extent(item: strictjson.Object) -> Extent:
    return Extent(
        offset_bytes=item.number("offset"),
        size_bytes=item.number("size", minimum=1),
        sha256=item.sha256("sha256"),
    )


def _rendered(extent: Extent) -> dict[str, object]:
    return {"offset": extent.offset_bytes, "size": extent.size_bytes, "sha256": extent.sha256}


def _judge_unknown(unknown: list[strictjson.Unknown], name: str) -> None:
    """Refuse critical keys, log the others; both only by a few, for they may be anybody's words."""
    for item in unknown:
        if item.key.startswith(_CRITICAL):
            raise ManifestInvalid(
                f"{name} demands {item.place}, which this system does not know; install an older release "
                "first."
            )
    if unknown:
        places = ", ".join(item.place for item in unknown[:_MAX_NAMED_KEYS])
        journal.send(f"{name} has keys that this system does not know: {places}.", priority=journal.WARNING)


def _refuse(name: str, complaint: str) -> NoReturn:
    raise ManifestInvalid(
        f"{name} is no valid manifest: {complaint}; get the release again from the vendor."
    )
