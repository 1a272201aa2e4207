# SPDX-License-Identifier: Apache-2.0
"""A manifest as the builder writes it, and ways to change it."""

from __future__ import annotations

import copy
import json
from typing import Any

NAME = "hypernet-1.2.3.manifest.json"
HASHES = [f"{number:064x}" for number in range(1, 9)]
GOOD: dict[str, Any] = {
    "format": 2,
    "product": "hypernet",
    "arch": "x86-64",
    "channel": "stable",
    "version": "1.2.3",
    "serial": 1000002000003,
    "issued": "2026-11-23T12:00:00Z",
    "expires": "2027-11-23T12:00:00Z",
    "min_version": "1.0.0",
    "min_from_version": "0.9.0",
    "key_epoch": 1,
    "config_schema": 4,
    "root_hash": HASHES[0],
    "image": {"name": "hypernet-1.2.3.img", "size": 10_000_000, "sha256": HASHES[1]},
    "partitions": [
        {"role": "esp", "offset": 1_048_576, "size": 2_000_000, "sha256": HASHES[2]},
        {"role": "root", "offset": 4_000_000, "size": 5_000_000, "sha256": HASHES[3]},
        {"role": "root-verity", "offset": 9_000_000, "size": 1_000_000, "sha256": HASHES[4]},
    ],
    "uki": {"size": 1_500_000, "sha256": HASHES[5]},
    "notes_url": "https://example.org/1.2.3",
}
TRANSPORT: dict[str, Any] = {
    "name": "hypernet-1.2.3.img.zst",
    "size": 4_020_000,
    "frames": {"offset": 4_010_000, "size": 10_000, "sha256": HASHES[6]},
    "index": {"offset": 4_000_000, "size": 10_000, "sha256": HASHES[7]},
}
ARCHIVE: dict[str, Any] = {**TRANSPORT, "name": "hypernet-1.2.3.archive.zst"}
SHIPPED: dict[str, Any] = {**GOOD, "transport": TRANSPORT, "archive": ARCHIVE}
"""GOOD with compressed forms beside the image."""

WITHOUT_TREE: dict[str, Any] = {**GOOD, "partitions": GOOD["partitions"][:2], "root_hash": HASHES[3]}
"""GOOD for an image without hash tree."""


def text(fields: object) -> bytes:
    return json.dumps(fields).encode()


def changed(path: str, value: object, good: dict[str, Any] = GOOD) -> dict[str, Any]:
    """`good` with one member replaced; "image.size" and "partitions.0.role" are such paths."""
    fields = copy.deepcopy(good)
    place: Any = fields
    *parents, last = path.split(".")
    for step in parents:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return fields


def without(path: str, good: dict[str, Any] = GOOD) -> dict[str, Any]:
    fields = changed(path, None, good)
    place: Any = fields
    *parents, last = path.split(".")
    for step in parents:
        place = place[int(step)] if isinstance(place, list) else place[step]
    del place[last]
    return fields
