# SPDX-License-Identifier: Apache-2.0
"""Built-in check ``units``: no unit has failed."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from agents.boot_health.builtins.outcome import Outcome, Probe
from common import config, units

OWN_CHECKS: Final = "hypernet-check-*"
"""Transient units of checks that run at the same time; each has its own verdict."""


def build(section: config.Section) -> Probe:
    """Read the options of the check. Raises ConfigError."""
    ignore = section.get_strings("ignore")

    def probe(_limit_sec: float) -> Outcome:
        return judge(units.failed_units(), ignore)

    return probe


def judge(failed: Sequence[str], ignore: Sequence[str]) -> Outcome:
    """ignore: names of units, with the wildcards of systemctl(1)."""
    patterns = (OWN_CHECKS, *ignore)
    names = [name for name in failed if not any(fnmatchcase(name, pattern) for pattern in patterns)]
    if names:
        return Outcome(False, "\n".join(f"{name} has failed." for name in sorted(names)))
    return Outcome(True, "No unit has failed.")
