# SPDX-License-Identifier: Apache-2.0
"""JSON output, the same for all verbs."""

import json
from typing import Any, TextIO

from agents.admin.cli import Json


def print_json(values: Any, mode: Json, out: TextIO) -> None:
    """Print `values` as JSON on several lines (PRETTY) or on one (SHORT)."""
    print(json.dumps(values, indent=4 if mode is Json.PRETTY else None), file=out)
