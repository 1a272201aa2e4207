# SPDX-License-Identifier: Apache-2.0
"""Errors on their way to the user."""

from __future__ import annotations

import subprocess
import sys

import pytest

from common import errors, files
from tests.unit.common.conftest import Datagrams


def test_an_error_is_one_line_and_its_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.Busy("An installation is running;\nwait for its end.")
    assert errors.report(error, program="hypernet-admin") == 10
    assert capsys.readouterr().err == "hypernet-admin: An installation is running; wait for its end.\n"


def test_what_an_error_quotes_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    errors.report(errors.AgentError("Version '\x1b]0;x\x07\x9b2J\udc80' is odd."), program="hypernet-admin")
    assert capsys.readouterr().err == "hypernet-admin: Version ' ]0;x 2J ' is odd.\n"


@pytest.mark.usefixtures("no_journald")
def test_a_defect_shows_neither_its_text_nor_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert errors.report(ValueError("secret"), program="hypernet-admin") == 70
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "hypernet-admin: Internal error in hypernet-admin; see 'journalctl -t hypernet-admin' for details.\n"
    )


def test_the_traceback_of_a_defect_is_in_the_journal(journald: Datagrams) -> None:
    try:
        raise ValueError("detail")
    except ValueError as error:
        errors.report(error, program="slot-manager")
    (datagram,) = journald.received()
    assert b"ValueError: detail" in datagram
    assert b"PRIORITY=7\n" in datagram
    assert b"SYSLOG_IDENTIFIER=hypernet-slot-manager\n" in datagram


def test_an_interruption_is_no_defect(capsys: pytest.CaptureFixture[str]) -> None:
    assert errors.report(KeyboardInterrupt(), program="hypernet-admin") == 130
    assert capsys.readouterr().err == "hypernet-admin: Interrupted.\n"


def test_every_error_class_has_the_exit_status_of_its_name() -> None:
    def subclasses(kind: type[errors.AgentError]) -> list[type[errors.AgentError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in subclasses(child))]

    ours = [kind for kind in subclasses(errors.AgentError) if kind.__module__.startswith("common.")]
    assert files.FileSystemFull in ours
    for kind in ours:
        short_name = kind.dbus_name.removeprefix(errors.ERROR_PREFIX)
        assert kind.exit_status == errors.EXIT_STATUS_BY_NAME[short_name], kind


@pytest.mark.parametrize("module", ["errors", "process", "files", "journal", "paths", "config", "notify"])
def test_small_modules_do_not_load_what_only_bus_services_need(module: str) -> None:
    program = f"import common.{module}, sys; print({{'asyncio', 'dbus_next', 'pystemd'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
