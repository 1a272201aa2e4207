# SPDX-License-Identifier: Apache-2.0
"""Manifests by machines that make things up: each is read whole or refused, and nothing else happens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from common import manifest
from common.manifest import Extent, Manifest, ManifestInvalid, Part, Transport
from tests.fakes.manifest_sample import NAME, SHIPPED, changed, text

# Members as an attacker may vary them, and any bytes at all.
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
)
PATHS = st.sampled_from(
    [
        *SHIPPED,
        *("image.size", "image.name", "uki.sha256", "partitions.1", "partitions.0.size", "crit_x", "x"),
        *("transport.name", "transport.size", "transport.frames", "transport.index.offset", "transport.x"),
    ]
)


def outcome(raw: bytes) -> Manifest | None:
    try:
        return manifest.parse(raw, name=NAME)
    except ManifestInvalid as error:
        complaint = str(error)
    assert "\n" not in complaint
    return None


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_refused(raw: bytes) -> None:
    assert outcome(raw) is None


@given(VALUES)
def test_any_json_is_a_manifest_or_refused(value: object) -> None:
    assert outcome(text(value)) is None


@given(PATHS, VALUES)
def test_any_value_in_any_place_is_accepted_whole_or_refused(path: str, value: object) -> None:
    found = outcome(text(changed(path, value, SHIPPED)))
    if found is not None:
        assert manifest.parse(manifest.render(found), name=NAME) == replace(
            found, digest=hashlib.sha256(manifest.render(found)).hexdigest()
        )


@given(st.data())
def test_a_changed_byte_is_accepted_whole_or_refused(data: st.DataObject) -> None:
    raw = bytearray(text(SHIPPED))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255))
    found = outcome(bytes(raw))
    if found is not None:
        assert manifest.parse(manifest.render(found), name=NAME).serial == found.serial


WORDS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
TIMES = st.integers(0, 250_000_000_000)


@st.composite
def transports(draw: Callable[[st.SearchStrategy[Any]], Any], image_bytes: int) -> Transport:
    begin = draw(st.integers(9, 1 << 52))
    index_bytes = draw(st.integers(1, (image_bytes >> 8) + (1 << 10)))
    table_bytes = draw(st.integers(1, manifest.MAX_TABLE_BYTES))
    table = Extent(begin + index_bytes, table_bytes, draw(HEX))
    index = Extent(begin, index_bytes, draw(HEX))
    return Transport(f"{draw(WORDS)}.img.zst", begin + index_bytes + table_bytes, table, index)


@st.composite
def manifests(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Manifest:
    issued, expires = sorted(draw(st.lists(TIMES, min_size=2, max_size=2, unique=True)))
    edges = sorted(draw(st.lists(st.integers(0, 1 << 52), min_size=6, max_size=6, unique=True)))
    roles = draw(st.permutations(manifest.ROLES) | st.permutations(manifest.ROLES[:2]))
    parts = tuple(
        Part(role, start, end - start, draw(HEX))
        for role, start, end in zip(roles, edges[::2], edges[1::2], strict=False)
    )
    root_sha256 = next(part.sha256 for part in parts if part.role == "root")
    image_bytes = draw(st.integers(edges[-1], 1 << 52))
    numbers = draw(st.tuples(*[st.integers(0, 999_999_999)] * 3))
    return Manifest(
        product=draw(WORDS),
        arch=draw(WORDS),
        channel=draw(WORDS),
        version=".".join(map(str, numbers)) + draw(st.sampled_from(["", "-rc1", ".9", "^post"])),
        serial=draw(st.integers(0, (1 << 53) - 1)),
        issued_sec=issued,
        expires_sec=expires,
        min_version="0.0.0~a",
        min_from_version="0.0.0~a",
        key_epoch=draw(st.integers(0, 99)),
        config_schema=draw(st.integers(0, 99)),
        root_hash=draw(HEX) if len(parts) == 3 else root_sha256,
        image_name=f"{draw(WORDS)}.img",
        image_bytes=image_bytes,
        image_sha256=draw(HEX),
        parts=parts,
        uki_bytes=draw(st.integers(1, 1 << 40)),
        uki_sha256=draw(HEX),
        notes_url="",
        digest="",
        transport=draw(st.none() | transports(image_bytes)),
    )


@given(manifests())
def test_what_is_rendered_is_read_back_equal(written: Manifest) -> None:
    raw = manifest.render(written)

    assert manifest.parse(raw, name=NAME) == replace(written, digest=hashlib.sha256(raw).hexdigest())
