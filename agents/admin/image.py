# SPDX-License-Identifier: Apache-2.0
"""The verbs `verify` and `info`: look at an image file here, without root and without any agent."""

import time
from typing import TextIO

from agents.admin.cli import Options
from agents.admin.output import print_json
from common import image, paths, trust
from common.image import description

_KEYS = "trusted-keys"


def verify(options: Options, out: TextIO) -> int:
    """Check signature, hashes and parts of an image. Raises what trust.load and image.inspect raise."""
    if options.keys is not None:
        store = trust.load(options.keys)
    else:
        store = trust.load(paths.CONFIG / _KEYS, vendor=paths.SHARE / _KEYS)
    found = image.inspect(options.image, store=store)
    _show(found, description.good(found), options, out)
    return 0


def info(options: Options, out: TextIO) -> int:
    """Show what an image says about itself. Raises what image.inspect raises."""
    found = image.inspect(options.image, store=None)
    _show(found, "not checked; 'hypernet-admin verify' checks it", options, out)
    return 0


def _show(found: image.Inspection, signature: str, options: Options, out: TextIO) -> None:
    if options.json.enabled:
        print_json(description.values(found), options.json, out)
    else:
        out.write(description.describe(found, signature, now_sec=int(time.time())))
