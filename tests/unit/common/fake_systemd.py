# SPDX-License-Identifier: Apache-2.0
"""A stand-in for systemd's manager on the private bus; a process of its own, as pystemd blocks its caller.

Prints each StartUnit call and is ended by a signal.
"""

from __future__ import annotations

import asyncio
import sys

from common import bus
from common.errors import AgentError

NAME = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"


class NoSuchUnit(AgentError):
    dbus_name = "org.freedesktop.systemd1.NoSuchUnit"


class Manager(bus.Interface):
    INTERFACE = "org.freedesktop.systemd1.Manager"

    @bus.method("StartUnit", "ss", "o")
    def start_unit(self, name: str, mode: str) -> str:
        if name.startswith("missing"):
            raise NoSuchUnit(f"Unit {name} not found.")
        print(name, mode, flush=True)
        return PATH + "/job/1"

    @bus.method("ListUnitsFiltered", "as", "a(ssssssouso)")
    def list_units_filtered(self, states: list[str]) -> list[tuple[object, ...]]:
        names = ["b.service", "a.mount"] if states == ["failed"] else []
        return [(name, "", "loaded", "failed", "failed", "", PATH, 0, "", "/") for name in names]


class Unit(bus.Interface):
    INTERFACE = "org.freedesktop.systemd1.Unit"

    @bus.prop("ActiveState", "s")
    def active_state(self) -> str:
        return "activating"


def setup(service: bus.Service) -> None:
    service.export(PATH, Manager())
    service.export(PATH + "/unit/hypernet_2etarget", Unit())


if __name__ == "__main__":
    sys.exit(asyncio.run(bus.serve(NAME, setup, idle_exit_sec=None)))
