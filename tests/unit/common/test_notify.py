# SPDX-License-Identifier: Apache-2.0
"""Messages to the service manager."""

from __future__ import annotations

import os

import pytest

from common import notify
from tests.unit.common.conftest import Datagrams


def test_readiness_is_delivered_beside_a_status_that_is_not_ascii(manager: Datagrams) -> None:
    notify.ready()
    notify.status("slot → good, größer\nREADY=0")
    assert manager.received() == [b"READY=1", b"STATUS=slot ? good, gr??er READY=0"]


def test_all_messages_have_the_names_of_sd_notify(manager: Datagrams) -> None:
    notify.stopping()
    notify.watchdog()
    notify.extend_timeout(5_000_000)
    assert manager.received() == [b"STOPPING=1", b"WATCHDOG=1", b"EXTEND_TIMEOUT_USEC=5000000"]


def test_nothing_happens_without_a_service_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.ready()


@pytest.mark.parametrize(
    ("environment", "interval_sec"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_asked(
    environment: dict[str, str], interval_sec: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert notify.watchdog_interval_sec() == interval_sec
