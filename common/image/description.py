# SPDX-License-Identifier: Apache-2.0
"""What an inspection found, for people and as JSON: the same from hypernet-admin and hypernet-image."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from common import text
from common.image.inspection import Inspection


def good(found: Inspection) -> str:
    """What to say about the signature of an image that was verified."""
    return f"good, by {' and '.join(found.signers)}; every byte is as signed"


def values(found: Inspection) -> dict[str, Any]:
    """The facts for json.dumps(), as hypernet-image(1) documents them."""
    return asdict(found) | {
        "path": str(found.path),
        "partitions": [{"role": role, "bytes": size} for role, size in found.partitions],
    }


def describe(found: Inspection, signature: str, *, now_sec: int) -> str:
    """The facts and what was found about the signature, one line for each."""
    protection = "dm-verity" if found.verity else "no dm-verity"
    rows = [
        ("Image", f"{found.path} ({text.size(found.bytes)})"),
        ("Product", found.product),
        ("Version", found.version),
        ("Architecture", found.arch),
        ("Root hash", found.root_hash),
        ("Root", f"{found.filesystem or 'unknown file system'}, {protection}"),
        ("Partitions", ", ".join(f"{role} {text.size(size)}" for role, size in found.partitions)),
        ("Kernel options", found.kernel_cmdline),
        ("Manifest", f"channel {found.channel}, serial {found.serial}" if found.has_manifest else "none"),
    ]
    if found.compressed_bytes:
        rows.append(("Compressed", text.size(found.compressed_bytes)))
    if found.has_manifest:
        expired = " (expired)" if found.expires_sec <= now_sec else ""
        rows += [
            ("Issued", text.timestamp(found.issued_sec * 1_000_000)),
            ("Expires", text.timestamp(found.expires_sec * 1_000_000) + expired),
        ]
    return text.fields([*rows, ("Signature", signature)]) + "\n"
