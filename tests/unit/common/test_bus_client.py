# SPDX-License-Identifier: Apache-2.0
"""Calls and subscriptions from the caller's side."""

from __future__ import annotations

import asyncio
import time

import pytest
from dbus_next.message import Message

from common import bus
from common.bus import _client
from common.errors import AgentError, NotRunning
from tests.fakes.private_bus import PrivateBus, serving

NAME = "io.hypernet.Test1"
PATH = "/io/hypernet/Test1"


class Sleeper(bus.Interface):
    INTERFACE = NAME

    @bus.method("Sleep", "d", "")
    async def sleep(self, duration_sec: float) -> None:
        await asyncio.sleep(duration_sec)

    @bus.signal("Woken", "x")
    def woken(self, times: int) -> None:
        """Somebody woke up."""

    @bus.signal("Snored", "")
    def snored(self) -> None:
        """Somebody snored."""


@pytest.mark.usefixtures("private_bus")
def test_a_service_that_is_not_there_is_not_running() -> None:
    async def main() -> None:
        async with bus.connect() as client:
            with pytest.raises(NotRunning, match=r"^io\.hypernet\.Test1 cannot be reached for Sleep"):
                await client.call(NAME, PATH, NAME, "Sleep", "d", 0.0)

    asyncio.run(main())


def test_a_bus_that_is_not_there_is_not_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")

    async def main() -> None:
        with pytest.raises(NotRunning):
            async with bus.connect():
                pass

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_a_slow_answer_is_an_error_after_the_time_limit() -> None:
    async def main() -> None:
        async with serving(NAME, lambda service: service.export(PATH, Sleeper())), bus.connect() as client:
            with pytest.raises(AgentError, match=r"did not answer Sleep within 0\.05 s"):
                await client.call(NAME, PATH, NAME, "Sleep", "d", 60.0, timeout_sec=0.05)

    asyncio.run(main())


def test_calls_during_and_after_the_loss_of_the_bus_do_not_hang(private_bus_daemon: PrivateBus) -> None:
    async def main() -> None:
        async with serving(NAME, lambda service: service.export(PATH, Sleeper())), bus.connect() as client:
            pending = asyncio.create_task(client.call(NAME, PATH, NAME, "Sleep", "d", 60.0))
            await asyncio.sleep(0.02)
            started = time.monotonic()
            private_bus_daemon.stop()
            with pytest.raises(NotRunning, match="is lost"):
                await pending
            with pytest.raises(NotRunning, match="is lost"):
                await client.call(NAME, PATH, NAME, "Sleep", "d", 60.0)
            assert time.monotonic() - started < 2

    asyncio.run(main())


def test_waiting_for_a_signal_ends_with_the_bus(private_bus_daemon: PrivateBus) -> None:
    async def main() -> None:
        async with bus.connect() as client, client.subscribe(NAME) as signals:
            waiting = asyncio.create_task(signals.get())
            await asyncio.sleep(0)
            private_bus_daemon.stop()
            for _ in range(2):
                with pytest.raises(NotRunning, match="is lost"):
                    await asyncio.wait_for(waiting, 5)
                waiting = asyncio.create_task(signals.get())
            waiting.cancel()

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_a_subscription_gets_only_what_it_asked_for() -> None:
    async def main() -> None:
        sleeper, other = Sleeper(), Sleeper()

        def setup(service: bus.Service) -> None:
            service.export(PATH, sleeper)
            service.export("/other", other)

        async with (
            serving(NAME, setup),
            bus.connect() as client,
            client.subscribe(NAME, "Woken", PATH) as signals,
            client.subscribe(NAME) as everything,
        ):
            other.woken(1)
            sleeper.snored()
            sleeper.woken(2)
            assert (await asyncio.wait_for(signals.get(), 5)).args == (2,)
            assert signals.empty()
            assert everything.qsize() == 3

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_a_forged_signal_does_not_reach_who_named_the_sender() -> None:
    async def main() -> None:
        real, forged = Sleeper(), Sleeper()
        async with (
            serving(NAME, lambda service: service.export(PATH, real)),
            serving("io.hypernet.Forger1", lambda service: service.export(PATH, forged)) as forger,
            bus.connect() as client,
            client.subscribe(NAME, sender=NAME) as signals,
        ):
            forged.woken(666)
            addressed = Message.new_signal(PATH, NAME, "Woken", "x", [667])
            addressed.destination = client._connection.unique_name
            forger.service._connection.send(addressed)
            await asyncio.sleep(0.02)
            real.woken(1)
            assert (await asyncio.wait_for(signals.get(), 5)).args == (1,)

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_a_reader_that_is_far_behind_loses_the_oldest_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_client, "MAX_QUEUED_SIGNALS", 2)

    async def main() -> None:
        sleeper = Sleeper()
        async with (
            serving(NAME, lambda service: service.export(PATH, sleeper)) as server,
            bus.connect() as client,
            client.subscribe(NAME) as signals,
        ):
            for times in range(4):
                sleeper.woken(times)
            await server.service._connection.flush()
            await client._connection.flush()
            assert [(await signals.get()).args for _ in range(2)] == [(2,), (3,)]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("io.hypernet.Error.Downgrade", 11),
        ("io.hypernet.Error.NeverHeardOf", 1),
        ("org.freedesktop.DBus.Error.AccessDenied", 4),
        ("org.freedesktop.DBus.Error.InvalidArgs", 1),
    ],
)
def test_an_error_of_a_service_has_the_exit_status_of_its_name(name: str, status: int) -> None:
    assert bus.RemoteError(name, "No.").exit_status == status
