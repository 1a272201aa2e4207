# SPDX-License-Identifier: Apache-2.0
"""Commands of checks as plain processes: transient units need systemd as PID 1, see tests/integration."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from agents.boot_health.commands import Attempt
from agents.boot_health.config import Check
from common import process
from common.errors import AgentError
from common.transient import Start


@dataclass
class LocalCommands:
    """starting: how often each unit is still starting when it is asked. units: that were run, in order."""

    starting: dict[str, int] = field(default_factory=dict)
    units: list[str] = field(default_factory=list)
    synced: list[bool] = field(default_factory=list)
    _said: dict[str, bytes] = field(default_factory=dict)

    def run(self, unit: str, check: Check, limit_sec: float) -> Attempt:
        self.units.append(unit)
        start = Start(time.monotonic_ns() // 1000, "0" * 32)
        try:
            ended = process.run(check.command, timeout_sec=limit_sec, success=None)
        except process.ProcessError as error:
            if "took longer" in str(error):
                return Attempt(False, timed_out=True, start=start)
            raise
        self._said[unit] = ended.stdout + ended.stderr.encode()
        passed = ended.returncode == 0
        return Attempt(passed, detail="" if passed else f"exit status {ended.returncode}", start=start)

    def busy(self, unit: str) -> bool:
        self.starting[unit] = self.starting.get(unit, 0) - 1
        return self.starting[unit] >= 0

    def outputs(self, started: Mapping[str, Start], *, sync: bool) -> Mapping[str, bytes]:
        self.synced.append(sync)
        return {unit: self._said.get(unit, b"") for unit in started}


class NoSystemd(LocalCommands):
    """systemd does not answer."""

    def run(self, unit: str, check: Check, limit_sec: float) -> Attempt:
        raise AgentError(f"Cannot run {unit}: the system bus cannot be reached.")

    def busy(self, unit: str) -> bool:
        raise AgentError(f"Cannot ask for the state of {unit}: the system bus cannot be reached.")

    def outputs(self, started: Mapping[str, Start], *, sync: bool) -> Mapping[str, bytes]:
        raise AgentError("Cannot read.")
