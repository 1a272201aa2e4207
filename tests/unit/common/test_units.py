# SPDX-License-Identifier: Apache-2.0
"""Orders to systemd by way of pystemd."""

from __future__ import annotations

import subprocess
import sys

import pytest

from common import units
from common.errors import AgentError, NotRunning


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


@pytest.mark.parametrize(("name", "busy"), [("hypernet.target", True), ("lost.service", True)])
def test_a_unit_with_a_job_or_between_two_states_is_busy(
    systemd: subprocess.Popen[str], name: str, busy: bool
) -> None:
    with units.connect("ask") as connection:
        assert connection.busy(name) is busy


def test_a_unit_without_a_job_and_at_rest_is_not_busy(systemd: subprocess.Popen[str]) -> None:
    with units.connect("ask") as connection:
        connection.busy("lost.service")
        assert not connection.busy("lost.service")


def test_pystemd_costs_no_xml_parser() -> None:
    code = (
        "import sys; from common import units\n"
        "try: units.unit_state('a.service')\n"
        "except Exception: pass\n"
        "print('pystemd.dbuslib' in sys.modules, 'lxml' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "True False\n"
