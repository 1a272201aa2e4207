# SPDX-License-Identifier: Apache-2.0
"""Programs in transient services of systemd: started, waited for, and what they said read from the journal.

For oneshots and the command line only, as common.units. Each call has a connection of its own, so that
several threads can wait for a service each.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from common import process, units
from common.errors import AgentError
from common.units import SERVICE, UNIT, Systemd, Value

SUCCESS: Final = "success"
SIGNAL: Final = "signal"
TIMEOUT: Final = "timeout"
NOT_STARTED: Final = "not-started"

_EXITED: Final = 1
"""CLD_EXITED of waitid(2), the ExecMainCode of what was not ended by a signal."""
_FIRST_POLL_SEC: Final = 0.01
_LAST_POLL_SEC: Final = 0.2
_SLACK_SEC: Final = 15.0
"""What systemd may need on top of the program's own time to start and stop it."""
_JOURNAL_SEC: Final = 10.0
_MAX_LINES: Final = 100
"""The last entries of the journal that are read for one unit; each has up to 48 KiB (journald.conf(5))."""
_MAX_JOURNAL_BYTES: Final = 32 << 20


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a service. usec: when, on CLOCK_MONOTONIC. invocation: its id, 32 hex digits."""

    usec: int
    invocation: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How a service ended.

    result: the property Result of systemd.service(5), such as success, exit-code, signal, oom-kill, timeout;
    not-started if its job was cancelled. status: exit status, or the number of the signal. start: None if
    it was not started.
    """

    result: str
    status: int = 0
    start: Start | None = None


def run(name: str, argv: Sequence[str], properties: Mapping[str, Value], *, limit_sec: float) -> Ended:
    """Run a program as the transient service `name`, without a shell, and wait for its end.

    argv: the program, an absolute path or a name to be found, and its arguments. properties: as in
    Systemd.start_transient(). limit_sec: after it, systemd ends the program (result timeout); should
    systemd itself take 15 s more, nobody waits for it. Raises AgentError, NotRunning.
    """
    # 0 would be no limit at all.
    limit_usec = max(1, int(limit_sec * 1_000_000))
    settings: dict[str, Value] = {
        "Type": "exec",
        "AddRef": True,
        "CollectMode": "inactive-or-failed",
        "TimeoutStartUSec": limit_usec,
        "RuntimeMaxUSec": limit_usec,
        **properties,
    }
    with units.connect(f"run {name}") as systemd:
        _end_leftover(systemd, name)
        deadline = time.monotonic() + limit_sec + _SLACK_SEC
        systemd.start_transient(name, argv, settings)
        # AddRef keeps the unit and its results until the connection is closed.
        return _ended(systemd, name) if _wait(systemd, name, deadline) else Ended(TIMEOUT)


def busy(name: str) -> bool:
    """Whether a unit is about to change: between two states, or with a job in the queue.

    Raises AgentError, NotRunning.
    """
    with units.connect(f"ask for the state of {name}") as systemd:
        return systemd.busy(name)


def outputs(started: Mapping[str, Start], *, sync: bool) -> dict[str, bytes]:
    """Return the last lines that services wrote since they were started, by unit name.

    sync: wait until the journal has all that was written so far, if it manages to, and ask for each unit
    alone, so that none can talk another down; without it, lines may be missing. Raises AgentError.
    """
    if not sync:
        return _outputs(started) if started else {}
    with contextlib.suppress(AgentError):
        process.run(("journalctl", "--sync"), timeout_sec=_JOURNAL_SEC)
    return {name: _outputs({name: start})[name] for name, start in started.items()}


def _outputs(started: Mapping[str, Start]) -> dict[str, bytes]:
    argv = (
        "journalctl",
        "--quiet",
        "--all",
        "--no-pager",
        "--output=json",
        "--output-fields=MESSAGE,_SYSTEMD_UNIT,_SYSTEMD_INVOCATION_ID",
        f"--lines={_MAX_LINES * len(started)}",
        *(f"_SYSTEMD_UNIT={name}" for name in started),
    )
    said = process.run(argv, timeout_sec=_JOURNAL_SEC, max_output_bytes=_MAX_JOURNAL_BYTES).stdout
    found: dict[str, bytes] = dict.fromkeys(started, b"")
    for line in said.splitlines():
        entry = _entry(line, started)
        if entry is not None:
            found[entry[0]] += entry[1] + b"\n"
    return found


def _end_leftover(systemd: Systemd, name: str) -> None:
    """End what runs under the name because whoever waited for it was ended itself."""
    if systemd.state(name) not in ("inactive", "failed"):
        systemd.stop(name, "replace")
        _wait(systemd, name, time.monotonic() + _SLACK_SEC)


def _wait(systemd: Systemd, name: str, deadline: float) -> bool:
    """Wait until the unit is at rest; return whether it was before the deadline."""
    poll_sec = _FIRST_POLL_SEC
    while systemd.busy(name) or systemd.state(name) == "active":
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_sec)
        poll_sec = min(2 * poll_sec, _LAST_POLL_SEC)
    return True


def _ended(systemd: Systemd, name: str) -> Ended:
    started_usec = systemd.property(name, UNIT, "InactiveExitTimestampMonotonic", "t")
    invocation = bytes(systemd.property(name, UNIT, "InvocationID", "ay")).hex()
    result = systemd.property(name, SERVICE, "Result", "s").decode()
    status = systemd.property(name, SERVICE, "ExecMainStatus", "i")
    if result == SUCCESS and systemd.property(name, SERVICE, "ExecMainCode", "i") != _EXITED:
        result = SIGNAL  # systemd takes SIGTERM and some others for a clean exit, see systemd.service(5)
    return Ended(result, status, Start(started_usec, invocation)) if started_usec else Ended(NOT_STARTED)


def _entry(line: bytes, started: Mapping[str, Start]) -> tuple[str, bytes] | None:
    """Return unit and text of a line of journalctl --output=json, None if it is of an earlier start."""
    try:
        entry = json.loads(line)
        name, message = entry["_SYSTEMD_UNIT"], entry["MESSAGE"]
        start = started[name]
        # The journal does not know the invocation of what ended at once, and the time begins anew in a boot.
        if entry.get("_SYSTEMD_INVOCATION_ID", start.invocation) != start.invocation:
            return None
        if int(entry["__MONOTONIC_TIMESTAMP"]) < start.usec:
            return None
        # What is not UTF-8 text is a list of numbers (systemd.journal-fields(7), journalctl(1)).
        return name, message.encode() if isinstance(message, str) else bytes(message)
    except (ValueError, TypeError, KeyError):
        return None
