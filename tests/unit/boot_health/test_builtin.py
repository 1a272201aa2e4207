# SPDX-License-Identifier: Apache-2.0
"""The built-in checks by name, their options, and what holds for all that run inside boot-health."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agents.boot_health.builtin import BUILTINS, Outcome, Probe
from agents.boot_health.builtins import secrets, time_sync, units
from agents.boot_health.builtins.outcome import guarded
from agents.boot_health.builtins.secrets import UnitState
from common import bus, config
from common.errors import AgentError, ConfigError
from tests.fakes.private_bus import private_bus, private_bus_daemon, serving

from .conftest import Journal

__all__ = ["private_bus", "private_bus_daemon"]

PATH = Path("/config/hypernet/health.yaml")
MAN_PAGE = Path(__file__).parents[3] / "packaging/man/health.yaml.5"


def section(text: str) -> config.Section:
    return config.parse(text.encode(), PATH)


def probe(name: str, text: str = "") -> Probe:
    built = BUILTINS[name](section(text))
    assert callable(built)
    return built


def test_a_probe_that_fails_with_a_sentence_is_a_failed_outcome() -> None:
    def fail(_limit_sec: float) -> Outcome:
        raise AgentError("The disk is on fire.")

    assert guarded(fail)(1) == Outcome(False, "The disk is on fire.")


def test_a_defect_in_a_probe_shows_no_details(sent: Journal) -> None:
    def fail(_limit_sec: float) -> Outcome:
        raise KeyError("secret")

    outcome = guarded(fail)(1)

    assert not outcome.passed
    assert outcome.text.startswith("Internal error in boot-health")
    assert sent.messages == [("", "Internal error in a built-in check: KeyError")]


def test_a_probe_that_hangs_ends_in_time() -> None:
    release = threading.Event()
    begun = time.monotonic()

    def hang(_limit_sec: float) -> Outcome:
        release.wait(30)
        return Outcome(True, "")

    assert guarded(hang)(0.2) == Outcome(False, "No answer within 0.2 s.")
    assert time.monotonic() - begun < 5
    release.set()


@pytest.mark.parametrize("name", sorted(BUILTINS))
def test_no_option_is_taken_that_the_check_does_not_know(name: str) -> None:
    options = section("url: http://localhost/\nno_such_option: 1\n")
    BUILTINS[name](options)

    with pytest.raises(ConfigError, match=r"url: unknown|no_such_option: unknown"):
        options.finish()


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("mounts", "paths: [data]", "paths: 'data' is no absolute path; write one such as /data"),
        ("mounts", "paths: [/data]\nnofail: true", "nofail: is about fstab(5); leave it out beside 'paths'"),
        ("disk-space", "paths: [data]", "paths: 'data' is no absolute path; write one such as /data"),
        ("disk-space", "paths: [/home/a]", "'/home/a' is not visible to this check; name its partition"),
        ("disk-space", "paths: [/tmp/]", "'/tmp/' is not visible to this check; name its partition"),
        ("disk-space", "min_free: 100%", "must be a percentage below 100 or a size"),
        ("disk-space", "min_free: many", "must be a percentage below 100 or a size"),
        ("disk-space", "min_free_inodes: 10M", "min_free_inodes: must be a percentage such as 5%"),
        ("database", "port: 0", "port: 0 is too small, at least 1 is allowed"),
        ("database", "host: --version", "host: must be the name of a host, or the folder of a socket"),
        ("http", "status: 200", "url: is missing, but it is required"),
        ("http", "url: ftp://a/", "url: is no URL of http or https"),
        ("http", "url: 'http://'", "url: is no URL of http or https"),
        ("http", "url: 'http://a b/'", "url: is no URL of http or https"),
        ("http", "url: 'http://[1/'", "url: is no URL of http or https"),
        ("http", "url: 'http://a:99999/'", "url: is no URL of http or https"),
        ("http", "url: 'http://u:p@a/'", "url: must not hold a user or password"),
        ("http", "url: http://a/\nstatus: 99", "status: 99 is too small"),
        ("http", "url: https://a/\nca_file: ca.pem", "ca_file: must be an absolute path"),
        ("http", "url: http://a/\nca_file: /ca.pem", "ca_file: must be an absolute path, and goes with"),
    ],
)
def test_wrong_options_are_refused_with_file_and_line(name: str, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)) as caught:
        BUILTINS[name](section(text))
    assert str(caught.value).startswith(f"{PATH}:")


def test_the_database_is_asked_by_pg_isready() -> None:
    assert BUILTINS["database"](section("")) == ("pg_isready", "--timeout=10")
    assert BUILTINS["database"](section("host: /run/postgresql\nport: 5433\ntimeout: 0.5\n")) == (
        "pg_isready",
        "--host=/run/postgresql",
        "--port=5433",
        "--timeout=1",
    )


def test_a_server_is_asked_by_our_own_program() -> None:
    program = "/usr/lib/hypernet/boot-health"
    assert BUILTINS["http"](section("url: http://[::1]:8000/health?a=b")) == (
        program,
        "probe-http",
        "http://[::1]:8000/health?a=b",
        "200",
    )
    assert BUILTINS["http"](section("url: https://a/\nstatus: 204\nca_file: /config/ca.pem")) == (
        program,
        "probe-http",
        "--ca-file=/config/ca.pem",
        "https://a/",
        "204",
    )


def test_failed_units_are_named() -> None:
    outcome = units.judge(["nginx.service", "data.mount"], ())

    assert outcome == Outcome(False, "data.mount has failed.\nnginx.service has failed.")


def test_checks_and_ignored_units_do_not_count_as_failed() -> None:
    failed = ["hypernet-check-api-1.service", "modem@usb0.service", "logrotate.service"]

    assert units.judge(failed, ["modem@*", "logrotate.service"]) == Outcome(True, "No unit has failed.")


@pytest.mark.parametrize(
    ("state", "passed", "text"),
    [
        (UnitState("not-found", "inactive"), True, "there are no secrets to open"),
        (UnitState("loaded", "active"), True, "is active"),
        (UnitState("loaded", "inactive"), True, "is inactive"),
        (UnitState("loaded", "failed"), False, "is failed; see 'journalctl -u"),
        (UnitState("loaded", "activating"), False, "is activating"),
        (UnitState("masked", "inactive"), False, "cannot be started, it is masked"),
        (UnitState("bad-setting", "inactive"), False, "cannot be started, it is bad-setting"),
    ],
)
def test_the_unit_of_the_secrets_decides(state: UnitState, passed: bool, text: str) -> None:
    outcome = secrets.judge(state)

    assert outcome.passed is passed
    assert text in outcome.text


class FakeManager(bus.Interface):
    INTERFACE = "org.freedesktop.systemd1.Manager"

    @bus.method("LoadUnit", "s", "o")
    def load_unit(self, name: str) -> str:
        assert name == secrets.UNIT
        return "/org/freedesktop/systemd1/unit/x"


class FakeUnit(bus.Interface):
    INTERFACE = "org.freedesktop.systemd1.Unit"

    def __init__(self, *states: str) -> None:
        super().__init__()
        self._states = list(states)

    @bus.prop("LoadState", "s")
    def load_state(self) -> str:
        return "loaded"

    @bus.prop("ActiveState", "s")
    def active_state(self) -> str:
        return self._states.pop(0) if len(self._states) > 1 else self._states[0]


class FakeClock(bus.Interface):
    """Is synchronised from the answer with this number on."""

    INTERFACE = time_sync.NAME

    def __init__(self, number: int) -> None:
        super().__init__()
        self._left = number

    @bus.prop("NTPSynchronized", "b")
    def synchronized(self) -> bool:
        self._left -= 1
        return self._left <= 0


async def while_serving(name: str, objects: dict[str, bus.Interface], call: Callable[[], Any]) -> Any:
    def setup(service: bus.Service) -> Awaitable[None] | None:
        for path, interface in objects.items():
            service.export(path, interface)
        return None

    async with serving(name, setup):
        return await asyncio.to_thread(call)


def ask_systemd(unit: FakeUnit) -> Outcome:
    objects: dict[str, bus.Interface] = {
        "/org/freedesktop/systemd1": FakeManager(),
        "/org/freedesktop/systemd1/unit/x": unit,
    }
    call = while_serving("org.freedesktop.systemd1", objects, lambda: probe("secrets")(2))
    outcome: Outcome = asyncio.run(call)
    return outcome


def test_secrets_that_are_still_being_opened_are_waited_for(private_bus: str) -> None:
    outcome = ask_systemd(FakeUnit("activating", "active"))

    assert outcome == Outcome(True, f"{secrets.UNIT} is active.")


def test_secrets_that_could_not_be_opened_fail_at_once(private_bus: str) -> None:
    begun = time.monotonic()

    assert not ask_systemd(FakeUnit("failed")).passed
    assert time.monotonic() - begun < 1.5


def ask_clock(number: int, limit_sec: float) -> Outcome:
    objects: dict[str, bus.Interface] = {time_sync.PATH: FakeClock(number)}
    outcome: Outcome = asyncio.run(
        while_serving(time_sync.NAME, objects, lambda: probe("time-sync")(limit_sec))
    )
    return outcome


def test_a_clock_that_is_not_synchronised_yet_is_waited_for(private_bus: str) -> None:
    assert ask_clock(2, 10) == Outcome(True, "The clock is synchronised.")


def test_a_clock_that_stays_alone_fails_with_a_hint() -> None:
    asked: list[int] = []

    async def ask() -> bool:
        asked.append(1)
        return False

    outcome = asyncio.run(time_sync.wait(ask, time.monotonic() + 0.1, poll_sec=0.01))

    assert outcome == Outcome(False, "The clock is not synchronised; see 'timedatectl timesync-status'.")
    assert len(asked) > 1


def test_without_anybody_to_ask_about_the_clock_the_check_fails(private_bus: str) -> None:
    outcome = probe("time-sync")(5)

    assert not outcome.passed
    assert time_sync.NAME in outcome.text


@pytest.mark.parametrize("name", sorted(BUILTINS))
def test_each_check_is_in_the_man_page(name: str) -> None:
    assert f"\n.B {name.replace('-', chr(92) + '-')}\n" in MAN_PAGE.read_text(encoding="utf-8")
