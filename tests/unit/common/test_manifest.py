# SPDX-License-Identifier: Apache-2.0
"""Manifests: what is one, and that nothing else is taken for one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from common import journal, manifest
from common.manifest import Manifest, ManifestInvalid, Part
from tests.fakes.manifest_sample import GOOD, HASHES, NAME, changed, text, without


def test_a_manifest_is_read_as_it_was_written() -> None:
    raw = text(GOOD)
    found = manifest.parse(raw, name=NAME)

    assert found == Manifest(
        product="hypernet",
        arch="x86-64",
        channel="stable",
        version="1.2.3",
        serial=1000002000003,
        issued_sec=1795435200,
        expires_sec=1826971200,
        min_version="1.0.0",
        min_from_version="0.9.0",
        key_epoch=1,
        config_schema=4,
        root_hash=HASHES[0],
        image_name="hypernet-1.2.3.img",
        image_bytes=10_000_000,
        image_sha256=HASHES[1],
        parts=(
            Part("esp", 1_048_576, 2_000_000, HASHES[2]),
            Part("root", 4_000_000, 5_000_000, HASHES[3]),
            Part("root-verity", 9_000_000, 1_000_000, HASHES[4]),
        ),
        uki_bytes=1_500_000,
        uki_sha256=HASHES[5],
        notes_url="https://example.org/1.2.3",
        digest=hashlib.sha256(raw).hexdigest(),
    )
    assert found.part("root").offset_bytes == 4_000_000


def test_the_rendered_form_is_canonical() -> None:
    found = manifest.parse(text(GOOD), name=NAME)
    rendered = manifest.render(found)

    assert rendered == manifest.render(manifest.parse(rendered, name=NAME))
    assert json.loads(rendered) == GOOD
    assert rendered == (json.dumps(GOOD, sort_keys=True, indent=1) + "\n").encode()


def test_notes_may_be_missing() -> None:
    assert manifest.parse(text(without("notes_url")), name=NAME).notes_url == ""


REQUIRED = [key for key in GOOD if key != "notes_url"] + [
    *(f"image.{key}" for key in GOOD["image"]),
    *(f"uki.{key}" for key in GOOD["uki"]),
    *(f"partitions.1.{key}" for key in GOOD["partitions"][1]),
]


@pytest.mark.parametrize("path", REQUIRED)
def test_a_manifest_that_lacks_a_field_is_refused_by_its_name(path: str) -> None:
    shown = path.replace(".1.", "[1].")
    with pytest.raises(ManifestInvalid, match=rf"{NAME} is no valid manifest: ") as caught:
        manifest.parse(text(without(path)), name=NAME)
    assert f": {shown} is missing;" in str(caught.value)


@pytest.mark.parametrize("path", REQUIRED)
@pytest.mark.parametrize("value", ["", None, [], {}, True, -1, 1 << 53, " ", "x\n", "é"], ids=repr)
def test_a_field_of_another_form_is_refused(path: str, value: object) -> None:
    with pytest.raises(ManifestInvalid):
        manifest.parse(text(changed(path, value)), name=NAME)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("format", 0, "from 1"),
        ("format", 1, "has format 1, this system reads format 2"),
        ("format", 3, "has format 3, this system reads format 2"),
        ("product", "Hyper Net", "product has to be a word"),
        ("product", "a" * 65, "product has to be a word"),
        ("arch", "../x", "arch has to be a word"),
        ("channel", "stable,beta", "channel has to be a word"),
        ("version", "1.2", "version has to be a version"),
        ("version", "v1.2.3", "version has to be a version"),
        ("version", "1.2.3/..", "version has to be a version"),
        ("serial", 1.0, "not a whole one"),
        ("serial", "1", "serial has to be a whole number"),
        ("issued", "2026-11-23", "issued has to be a time in UTC"),
        ("issued", "2026-11-23T12:00:00+01:00", "issued has to be a time in UTC"),
        ("issued", "2026-02-30T12:00:00Z", "issued has to be a time in UTC"),
        ("issued", "2026-11-23T25:00:00Z", "issued has to be a time in UTC"),
        ("issued", "1969-12-31T23:59:59Z", "issued has to be a time in UTC"),
        ("issued", "0000-01-01T00:00:00Z", "issued has to be a time in UTC"),
        ("expires", GOOD["issued"], "expires before it was issued"),
        ("expires", "2025-01-01T00:00:00Z", "expires before it was issued"),
        ("min_version", "1.2.4", "min_version 1.2.4 is newer than the release itself"),
        ("min_from_version", "2.0.0", "min_from_version 2.0.0 is newer than the release itself"),
        ("root_hash", " " + HASHES[0][1:], "root_hash has to be 64"),
        ("root_hash", HASHES[0][1:], "root_hash has to be 64"),
        ("root_hash", "0x" + HASHES[0][2:], "root_hash has to be 64"),
        ("image.sha256", " " + HASHES[0], r"image\.sha256 has to be 64"),
        ("image.sha256", HASHES[0] + "\n", r"image\.sha256 has to be 64"),
        ("image.sha256", "A" * 64, r"image\.sha256 has to be 64"),
        ("image.size", 0, r"image\.size has to be a whole number from 1"),
        ("image.size", "10000000", r"image\.size has to be a whole number"),
        ("image.size", 9_999_999, "partition root-verity ends behind the end"),
        ("image.name", "../hypernet.img", r"image\.name has to be the plain name"),
        ("image.name", "/hypernet.img", r"image\.name has to be the plain name"),
        ("image.name", ".img", r"image\.name has to be the plain name"),
        ("uki.size", 0, r"uki\.size has to be a whole number from 1"),
        ("partitions.0.role", "data", "list each of esp, root, root-verity once"),
        ("partitions.0.role", "root", "list each of esp, root, root-verity once"),
        ("partitions.2.size", 0, r"partitions\[2\]\.size has to be a whole number from 1"),
        ("partitions.1.size", 5_000_001, "partition root-verity overlaps another one"),
        ("partitions.1.offset", 1_048_576, "overlaps another one"),
        ("partitions.1", 3, r"partitions\[1\] has to be a JSON object"),
        ("partitions", GOOD["partitions"][:2], "root_hash has to be the sha256 of the partition root"),
        ("partitions", GOOD["partitions"][1:], "list each of esp, root, root-verity once"),
        ("partitions", [*GOOD["partitions"], GOOD["partitions"][0]], "list each of"),
        ("notes_url", "http://example.org", "notes_url has to be an address"),
        ("notes_url", "https://example.org/\n", "notes_url has to be an address"),
        ("notes_url", "javascript:alert(1)", "notes_url has to be an address"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_what_is_right(
    path: str, value: object, complaint: str
) -> None:
    with pytest.raises(ManifestInvalid, match=complaint) as caught:
        manifest.parse(text(changed(path, value)), name=NAME)
    assert str(caught.value).startswith(NAME)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "the file has to be a JSON object"),
        (b"null", "the file has to be a JSON object"),
        (text(GOOD) + b"{}", "not JSON"),
        (b"\xef\xbb\xbf" + text(GOOD), "not JSON"),
        (text(GOOD).decode().encode("utf-16"), "not UTF-8"),
        (text(GOOD).replace(b'"serial": 1', b'"serial": NaN, "x": 1'), "not a whole one"),
        (text(GOOD).replace(b'"serial": 1', b'"serial": 1e3, "x": 1'), "not a whole one"),
        (text(GOOD).replace(b'"serial": 1', b'"serial": ' + b"1" * 5000), "more than 16 digits"),
        (b"[" * 60_000, "nested too deeply"),
        (text(GOOD) + b" " * manifest.MAX_BYTES, "at most 65536 are allowed"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_what_is_no_json_object_is_refused(raw: bytes, complaint: str) -> None:
    with pytest.raises(ManifestInvalid, match=complaint):
        manifest.parse(raw, name=NAME)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"serial": 1000002000003', b'"serial": 1000002000003, "serial": 1000002000003'),
        (b'"image": {', b'"image": {}, "image": {'),
        (b'"role": "esp"', b'"role": "esp", "role": "esp"'),
        (b'"serial": 1000002000003', b'"serial": 1, "s\\u0065rial": 1000002000003'),
    ],
)
def test_a_key_that_is_there_twice_is_refused(old: bytes, new: bytes) -> None:
    raw = text(GOOD)
    assert old in raw
    with pytest.raises(ManifestInvalid, match="is there twice"):
        manifest.parse(raw.replace(old, new), name=NAME)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(journal, "send", lambda message, **_: lines.append(message))
    return lines


@pytest.mark.parametrize("path", ["rollout", "image.zstd", "uki.signer", "partitions.1.label"])
def test_an_unknown_key_is_logged_and_ignored(path: str, logged: list[str]) -> None:
    known = manifest.parse(text(GOOD), name=NAME)
    assert logged == []

    found = manifest.parse(text(changed(path, {"any": "thing"})), name=NAME)
    assert replace(found, digest=known.digest) == known
    assert len(logged) == 1
    assert repr(path.split(".")[-1]) in logged[0]


@pytest.mark.parametrize(
    "path", ["crit_rollout", "image.crit_zstd", "uki.crit_", "partitions.1.crit_label", "crit_x"]
)
def test_an_unknown_critical_key_is_refused(path: str, logged: list[str]) -> None:
    with pytest.raises(ManifestInvalid, match=r"demands .*'crit_.*', which this system does not know"):
        manifest.parse(text(changed(path, 1)), name=NAME)
    assert logged == []


def test_a_critical_key_with_a_full_stop_in_it_is_refused() -> None:
    with pytest.raises(ManifestInvalid, match="demands"):
        manifest.parse(text({**GOOD, "crit_a.b": 1}), name=NAME)


def test_foreign_keys_cannot_write_lines_of_their_own(logged: list[str]) -> None:
    keys = {f"{number}\n\x1b[31m" + "é" * 100: 1 for number in range(50)}
    manifest.parse(text({**GOOD, **keys}), name=NAME)

    assert len(logged) == 1
    assert logged[0].isascii()
    assert logged[0].isprintable()
    assert len(logged[0]) < 4000
