# SPDX-License-Identifier: Apache-2.0
"""Damaged manifests: changed as text, and changed as JSON with any value in any place."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from common import manifest
from tests.fakes.manifest_sample import GOOD, HASHES, NAME, text
from tests.fuzz.hostile import Sample, damaged, explore, survives

FULL: dict[str, Any] = {
    **GOOD,
    "transport": {
        "name": "hypernet-1.2.3.img.zst",
        "size": 3_000_000,
        "index": {"offset": 2_900_008, "size": 10_544, "sha256": HASHES[6]},
        "frames": {"offset": 2_910_552, "size": 89_448, "sha256": HASHES[7]},
    },
}
NUMBERS = (
    0,
    1,
    -1,
    255,
    4095,
    4096,
    (1 << 31) - 1,
    1 << 32,
    (1 << 53) - 1,
    1 << 53,
    1 << 63,
    10**16,
    10**400,
)
ODD = (
    "",
    " ",
    "..",
    "/",
    "a/b",
    "-",
    "\0",
    "\x1b[2J",
    "a\nb",
    "é",
    "\ud800",
    "\u202e",
    "x" * 300,
    "0" * 64,
    "nan",
)
FORMS = ("1.2.3", "1.2.3-rc1", "99999999999.0.0", "2026-11-23T12:00:00Z", "9999-99-99T99:99:99Z")
OTHERS: tuple[Any, ...] = (None, True, False, 0.5, 1e300, [], {}, [{}], [[]])
LEAVES: st.SearchStrategy[Any] = st.sampled_from([*NUMBERS, *ODD, *FORMS, *OTHERS])


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """FULL with members replaced, removed, doubled or moved."""
    fields = json.loads(json.dumps(FULL))
    for _ in range(draw(st.integers(1, 3))):
        place = fields
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = keys[draw(st.integers(0, len(keys) - 1))]
            inner = place[key]
            if isinstance(inner, dict | list) and inner and draw(st.integers(0, 3)):
                place = inner
                continue
            kind = draw(st.integers(0, 5))
            if kind == 0:
                del place[key]
            elif kind == 1 and isinstance(place, dict):
                place[draw(st.sampled_from(["crit_x", "x", "\x1b]0;x\x07", "size", "é" * 200]))] = (
                    copy.deepcopy(inner)
                )
            elif kind == 1:
                place.append(copy.deepcopy(inner))
            elif kind == 2 and isinstance(inner, int):
                place[key] = inner + draw(st.integers(-2, 2)) * draw(st.sampled_from([1, 4096]))
            else:
                place[key] = draw(LEAVES)
            break
    return text(fields)


@st.composite
def shapes(draw: st.DrawFn) -> bytes:
    """Text that is hard on parsers of JSON."""
    depth = draw(st.sampled_from([1, 50, 1000, 30_000]))
    opening, closing = draw(st.sampled_from([("[", "]"), ('{"a":', "}"), ('{"image":', "}"), ("[[", "")]))
    body = draw(st.sampled_from(["", "1", '"x"', "null", "9" * 5000, "1e999", "-0", "NaN", '"\\ud800"']))
    raw = (opening * depth + body + closing * depth).encode()
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf", b" " * 70_000, b"\0"])) + raw


def test_a_damaged_manifest_is_read_whole_or_refused() -> None:
    def judge(case: bytes) -> None:
        found: list[manifest.Manifest] = []
        survives(lambda: found.append(manifest.parse(case, name=NAME)))
        for read in found:
            _check(read)
            assert manifest.parse(manifest.render(read), name=NAME).parts == read.parts

    raw = text(FULL)
    numbers = Sample(raw)
    explore("manifest", changed() | damaged([numbers]) | shapes(), judge)


def _check(read: manifest.Manifest) -> None:
    """What everybody who uses a manifest relies on."""
    end = 0
    for part in sorted(read.parts, key=lambda part: part.offset_bytes):
        assert part.offset_bytes >= end
        assert part.size_bytes > 0
        end = part.offset_bytes + part.size_bytes
    assert end <= read.image_bytes < 1 << 53
    assert "/" not in read.image_name
    assert {part.role for part in read.parts} <= set(manifest.ROLES)
    if read.transport is not None:
        assert "/" not in read.transport.name
        index, frames = read.transport.index, read.transport.frames
        assert index.offset_bytes + index.size_bytes <= frames.offset_bytes
        assert frames.offset_bytes + frames.size_bytes <= read.transport.size_bytes
