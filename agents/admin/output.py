# SPDX-License-Identifier: Apache-2.0
"""JSON output, the same for all verbs."""

import json
from collections.abc import Mapping
from typing import Any, TextIO

from agents.admin.cli import Json

FORMAT = 1
"""Number of the shapes that the manual page documents; a change that breaks readers raises it."""


def print_json(values: Mapping[str, Any], mode: Json, out: TextIO) -> None:
    """Print an object as JSON on several lines (PRETTY) or on one (SHORT), with the number of its format."""
    print(json.dumps({"format": FORMAT, **values}, indent=4 if mode is Json.PRETTY else None), file=out)
