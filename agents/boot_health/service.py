# SPDX-License-Identifier: Apache-2.0
"""``boot-health serve``: io.hypernet.BootHealth1, a view of the report. hypernet-boot-health-bus.service."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from agents.boot_health import report
from agents.boot_health.places import Places
from agents.boot_health.report import Report
from agents.boot_health.verdict import State
from common import bus, journal
from common.errors import AgentError

NAME: Final = "io.hypernet.BootHealth1"
PATH: Final = "/io/hypernet/BootHealth1"
IDLE_EXIT_SEC: Final = 30.0
POLL_SEC: Final = 1.0


class BootHealth(bus.Interface):
    """The properties of the report; the D-Bus interface is described in its XML file."""

    INTERFACE = NAME

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._known = Report()
        self._announced = self._report

    @property
    def _report(self) -> Report:
        """The report as it is now; the file is read again if it was replaced."""
        try:
            stat = self._path.stat()
            seen: tuple[int, int] | None = (stat.st_ino, stat.st_mtime_ns)
        except OSError:
            seen = None
        if seen != self._seen:
            self._seen = seen
            try:
                self._known = report.read(self._path)
            except AgentError as error:
                journal.send(str(error), priority=journal.WARNING)
                self._known = Report()
        return self._known

    @bus.prop("State", "s")
    def state(self) -> str:
        """See the XML file."""
        return self._report.state.value

    @bus.prop("Reason", "s")
    def reason(self) -> str:
        """See the XML file."""
        return self._report.reason

    @bus.prop("BootId", "s")
    def boot_id(self) -> str:
        """See the XML file."""
        return self._report.boot_id

    @bus.prop("Trial", "b")
    def trial(self) -> bool:
        """See the XML file."""
        return self._report.trial

    @bus.prop("Checks", "aa{sv}")
    def checks(self) -> list[dict[str, Any]]:
        """See the XML file."""
        return [
            {
                "name": check.name,
                "required": check.required,
                "result": check.result.value,
                "duration_sec": check.duration_sec,
                "attempts": check.attempts,
                "output": check.output,
            }
            for check in self._report.checks
        ]

    @bus.signal("HealthChanged", "ss")
    def health_changed(self, state: str, reason: str) -> None:
        """See the XML file."""

    @property
    def checking(self) -> bool:
        """Whether a verdict is still to come."""
        return self._report.state is State.CHECKING

    def announce(self) -> None:
        """Send the signals for what differs from the report that was announced last."""
        before, after = self._announced, self._report
        self._announced = after
        names = {
            "State": before.state != after.state,
            "Reason": before.reason != after.reason,
            "BootId": before.boot_id != after.boot_id,
            "Trial": before.trial != after.trial,
            "Checks": before.checks != after.checks,
        }
        changed = [name for name, differs in names.items() if differs]
        if changed:
            self.changed(*changed)
        if "State" in changed or "Reason" in changed:
            self.health_changed(after.state.value, after.reason)


async def watch(service: bus.Service, interface: BootHealth) -> None:
    """Follow the report for ever; while the checks run, the service does not exit although it is idle."""
    with ExitStack() as stack:
        waiting = stack.enter_context(ExitStack())
        while True:
            interface.announce()
            waiting.close()
            if interface.checking:
                waiting.enter_context(service.hold())
            await asyncio.sleep(POLL_SEC)


async def serve(places: Places) -> int:
    """Serve until idle; return the exit status."""
    tasks: set[asyncio.Task[None]] = set()

    def setup(service: bus.Service) -> None:
        interface = BootHealth(places.report)
        service.export(PATH, interface)
        tasks.add(asyncio.create_task(watch(service, interface)))

    try:
        return await bus.serve(NAME, setup, idle_exit_sec=IDLE_EXIT_SEC)
    finally:
        for task in tasks:
            task.cancel()
