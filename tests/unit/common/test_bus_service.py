# SPDX-License-Identifier: Apache-2.0
"""The life of a service: start, idle exit, stop, and the end of the bus."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, MessageType
from dbus_next.message import Message

from common import bus
from common.bus import _service
from common.errors import AgentError, NotRunning
from tests.fakes.private_bus import PrivateBus, serving
from tests.unit.common.conftest import Datagrams

NAME = "io.hypernet.Test1"
PATH = "/io/hypernet/Test1"


class Worker(bus.Interface):
    INTERFACE = NAME

    def __init__(self, service: bus.Service) -> None:
        self.service = service
        self.job: asyncio.Task[None] | None = None

    @bus.method("Ping", "", "s")
    def ping(self) -> str:
        return "pong"

    @bus.method("Work", "d", "")
    async def work(self, duration_sec: float) -> None:
        self.job = asyncio.create_task(self._work(duration_sec))

    async def _work(self, duration_sec: float) -> None:
        with self.service.hold():
            try:
                await asyncio.sleep(duration_sec)
                self.finished("done")
            except asyncio.CancelledError:
                await asyncio.sleep(0.01)
                # More than a socket takes at once.
                self.finished("cancelled".ljust(5_000_000))
                raise

    @bus.signal("Finished", "s")
    def finished(self, result: str) -> None:
        """The work has ended."""


def setup(service: bus.Service) -> None:
    service.export(PATH, Worker(service))


def during_first_release(
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[], Awaitable[None]] | None = None,
    after: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Let something happen right before or right after a service gives up its name for the first time."""
    release = bus.Service._release
    seen: list[str] = []

    async def slow_release(self: bus.Service, name: str) -> None:
        first = not seen
        seen.append(name)
        if first and before is not None:
            await before()
        await release(self, name)
        if first and after is not None:
            await after()

    monkeypatch.setattr(bus.Service, "_release", slow_release)


@pytest.mark.usefixtures("private_bus")
def test_the_objects_are_there_before_the_name() -> None:
    events: list[str] = []

    async def slow_setup(service: bus.Service) -> None:
        async with bus.connect() as client:
            with pytest.raises(NotRunning):
                await client.call(NAME, PATH, NAME, "Ping")
        setup(service)
        events.append("exported")

    async def main() -> None:
        async with serving(NAME, slow_setup), bus.connect() as client:
            assert events == ["exported"]
            assert await client.call(NAME, PATH, NAME, "Ping") == ("pong",)

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_readiness_is_told_after_the_name_and_stopping_before_the_end(manager: Datagrams) -> None:
    async def main() -> None:
        async with serving(NAME, setup):
            assert manager.received() == [b"READY=1"]

    asyncio.run(main())
    assert manager.received() == [b"STOPPING=1"]


@pytest.mark.usefixtures("private_bus")
def test_readiness_is_not_told_when_setup_fails(manager: Datagrams) -> None:
    def broken(service: bus.Service) -> None:
        raise AgentError("The disk is gone.")

    with pytest.raises(AgentError, match="disk is gone"):
        asyncio.run(bus.serve(NAME, broken, idle_exit_sec=None))
    assert manager.received() == []


@pytest.mark.usefixtures("private_bus")
def test_the_watchdog_is_fed_while_the_loop_turns(
    manager: Datagrams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "50000")

    async def main() -> None:
        async with serving(NAME, setup):
            await asyncio.sleep(0.1)

    asyncio.run(main())
    assert manager.received().count(b"WATCHDOG=1") >= 3


@pytest.mark.usefixtures("private_bus")
def test_a_name_that_another_process_owns_is_an_error() -> None:
    async def main() -> None:
        async with serving(NAME, setup):
            with pytest.raises(bus.NameTaken, match=r"Another process owns io\.hypernet\.Test1"):
                await bus.serve(NAME, setup, idle_exit_sec=None)

    asyncio.run(main())


def test_no_bus_is_an_error_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
    with pytest.raises(NotRunning, match=r"^Cannot connect to the system bus: .*No such file"):
        asyncio.run(bus.serve(NAME, setup, idle_exit_sec=None))


