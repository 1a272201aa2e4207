# SPDX-License-Identifier: Apache-2.0
"""Commands of checks as transient units of systemd, each with limits and a sandbox of its own.

Transient units are ordered after basic.target only, so that waiting for them cannot wait for a unit that
waits for us.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from agents.boot_health.config import Check
from common import transient
from common.units import Value

STOP_SEC: Final = 5
_MEMORY_MAX_BYTES: Final = 256 << 20
_TASKS_MAX: Final = 64
_EXIT_EXEC: Final = 203
_EXIT_USER: Final = 217

_SANDBOX: Final[Mapping[str, Value]] = {
    "StandardOutput": "journal",
    "StandardError": "journal",
    "LockPersonality": True,
    "MemoryMax": _MEMORY_MAX_BYTES,
    "MemorySwapMax": 0,
    "NoNewPrivileges": True,
    "PrivateTmp": True,
    "ProtectHome": "yes",
    "ProtectSystem": "strict",
    "RestrictSUIDSGID": True,
    "TasksMax": _TASKS_MAX,
    "TimeoutStopUSec": STOP_SEC * 1_000_000,
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt of a command ended. detail: half a sentence, empty when it passed. start: of its
    unit, None if that was not started.
    """

    passed: bool
    timed_out: bool = False
    detail: str = ""
    start: transient.Start | None = None


class Commands(Protocol):
    """Runs the commands of checks. Each method raises AgentError."""

    def run(self, unit: str, check: Check, limit_sec: float) -> Attempt:
        """Run check.command as `unit` to its end, for at most about limit_sec."""

    def busy(self, unit: str) -> bool:
        """Whether a unit is still starting, or about to."""

    def outputs(self, started: Mapping[str, transient.Start], *, sync: bool) -> Mapping[str, bytes]:
        """Return the last output of units; see transient.outputs()."""


class TransientCommands:
    """Commands that systemd runs."""

    def run(self, unit: str, check: Check, limit_sec: float) -> Attempt:
        """See Commands."""
        ended = transient.run(unit, check.command, properties(check), limit_sec=limit_sec)
        return Attempt(
            ended.result == transient.SUCCESS,
            ended.result == transient.TIMEOUT,
            describe(ended, check),
            ended.start,
        )

    def busy(self, unit: str) -> bool:
        """See Commands."""
        return transient.busy(unit)

    def outputs(self, started: Mapping[str, transient.Start], *, sync: bool) -> Mapping[str, bytes]:
        """See Commands."""
        return transient.outputs(started, sync=sync)


def properties(check: Check) -> dict[str, Value]:
    """Return the properties of the unit that runs the check."""
    user: dict[str, Value] = {"User": check.user} if check.user else {"DynamicUser": True}
    return {"Description": f"Health Check {check.name}", **_SANDBOX, **user}


def describe(ended: transient.Ended, check: Check) -> str:
    """Return half a sentence on how a command ended, empty if it succeeded."""
    match ended.result:
        case transient.SUCCESS:
            return ""
        case "exit-code" if ended.status == _EXIT_EXEC:
            return f"{check.command[0]} cannot be run"
        case "exit-code" if ended.status == _EXIT_USER:
            return f"there is no user {check.user or 'for it'}"
        case "exit-code":
            return f"exit status {ended.status}"
        case transient.SIGNAL | "core-dump":
            return f"ended by {_signal_name(ended.status)}"
        case "oom-kill":
            return f"it needed more than {_MEMORY_MAX_BYTES >> 20} MiB of memory"
        case transient.NOT_STARTED:
            return "systemd did not start it"
        case other:
            return f"systemd reports '{other}'"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
