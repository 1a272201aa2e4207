# SPDX-License-Identifier: Apache-2.0
"""A manager on a private bus that starts units like systemd, as callers see it: jobs and their results."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from common import bus
from common.errors import AgentError
from tests.fakes.private_bus import Serving, serving

NAME = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
UNIT_PATH = PATH + "/unit/x"

_ROW = ("", "loaded", "inactive", "dead", "", UNIT_PATH, 0, "", "/")


class NoSuchUnit(AgentError):
    dbus_name = "org.freedesktop.systemd1.NoSuchUnit"


class Manager(bus.Interface):
    """results: of the jobs of units, done if not named; endless: units whose start job never ends by itself;
    missing: units that do not exist. `asked` are the orders in their order, such as "start x.target".
    """

    INTERFACE = "org.freedesktop.systemd1.Manager"

    def __init__(
        self,
        results: Mapping[str, str] = {},
        *,
        endless: Collection[str] = (),
        missing: Collection[str] = (),
        failed: Collection[str] = (),
    ) -> None:
        self.results = results
        self.endless = endless
        self.missing = missing
        self.failed = failed
        self.asked: list[str] = []

    @bus.method("StartUnit", "ss", "o")
    def start_unit(self, name: str, mode: str) -> str:
        if name in self.missing:
            raise NoSuchUnit(f"Unit {name} not found.")
        self.asked.append(f"start {name} {mode}")
        number = len(self.asked)
        job = f"{PATH}/job/{number}"
        if name not in self.endless:
            # Another unit's job first, and ours perhaps before the caller knows its name.
            self.job_removed(number + 1000, f"{PATH}/job/{number + 1000}", "other.service", "failed")
            asyncio.get_running_loop().call_soon(
                self.job_removed, number, job, name, self.results.get(name, "done")
            )
        return job

    @bus.method("StopUnit", "ss", "o")
    def stop_unit(self, name: str, mode: str) -> str:
        self.asked.append(f"stop {name} {mode}")
        return f"{PATH}/job/{len(self.asked)}"

    @bus.method("LoadUnit", "s", "o")
    def load_unit(self, name: str) -> str:
        return UNIT_PATH

    @bus.method("ListUnitsByNames", "as", "a(ssssssouso)")
    def list_units_by_names(self, names: list[str]) -> list[tuple[Any, ...]]:
        return [
            (name, *_ROW[:2], "failed" if name in self.failed else "inactive", *_ROW[3:]) for name in names
        ]

    @bus.signal("JobRemoved", "uoss")
    def job_removed(self, number: int, job: str, unit: str, result: str) -> None:
        """A job has ended."""


class Unit(bus.Interface):
    """The unit that LoadUnit names, whichever that is."""

    INTERFACE = "org.freedesktop.systemd1.Unit"

    def __init__(self, requires: list[str], wants: list[str]) -> None:
        self._requires = requires
        self._wants = wants

    @bus.prop("Requires", "as")
    def requires(self) -> list[str]:
        return self._requires

    @bus.prop("Wants", "as")
    def wants(self) -> list[str]:
        return self._wants


def systemd(
    manager: Manager, *, requires: Collection[str] = (), wants: Collection[str] = ()
) -> AbstractAsyncContextManager[Serving]:
    """Put the manager where systemd is; requires, wants: units that each target has."""

    def setup(service: bus.Service) -> None:
        service.export(PATH, manager)
        service.export(UNIT_PATH, Unit(list(requires), list(wants)))

    return serving(NAME, setup)