@pytest.mark.usefixtures("private_bus")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_of_the_service_manager_ends_the_service_cleanly(number: int) -> None:
    async def main() -> int:
        async with serving(NAME, setup) as server:
            os.kill(os.getpid(), number)
            return await asyncio.wait_for(server.exit_status, 5)

    assert asyncio.run(main()) == 0


@pytest.mark.usefixtures("private_bus")
def test_a_service_can_end_itself_with_a_status() -> None:
    async def main() -> int:
        async with serving(NAME, setup) as server:
            server.service.stop(3)
            server.service.stop(4)
            return await asyncio.wait_for(server.exit_status, 5)

    assert asyncio.run(main()) == 3


@pytest.mark.usefixtures("private_bus")
def test_the_last_signal_before_the_end_arrives() -> None:
    async def main() -> None:
        async with bus.connect() as client, client.subscribe(NAME) as signals:

            def last_words(service: bus.Service) -> None:
                worker = Worker(service)
                service.export(PATH, worker)
                service.stop()
                asyncio.get_running_loop().call_later(0.02, worker.finished, "too late")
                worker.finished("in time")

            assert await bus.serve(NAME, last_words, idle_exit_sec=None) == 0
            assert (await asyncio.wait_for(signals.get(), 5)).args == ("in time",)

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_a_job_that_the_stop_cancels_can_still_tell_its_end() -> None:
    async def main() -> None:
        async with bus.connect() as client, client.subscribe(NAME) as signals:
            async with serving(NAME, setup):
                await client.call(NAME, PATH, NAME, "Work", "d", 60.0)
            assert (await asyncio.wait_for(signals.get(), 5)).args[0].strip() == "cancelled"

    asyncio.run(main())


