# SPDX-License-Identifier: Apache-2.0
"""``boot-health failed-units``: a health check of the image (systemctl --failed has no exit status of
use).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from common import units

OWN_CHECKS: Final = "hypernet-check-"
"""Transient units of checks that run at the same time; each has its own verdict."""


def run(failed_units: Callable[[], tuple[str, ...]] = units.failed_units) -> int:
    """Print the failed units, one a line; return 1 if there are any, else 0. Raises AgentError."""
    names = [name for name in failed_units() if not name.startswith(OWN_CHECKS)]
    for name in sorted(names):
        print(name)
    return 1 if names else 0
