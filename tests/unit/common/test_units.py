# SPDX-License-Identifier: Apache-2.0
"""Orders to systemd by way of pystemd."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from common import units
from common.errors import AgentError, NotRunning


@pytest.fixture
def systemd(private_bus: str) -> Iterator[subprocess.Popen[str]]:
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


def test_systemd_is_asked_and_ordered(systemd: subprocess.Popen[str]) -> None:
    assert systemd.stdout is not None
    assert units.unit_state("hypernet.target") == "activating"
    assert units.failed_units() == ("a.mount", "b.service")
    units.start_unit("hypernet-rollback.target")
    assert systemd.stdout.readline() == "hypernet-rollback.target replace\n"
    units.reboot()
    assert systemd.stdout.readline() == "reboot.target replace-irreversibly\n"
    with pytest.raises(
        AgentError, match=r"^Cannot start missing\.service: Unit missing\.service not found\.$"
    ):
        units.start_unit("missing.service")


def test_no_bus_is_an_error_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
    with pytest.raises(
        NotRunning, match=r"^Cannot start reboot\.target: the system bus cannot be reached\.$"
    ):
        units.reboot()