def test_a_lost_bus_ends_the_service_with_status_1(
    private_bus_daemon: PrivateBus, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> int:
        async with serving(NAME, setup, idle_exit_sec=60) as server:
            private_bus_daemon.stop()
            return await asyncio.wait_for(server.exit_status, 5)

    assert asyncio.run(main()) == 1
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["The connection to the system bus is lost"]


def test_a_bus_lost_while_a_job_runs_ends_the_service_with_status_1(private_bus_daemon: PrivateBus) -> None:
    async def main() -> int:
        async with serving(NAME, setup, idle_exit_sec=0.1) as server:
            async with bus.connect() as client:
                await client.call(NAME, PATH, NAME, "Work", "d", 60.0)
                private_bus_daemon.stop()
            return await asyncio.wait_for(server.exit_status, 5)

    assert asyncio.run(main()) == 1


@pytest.mark.usefixtures("private_bus")
def test_an_idle_service_ends_and_gives_its_name_back(manager: Datagrams) -> None:
    async def main() -> int:
        async with serving(NAME, setup, idle_exit_sec=0.05) as server:
            return await asyncio.wait_for(server.exit_status, 5)

    assert asyncio.run(main()) == 0
    assert manager.received() == [b"READY=1", b"STOPPING=1"]


@pytest.mark.usefixtures("private_bus")
def test_calls_put_the_idle_exit_off() -> None:
    async def main() -> None:
        async with serving(NAME, setup, idle_exit_sec=0.15) as server, bus.connect() as client:
            for _ in range(8):
                await asyncio.sleep(0.04)
                await client.call(NAME, PATH, NAME, "Ping")
            assert not server.exit_status.done()

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_a_service_that_is_told_to_linger_stays_longer_and_never_shorter() -> None:
    async def main() -> float:
        async with serving(NAME, setup, idle_exit_sec=0.05) as server:
            started = time.monotonic()
            server.service.linger(0.4)
            server.service.linger(0.01)
            await asyncio.wait_for(server.exit_status, 5)
            return time.monotonic() - started

    assert asyncio.run(main()) > 0.3


@pytest.mark.usefixtures("private_bus")
def test_a_signal_that_waits_for_the_name_is_seen_as_the_services_and_the_end_comes_at_once() -> None:
    async def main() -> None:
        tasks: list[asyncio.Task[None]] = []

        async def tell(service: bus.Service, worker: Worker) -> None:
            with service.hold():
                await service.named()
                worker.finished("told")

        def setup_and_tell(service: bus.Service) -> None:
            worker = Worker(service)
            service.export(PATH, worker)
            tasks.append(asyncio.create_task(tell(service, worker)))

        async with bus.connect() as client, client.subscribe(NAME, sender=NAME) as signals:
            assert await asyncio.wait_for(bus.serve(NAME, setup_and_tell, idle_exit_sec=0), 5) == 0
            assert (await asyncio.wait_for(signals.get(), 5)).args == ("told",)

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_a_running_job_holds_the_service_until_it_is_done() -> None:
    async def main() -> None:
        async with bus.connect() as client, client.subscribe(NAME) as signals:
            async with serving(NAME, setup, idle_exit_sec=0.05) as server:
                await client.call(NAME, PATH, NAME, "Work", "d", 0.2)
                assert await asyncio.wait_for(server.exit_status, 5) == 0
            assert (await asyncio.wait_for(signals.get(), 5)).args == ("done",)

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_a_call_right_before_the_idle_exit_keeps_the_service_alive(
    manager: Datagrams, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        calls: list[asyncio.Task[Any]] = []
        async with bus.connect() as client:

            async def call() -> None:
                calls.append(asyncio.create_task(client.call(NAME, PATH, NAME, "Work", "d", 0.3)))
                await asyncio.sleep(0.02)

            during_first_release(monkeypatch, before=call)
            async with serving(NAME, setup, idle_exit_sec=0.05) as server:
                await asyncio.sleep(0.15)
                await calls[0]
                assert not server.exit_status.done()
                assert manager.received() == [b"READY=1"]
                assert await client.call(NAME, PATH, NAME, "Ping") == ("pong",)

    asyncio.run(main())


def test_a_call_right_after_the_name_was_given_up_is_answered(
    private_bus_daemon: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bus takes the call and asks for a start, which leads nowhere as we are still running."""
    activation = private_bus_daemon.services / f"{NAME}.service"
    activation.write_text(f"[D-BUS Service]\nName={NAME}\nExec=/bin/sleep 5\n")

    async def main() -> None:
        calls: list[asyncio.Task[Any]] = []
        async with bus.connect() as client:
            await client.call("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ReloadConfig")

            async def call() -> None:
                calls.append(asyncio.create_task(client.call(NAME, PATH, NAME, "Ping")))
                await asyncio.sleep(0.05)

            during_first_release(monkeypatch, after=call)
            async with serving(NAME, setup, idle_exit_sec=0.05) as server:
                assert await asyncio.wait_for(server.exit_status, 5) == 0
            assert await asyncio.wait_for(calls[0], 5) == ("pong",)

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_descriptors_in_a_message_are_refused_and_do_not_pile_up() -> None:
    async def main() -> None:
        async with serving(NAME, setup):
            sender = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(20):
                reply = await sender.call(
                    Message(
                        destination=NAME,
                        path=PATH,
                        interface=NAME,
                        member="Unknown",
                        signature="h",
                        body=[0],
                        unix_fds=[0],
                    )
                )
                assert reply.message_type is MessageType.ERROR
            assert len(os.listdir("/proc/self/fd")) == before
            sender.disconnect()
            await sender.wait_for_disconnect()

    asyncio.run(main())


@pytest.mark.usefixtures("private_bus")
def test_a_job_that_does_not_end_is_left_behind_after_the_grace_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_service, "STOP_GRACE_SEC", 0.05)

    async def stubborn(service: bus.Service) -> None:
        with service.hold():
            for _ in range(3):
                try:
                    await asyncio.sleep(0.2)
                except asyncio.CancelledError:
                    continue

    async def main() -> None:
        async with serving(NAME, setup) as server:
            job = asyncio.create_task(stubborn(server.service))
            await asyncio.sleep(0)
            started = time.monotonic()
            server.service.stop()
            assert await asyncio.wait_for(server.exit_status, 5) == 0
            assert time.monotonic() - started < 0.15
        await job

    asyncio.run(main())
