# SPDX-License-Identifier: Apache-2.0
"""Manifests of images with a compressed form beside them, and of those without hash tree."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common import journal, manifest
from common.manifest import Extent, Manifest, ManifestInvalid, Transport
from tests.fakes.manifest_sample import (
    GOOD,
    HASHES,
    NAME,
    SHIPPED,
    TRANSPORT,
    WITHOUT_TREE,
    changed,
    text,
    without,
)


def parsed(fields: dict[str, Any]) -> Manifest:
    return manifest.parse(text(fields), name=NAME)


def rendered(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, sort_keys=True, indent=1) + "\n").encode()


def test_the_compressed_form_is_read_as_it_was_written() -> None:
    assert parsed(SHIPPED).transport == Transport(
        name="hypernet-1.2.3.img.zst",
        size_bytes=4_020_000,
        frames=Extent(4_010_000, 10_000, HASHES[6]),
        index=Extent(4_000_000, 10_000, HASHES[7]),
    )


@pytest.mark.parametrize("fields", [GOOD, SHIPPED, WITHOUT_TREE])
def test_every_form_is_rendered_canonically(fields: dict[str, Any]) -> None:
    assert manifest.render(parsed(fields)) == rendered(fields)


def test_a_release_without_compressed_form_does_not_mention_it() -> None:
    assert parsed(GOOD).transport is None
    assert b"transport" not in manifest.render(parsed(GOOD))


REQUIRED = [
    *(f"transport.{key}" for key in TRANSPORT),
    *(f"transport.{extent}.{key}" for extent in ("frames", "index") for key in TRANSPORT["index"]),
]


@pytest.mark.parametrize("path", REQUIRED)
def test_a_compressed_form_that_lacks_a_field_is_refused_by_its_name(path: str) -> None:
    with pytest.raises(ManifestInvalid, match=f": {path} is missing;"):
        parsed(without(path, SHIPPED))


@pytest.mark.parametrize("path", REQUIRED)
@pytest.mark.parametrize("value", ["", None, [], {}, True, -1, 1 << 53, 1.5, " ", "x/y"], ids=repr)
def test_a_field_of_the_compressed_form_of_another_form_is_refused(path: str, value: object) -> None:
    with pytest.raises(ManifestInvalid):
        parsed(changed(path, value, SHIPPED))


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("transport", None, "transport is missing"),
        ("transport", [], "transport has to be a JSON object"),
        ("transport.name", "../x.img.zst", r"transport\.name has to be the plain name"),
        ("transport.size", 4_020_001, "have to be the end of the file, in this order"),
        ("transport.size", 4_019_999, "have to be the end of the file, in this order"),
        ("transport.frames.offset", 4_010_001, "have to be the end of the file, in this order"),
        ("transport.index.offset", 4_000_001, "have to be the end of the file, in this order"),
        ("transport.index", TRANSPORT["frames"], "have to be the end of the file, in this order"),
        ("transport.frames.sha256", "A" * 64, r"transport\.frames\.sha256 has to be 64"),
    ],
)
def test_a_wrong_compressed_form_is_refused(path: str, value: object, complaint: str) -> None:
    with pytest.raises(ManifestInvalid, match=complaint):
        parsed(changed(path, value, SHIPPED))


def test_a_compressed_form_without_frames_before_the_index_is_refused() -> None:
    frames, index = {**TRANSPORT["frames"], "offset": 10_008}, {**TRANSPORT["index"], "offset": 8}
    form = {**TRANSPORT, "size": 20_008, "frames": frames, "index": index}
    with pytest.raises(ManifestInvalid, match="have to be the end of the file"):
        parsed({**GOOD, "transport": form})


def test_a_frame_table_that_a_machine_cannot_hold_is_refused() -> None:
    size = manifest.MAX_TABLE_BYTES
    form = {**TRANSPORT, "size": 4_010_000 + size, "frames": {**TRANSPORT["frames"], "size": size}}
    assert parsed({**GOOD, "transport": form}).transport is not None
    form = {**TRANSPORT, "size": 4_010_001 + size, "frames": {**TRANSPORT["frames"], "size": size + 1}}
    with pytest.raises(ManifestInvalid, match=r"transport\.frames\.size may be at most 4194304"):
        parsed({**GOOD, "transport": form})


def test_a_block_index_larger_than_the_image_can_have_is_refused() -> None:
    size = (10_000_000 >> 8) + (1 << 10) + 1
    frames = {**TRANSPORT["frames"], "offset": 4_000_000 + size}
    form = {
        **TRANSPORT,
        "size": 4_010_000 + size,
        "frames": frames,
        "index": {**TRANSPORT["index"], "size": size},
    }
    with pytest.raises(ManifestInvalid, match=r"transport\.index\.size is more than an image of this size"):
        parsed({**GOOD, "transport": form})


@pytest.mark.parametrize("path", ["transport.crit_x", "transport.frames.crit_x", "transport.index.crit_x"])
def test_an_unknown_critical_key_of_the_compressed_form_is_refused(path: str) -> None:
    with pytest.raises(ManifestInvalid, match="demands transport"):
        parsed(changed(path, 1, SHIPPED))


@pytest.mark.parametrize("path", ["transport.level", "transport.frames.level", "transport.index.level"])
def test_an_unknown_key_of_the_compressed_form_is_ignored(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(journal, "send", lambda message, **_: lines.append(message))
    assert parsed(changed(path, 1, SHIPPED)).transport == parsed(SHIPPED).transport
    assert len(lines) == 1


def test_an_image_without_hash_tree_says_so_by_its_partitions() -> None:
    found = parsed(WITHOUT_TREE)

    assert not found.verity
    assert parsed(GOOD).verity
    assert found.root_hash == found.part("root").sha256


def test_without_hash_tree_the_root_hash_is_that_of_the_root_partition() -> None:
    with pytest.raises(ManifestInvalid, match="root_hash has to be the sha256 of the partition root"):
        parsed({**WITHOUT_TREE, "root_hash": HASHES[0]})


@pytest.mark.parametrize("number", [0, 1])
def test_without_hash_tree_both_other_partitions_are_needed(number: int) -> None:
    partitions = [WITHOUT_TREE["partitions"][number]]
    with pytest.raises(ManifestInvalid, match="list each of esp, root, root-verity once"):
        parsed({**WITHOUT_TREE, "partitions": partitions})
