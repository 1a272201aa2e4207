# SPDX-License-Identifier: Apache-2.0
"""The built-in checks by name: ``check: NAME`` in health.yaml(5).

Those that only look at this machine run inside boot-health, in a thread: no process, no time lost in the
boot. Those that talk to a service are commands, and run in a unit like every other command.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agents.boot_health.builtins import (
    configuration,
    database,
    disk_space,
    dm_verity,
    http,
    mounts,
    secrets,
    time_sync,
    units,
)
from agents.boot_health.builtins.outcome import Outcome, Probe, guarded
from common import config

__all__ = ["BUILTINS", "Builder", "Outcome", "Probe"]

Builder = Callable[[config.Section], Probe | tuple[str, ...]]
"""Reads the options of a check from its section; returns what to run. Raises ConfigError."""


def _inside(build: Callable[[config.Section], Probe]) -> Builder:
    return lambda section: guarded(build(section))


BUILTINS: Final[dict[str, Builder]] = {
    "configuration": _inside(configuration.build),
    "database": database.build,
    "disk-space": _inside(disk_space.build),
    "dm-verity": _inside(dm_verity.build),
    "http": http.build,
    "mounts": _inside(mounts.build),
    "secrets": _inside(secrets.build),
    "time-sync": _inside(time_sync.build),
    "units": _inside(units.build),
}
"""Probes from here raise nothing and end within the time limit that they are given."""
