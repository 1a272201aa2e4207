# SPDX-License-Identifier: Apache-2.0
"""One check, run again because somebody asked: ``boot-health run``, hypernet-boot-health-run@.service.

The bus service has no right to start transient units. It asks for this unit, which has what the checks of
the boot have, and reads the result from a file. The verdict on the boot stays what it is.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from agents.boot_health import config, report
from agents.boot_health.engine import CheckResult
from agents.boot_health.places import Places
from agents.boot_health.report import Report
from common import bus
from common.errors import AgentError, InvalidArgument

UNIT: Final = "hypernet-boot-health-run@{}.service"
WAIT_SEC: Final = 500.0
"""Longer than TimeoutStartSec= of the unit and its stop take."""

_SYSTEMD: Final = "org.freedesktop.systemd1"
_PATH: Final = "/org/freedesktop/systemd1"
_MANAGER: Final = "org.freedesktop.systemd1.Manager"


def run(places: Places, name: str) -> int:
    """Run the check and write its result; return the exit status. Raises AgentError, FileError."""
    from agents.boot_health import check

    result = check.run_one(places, name)
    report.write(_file(places, name), Report(checks=(result,)))
    return 0


async def request(client: bus.Client, places: Places, name: str) -> CheckResult:
    """Have systemd run the check, wait, and return its result.

    Raises InvalidArgument if there is no such check, AgentError if it could not be run.
    """
    known = await asyncio.to_thread(config.load, places.admin_config, places.image_config)
    if name not in {check.name for check in known.checks}:
        raise InvalidArgument(
            f"There is no health check {name!r} in {places.admin_config} or {places.image_config};"
            " see 'hypernet-admin health'."
        )
    unit = UNIT.format(name)
    if (result := await _start(client, unit)) != "done":
        raise AgentError(f"The check {name} could not be run ({result}); see 'journalctl -u {unit}'.")
    (found,) = (await asyncio.to_thread(report.read, _file(places, name))).checks
    return found


async def _start(client: bus.Client, unit: str) -> str:
    """Start a oneshot and wait for its end; return the result of the job as JobRemoved tells it."""
    async with client.subscribe(_MANAGER, "JobRemoved", _PATH, sender=_SYSTEMD) as removed:
        (job,) = await client.call(_SYSTEMD, _PATH, _MANAGER, "StartUnit", "ss", unit, "replace")
        try:
            async with asyncio.timeout(WAIT_SEC):
                while True:
                    signal = await removed.get()
                    if signal.args[1] == job:
                        return str(signal.args[3])
        except TimeoutError:
            return "timeout"


def folder(places: Places) -> Path:
    """Where results are left: RuntimeDirectory= of the unit."""
    return places.report.with_name("health-runs")


def _file(places: Places, name: str) -> Path:
    return folder(places) / f"{name}.json"
