# SPDX-License-Identifier: Apache-2.0
"""The verbs `verify` and `info`: look at an image file here, without root and without any agent."""

import time
from dataclasses import asdict
from typing import TextIO

from agents.admin import text
from agents.admin.cli import Options
from agents.admin.output import print_json
from common import image, paths, trust

_KEYS = "trusted-keys"


def verify(options: Options, out: TextIO) -> int:
    """Check signature, hashes and parts of an image. Raises what trust.load and image.inspect raise."""
    if options.keys is not None:
        store = trust.load(options.keys)
    else:
        store = trust.load(paths.CONFIG / _KEYS, vendor=paths.SHARE / _KEYS)
    found = image.inspect(options.image, store=store)
    _show(found, f"good, by {' and '.join(found.signers)}; every byte is as signed", options, out)
    return 0


def info(options: Options, out: TextIO) -> int:
    """Show what an image says about itself. Raises what image.inspect raises."""
    found = image.inspect(options.image, store=None)
    _show(found, "not checked; 'hypernet-admin verify' checks it", options, out)
    return 0


def _show(found: image.Inspection, signature: str, options: Options, out: TextIO) -> None:
    if options.json.enabled:
        values = asdict(found) | {
            "path": str(found.path),
            "partitions": [{"role": role, "bytes": size} for role, size in found.partitions],
        }
        print_json(values, options.json, out)
    else:
        out.write(describe(found, signature, now_sec=int(time.time())))


def describe(found: image.Inspection, signature: str, *, now_sec: int) -> str:
    """Return the facts about an image and what was found about its signature, one line for each."""
    values = [
        ("Image", f"{found.path} ({text.size(found.bytes)})"),
        ("Product", found.product),
        ("Version", found.version),
        ("Architecture", found.arch),
        ("Root hash", found.root_hash),
        ("Partitions", ", ".join(f"{role} {text.size(size)}" for role, size in found.partitions)),
        ("Kernel options", found.kernel_cmdline),
        ("Manifest", f"channel {found.channel}, serial {found.serial}" if found.has_manifest else "none"),
    ]
    if found.has_manifest:
        expired = " (expired)" if found.expires_sec <= now_sec else ""
        values += [
            ("Issued", text.timestamp(found.issued_sec * 1_000_000)),
            ("Expires", text.timestamp(found.expires_sec * 1_000_000) + expired),
        ]
    return text.fields([*values, ("Signature", signature)]) + "\n"
