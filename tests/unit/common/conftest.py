# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of common/."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import journal
from tests.fakes.private_bus import private_bus, private_bus_daemon  # noqa: F401


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Undo what journal.setup() does to the process."""
    root = logging.getLogger()
    handlers, level, identifier = root.handlers[:], root.level, journal.identifier()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    journal._identifier = identifier


class Datagrams:
    """A datagram socket that plays the journal or the service manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def received(self) -> list[bytes]:
        """Return what has arrived since the last call, one item for each datagram."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(1 << 20))
            except BlockingIOError:
                return found

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Datagrams]:
    """Play the service manager that listens at $NOTIFY_SOCKET."""
    datagrams = Datagrams(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(datagrams.path))
    yield datagrams
    datagrams.close()


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Datagrams]:
    """Play the journal."""
    datagrams = Datagrams(tmp_path / "journal")
    monkeypatch.setattr(journal, "SOCKET", str(datagrams.path))
    yield datagrams
    datagrams.close()


@pytest.fixture
def no_journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no journal, whatever the machine has."""
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "absent"))


@pytest.fixture
def systemd(private_bus: str) -> Iterator[subprocess.Popen[str]]:  # noqa: F811
    """Run the stand-in until its name is on the bus."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.unit.common.fake_systemd"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 10
            while not _answers(private_bus) and time.monotonic() < deadline:
                time.sleep(0.02)
            yield process
        finally:
            process.terminate()


def _answers(address: str) -> bool:
    query = ("dbus-send", f"--bus={address}", "--print-reply", "--dest=org.freedesktop.DBus", "/")
    question = ("org.freedesktop.DBus.NameHasOwner", "string:org.freedesktop.systemd1")
    return "true" in subprocess.run([*query, *question], capture_output=True, text=True, check=True).stdout
