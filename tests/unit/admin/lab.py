# SPDX-License-Identifier: Apache-2.0
"""hypernet-admin as a process, on a private bus with stand-ins for the agents."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

TOP = Path(__file__).parents[3]
STAND_IN = Path(__file__).with_name("stand_in.py")

VERBS = (
    *("status", "slots", "log", "health", "update", "approve", "arm", "disarm", "rollback", "mark"),
    *("denied", "verify", "info"),
)

SCRIPT: dict[str, Any] = {
    "slots": {
        "Slots": [
            {
                "name": "a",
                "state": "good",
                "version": "0.1.0",
                "booted": True,
                "default": True,
                "tries_left": 5,
            },
            {"name": "b", "state": "armed", "version": "0.2.0", "booted": False, "tries_left": 3},
        ],
        "BootedSlot": "a",
        "DefaultSlot": "a",
    },
    "health": {"State": "healthy", "Reason": "", "Checks": []},
    "job": [
        {"Stage": "write", "Progress": 0.5},
        {"Stage": "entry", "Progress": 0.9},
        {"Stage": "done", "Progress": 1.0, "Result": "done"},
    ],
}


class Lab:
    """The command, the stand-ins, and what was called."""

    def __init__(self, folder: Path, processes: ExitStack) -> None:
        self._script = folder / "script.json"
        self._processes = processes
        self.environment = {**os.environ, "PYTHONPATH": str(TOP), "TZ": "UTC"}

    def start(self, *agents: str, **changes: Any) -> None:
        """Start stand-ins ("slots", "health"; both if none is named) with SCRIPT, changed as given."""
        self._script.write_text(json.dumps({**SCRIPT, **changes}))
        for agent in agents or ("slots", "health"):
            argv = [sys.executable, str(STAND_IN), agent, str(self._script)]
            process = subprocess.Popen(argv, env=self.environment)
            self._processes.callback(end, process)
        for agent in agents or ("slots", "health"):
            self._wait_for({"slots": "SlotManager1", "health": "BootHealth1"}[agent])

    def admin(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run hypernet-admin to its end."""
        return subprocess.run(
            [sys.executable, "-m", "agents.admin", *argv],
            cwd=TOP,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def popen(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        """Start hypernet-admin; it is ended with the test."""
        process = subprocess.Popen(
            [sys.executable, "-m", "agents.admin", *argv],
            cwd=TOP,
            env=self.environment,
            text=True,
            **{"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options},
        )
        self._processes.callback(end, process)
        return process

    def calls(self) -> list[list[Any]]:
        """Return the method calls that the stand-ins got, each with its arguments."""
        file = self._script.with_suffix(".calls")
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def wait_for_call(self, member: str) -> None:
        deadline = time.monotonic() + 20
        while member not in (call[0] for call in self.calls()):
            assert time.monotonic() < deadline, f"{member} was not called"
            time.sleep(0.02)

    def _wait_for(self, agent: str) -> None:
        deadline = time.monotonic() + 20
        name = f"io.hypernet.{agent}"
        argv = ["busctl", f"--address={os.environ['DBUS_SYSTEM_BUS_ADDRESS']}", "--quiet", "status", name]
        while subprocess.run(argv, capture_output=True, timeout=20, check=False).returncode:
            assert time.monotonic() < deadline, f"the stand-in for {agent} does not start"
            time.sleep(0.02)


def end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
