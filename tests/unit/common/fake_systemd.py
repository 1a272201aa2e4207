# SPDX-License-Identifier: Apache-2.0
"""A stand-in for systemd's manager on the private bus; a process of its own, as pystemd blocks its caller.

Prints each StartUnit and StartTransientUnit call and is ended by a signal. The transient unit has a job for
a while, then it has ended: good.service with success, bad.service with status 7, lost.service was not
started; ended.service with SIGTERM; left.service ran already.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

from common import bus
from common.errors import AgentError

NAME = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
NO_JOB = (0, "/")


class NoSuchUnit(AgentError):
    dbus_name = "org.freedesktop.systemd1.NoSuchUnit"


class UnitExists(AgentError):
    dbus_name = "org.freedesktop.systemd1.UnitExists"


class Manager(bus.Interface):
    INTERFACE = "org.freedesktop.systemd1.Manager"

    @bus.method("StartUnit", "ss", "o")
    def start_unit(self, name: str, mode: str) -> str:
        if name.startswith("missing"):
            raise NoSuchUnit(f"Unit {name} not found.")
        print(name, mode, flush=True)
        return PATH + "/job/1"

    @bus.method("StopUnit", "ss", "o")
    def stop_unit(self, name: str, mode: str) -> str:
        print("stop", name, mode, flush=True)
        return PATH + "/job/3"

    @bus.method("StartTransientUnit", "ssa(sv)a(sa(sv))", "o")
    def start_transient_unit(
        self, name: str, mode: str, properties: list[tuple[str, Any]], others: list[tuple[str, Any]]
    ) -> str:
        if name.startswith("taken"):
            raise UnitExists(f"Unit {name} was already loaded.")
        print(json.dumps([name, mode, properties, others]), flush=True)
        return PATH + "/job/2"

    @bus.method("ListUnitsFiltered", "as", "a(ssssssouso)")
    def list_units_filtered(self, states: list[str]) -> list[tuple[object, ...]]:
        names = ["b.service", "a.mount"] if states == ["failed"] else []
        return [(name, "", "loaded", "failed", "failed", "", PATH, 0, "", "/") for name in names]


class Unit(bus.Interface):
    INTERFACE = "org.freedesktop.systemd1.Unit"

    def __init__(self, states: list[str], *, started_usec: int = 0) -> None:
        super().__init__()
        self._jobs = iter([(2, PATH + "/job/2")])
        self._states = self._each(states)
        self._started_usec = started_usec

    @staticmethod
    def _each(states: list[str]) -> Iterator[str]:
        yield from states
        while True:
            yield states[-1]

    @bus.prop("Job", "(uo)")
    def job(self) -> tuple[int, str]:
        return next(self._jobs, NO_JOB)

    @bus.prop("ActiveState", "s")
    def active_state(self) -> str:
        return next(self._states)

    @bus.prop("InactiveExitTimestampMonotonic", "t")
    def inactive_exit_timestamp_monotonic(self) -> int:
        return self._started_usec

    @bus.prop("InvocationID", "ay")
    def invocation_id(self) -> bytes:
        return bytes(range(16))


class Ended(bus.Interface):
    INTERFACE = "org.freedesktop.systemd1.Service"

    def __init__(self, result: str, status: int, code: int = 1) -> None:
        super().__init__()
        self._result = result
        self._status = status
        self._code = code

    @bus.prop("ExecMainCode", "i")
    def exec_main_code(self) -> int:
        return self._code

    @bus.prop("Result", "s")
    def result(self) -> str:
        return self._result

    @bus.prop("ExecMainStatus", "i")
    def exec_main_status(self) -> int:
        return self._status


def setup(service: bus.Service) -> None:
    service.export(PATH, Manager())
    service.export(PATH + "/unit/hypernet_2etarget", Unit(["activating"]))
    states = ["inactive", "activating", "active", "active", "deactivating"]
    service.export(PATH + "/unit/good_2eservice", Unit([*states, "inactive"], started_usec=5))
    service.export(PATH + "/unit/good_2eservice", Ended("success", 0))
    service.export(PATH + "/unit/ended_2eservice", Unit([*states, "inactive"], started_usec=5))
    service.export(PATH + "/unit/ended_2eservice", Ended("success", 15, 2))
    service.export(PATH + "/unit/taken_2eservice", Unit(["inactive"]))
    service.export(PATH + "/unit/bad_2eservice", Unit([*states, "failed"], started_usec=5))
    service.export(PATH + "/unit/bad_2eservice", Ended("exit-code", 7))
    service.export(PATH + "/unit/lost_2eservice", Unit(["inactive"]))
    service.export(PATH + "/unit/lost_2eservice", Ended("success", 0))
    service.export(PATH + "/unit/hangs_2eservice", Unit(["inactive", "active"], started_usec=5))
    service.export(PATH + "/unit/left_2eservice", Unit(["active", "inactive"], started_usec=5))
    service.export(PATH + "/unit/left_2eservice", Ended("success", 0))


if __name__ == "__main__":
    sys.exit(asyncio.run(bus.serve(NAME, setup, idle_exit_sec=None)))
