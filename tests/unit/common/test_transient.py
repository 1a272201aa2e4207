# SPDX-License-Identifier: Apache-2.0
"""Transient services: what systemd is told, what is made of its answers and of the journal's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest

from common import process, transient
from common.errors import AgentError
from common.transient import Ended, Start
from common.units import Value

INVOCATION = bytes(range(16)).hex()
START = Start(1000, INVOCATION)


def run(name: str, *argv: str, limit_sec: float = 10, **properties: Value) -> Ended:
    return transient.run(name, argv or ("true",), properties, limit_sec=limit_sec)


def told(systemd: subprocess.Popen[str]) -> tuple[list[Any], dict[str, Any]]:
    assert systemd.stdout is not None
    name, mode, properties, others = json.loads(systemd.stdout.readline())
    return [name, mode, others], dict(properties)


def test_a_service_that_ends_well_is_waited_for(systemd: subprocess.Popen[str]) -> None:
    assert run("good.service") == Ended("success", 0, Start(5, INVOCATION))


def test_a_service_that_ends_badly_is_told_with_its_status(systemd: subprocess.Popen[str]) -> None:
    assert run("bad.service") == Ended("exit-code", 7, Start(5, INVOCATION))


def test_a_service_that_a_signal_ended_is_no_success(systemd: subprocess.Popen[str]) -> None:
    # For systemd it is: SIGTERM is how services are stopped.
    assert run("ended.service") == Ended("signal", 15, Start(5, INVOCATION))


def test_a_service_whose_job_was_cancelled_is_no_success(systemd: subprocess.Popen[str]) -> None:
    assert run("lost.service") == Ended("not-started")


def test_systemd_is_given_up_on_when_a_service_does_not_end(
    systemd: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transient, "_SLACK_SEC", 0.1)
    assert run("hangs.service", limit_sec=0.1) == Ended("timeout")


def test_a_service_that_somebody_left_running_is_ended_first(systemd: subprocess.Popen[str]) -> None:
    assert systemd.stdout is not None
    run("left.service")
    assert systemd.stdout.readline() == "stop left.service replace\n"
    assert told(systemd)[0][0] == "left.service"


def test_a_time_limit_of_nothing_is_not_one_without_end(systemd: subprocess.Popen[str]) -> None:
    run("good.service", limit_sec=0.0000001)
    assert told(systemd)[1]["RuntimeMaxUSec"] == 1


def test_a_name_that_is_taken_is_an_error_in_one_sentence(systemd: subprocess.Popen[str]) -> None:
    with pytest.raises(
        AgentError, match=r"^Cannot run taken\.service: Unit taken\.service was already loaded\.$"
    ):
        run("taken.service")


def test_properties_of_each_type_arrive_as_they_are(systemd: subprocess.Popen[str]) -> None:
    run("good.service", DynamicUser=True, User="x", TasksMax=64, After=("a.service", "b.service"))
    head, properties = told(systemd)
    assert head == ["good.service", "fail", []]
    assert properties["DynamicUser"] is True
    assert properties["User"] == "x"
    assert properties["TasksMax"] == 64
    assert properties["After"] == ["a.service", "b.service"]


def test_the_time_limit_is_systemds_own(systemd: subprocess.Popen[str]) -> None:
    run("good.service", limit_sec=2.5)
    assert told(systemd)[1]["RuntimeMaxUSec"] == 2_500_000


def test_no_shell_and_no_variable_touches_the_command(systemd: subprocess.Popen[str]) -> None:
    run("good.service", "echo", "$HOME", "a;b", "*", "")
    ((path, argv, ignore_failure),) = told(systemd)[1]["ExecStart"]
    assert (path, argv, ignore_failure) == ("echo", ["echo", "$$HOME", "a;b", "*", ""], False)


class Journalctl:
    """Journalctl as it is called, with lines of its own."""

    def __init__(self, *entries: dict[str, Any]) -> None:
        self.calls: list[tuple[str, ...]] = []
        self._said = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)

    def run(self, argv: Sequence[str], **limits: object) -> process.Completed:
        self.calls.append(tuple(argv))
        return process.Completed(tuple(argv), 0, self._said, "")


def entry(unit: str, message: object, usec: int = 2000, **fields: str) -> dict[str, Any]:
    return {"_SYSTEMD_UNIT": unit, "MESSAGE": message, "__MONOTONIC_TIMESTAMP": str(usec), **fields}


@pytest.fixture
def journalctl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Journalctl:
    played = Journalctl(*request.param)
    monkeypatch.setattr(process, "run", played.run)
    return played


@pytest.mark.parametrize(
    "journalctl",
    [
        [
            entry("a.service", "an earlier start", 999),
            entry("a.service", "an earlier boot", 5000, _SYSTEMD_INVOCATION_ID="f" * 32),
            entry("a.service", "one"),
            entry("b.service", "other", _SYSTEMD_INVOCATION_ID=INVOCATION),
            entry("a.service", [255, 10, 195, 164], _SYSTEMD_INVOCATION_ID=INVOCATION),
            entry("a.service", None),
            entry("c.service", "nobody asked"),
        ]
    ],
    indirect=True,
)
def test_only_what_was_written_since_the_start_is_returned_by_unit(journalctl: Journalctl) -> None:
    said = transient.outputs({"a.service": START, "b.service": START, "quiet.service": START}, sync=False)
    assert said == {"a.service": b"one\n\xff\n\xc3\xa4\n", "b.service": b"other\n", "quiet.service": b""}


@pytest.mark.parametrize("journalctl", [[]], indirect=True)
def test_the_journal_is_asked_once_for_all_units_when_nothing_failed(journalctl: Journalctl) -> None:
    transient.outputs({"a.service": START, "b.service": START}, sync=False)
    (asked,) = journalctl.calls
    assert {"_SYSTEMD_UNIT=a.service", "_SYSTEMD_UNIT=b.service", "--lines=200"} <= set(asked)


@pytest.mark.parametrize("journalctl", [[]], indirect=True)
def test_a_unit_that_says_much_cannot_hide_what_another_said(journalctl: Journalctl) -> None:
    transient.outputs({"a.service": START, "b.service": START}, sync=True)
    synced, *asked = journalctl.calls
    assert synced == ("journalctl", "--sync")
    assert [(words[-2], words[-1]) for words in asked] == [
        ("--lines=100", "_SYSTEMD_UNIT=a.service"),
        ("--lines=100", "_SYSTEMD_UNIT=b.service"),
    ]


@pytest.mark.parametrize("journalctl", [[entry("a.service", "why")]], indirect=True)
def test_what_is_in_the_journal_is_told_although_it_cannot_be_synced(
    journalctl: Journalctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(argv: Sequence[str], **limits: object) -> process.Completed:
        if "--sync" in argv:
            raise AgentError("journalctl did not end within 10 s.")
        return journalctl.run(argv)

    monkeypatch.setattr(process, "run", run)
    assert transient.outputs({"a.service": START}, sync=True) == {"a.service": b"why\n"}


@pytest.mark.parametrize("journalctl", [[]], indirect=True)
def test_the_journal_is_not_asked_for_nothing(journalctl: Journalctl) -> None:
    assert transient.outputs({}, sync=False) == {}
    assert journalctl.calls == []
