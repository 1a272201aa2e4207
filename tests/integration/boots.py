# SPDX-License-Identifier: Apache-2.0
"""Boots of the test machine with units and health checks of one test, and what they have led to."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.machine import Machine
from tests.integration.server import Server

HEALTH = "hypernet/health.yaml"


class Boots:
    """A machine with slots, with units and settings of one test that are taken away afterwards."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.machine = server.machine
        self._added: list[Path] = []

    def add(self, path: str, text: str = "") -> None:
        """Write a file below /etc/systemd/system."""
        target = self.machine.root / "etc/systemd/system" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        self._added.append(target)

    def enable(self, unit: str, target: str, text: str, *, kind: str = "wants") -> None:
        """Install a unit and let a target want or require it."""
        self.add(unit, text)
        link = self.machine.root / f"etc/systemd/system/{target}.{kind}/{unit}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../{unit}")
        self._added.append(link)

    def mask(self, unit: str) -> None:
        link = self.machine.root / "etc/systemd/system" / unit
        link.symlink_to("/dev/null")
        self._added.append(link)

    def health(self, text: str) -> None:
        (self.machine.config / HEALTH).write_text(text)

    def boot(self) -> Machine:
        """Switch on and wait for the end of the boot."""
        self.server.switch_on()
        return self.machine

    def clean(self) -> None:
        if self.machine.running:
            self.machine.stop()
        for path in self._added:
            path.unlink(missing_ok=True)
        self._added.clear()
        (self.machine.config / HEALTH).unlink(missing_ok=True)


def state(machine: Machine, unit: str) -> str:
    return machine.run("systemctl", "is-active", unit).stdout.strip()


def has_run(machine: Machine, unit: str) -> bool:
    """Whether a unit was started in this boot, whatever became of it."""
    return "Starting" in journal(machine, f"_PID=1 UNIT={unit}".split())


def journal(machine: Machine, matches: list[str]) -> str:
    return machine.run("journalctl", "--boot", "--no-pager", "--output=cat", *matches).stdout


def report(machine: Machine) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(machine.output("cat", "/run/hypernet/health.json"))
    return values


def wait_until(what: Callable[[], bool], *, timeout_sec: float = 30) -> None:
    deadline = time.monotonic() + timeout_sec
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)
