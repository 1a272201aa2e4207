# SPDX-License-Identifier: Apache-2.0
"""The life of a D-Bus service: start, watchdog, idle exit, stop."""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread
from typing import Any, Final

from dbus_next.constants import MessageFlag, NameFlag, RequestNameReply
from dbus_next.message import Message
from dbus_next.validators import assert_object_path_valid

from common import notify
from common.bus._client import Client
from common.bus._connection import Connection, close_descriptors, open_connection
from common.bus._dispatch import Dispatcher
from common.bus._interface import Interface
from common.bus._polkit import authorize
from common.errors import AgentError

logger = logging.getLogger(__name__)

STOP_GRACE_SEC: Final = 30.0
"""Time that cancelled methods and jobs get to clean up."""

_EXTENSION_SEC: Final = 30.0
_BUSY_POLL_SEC: Final = 0.05


class NameTaken(AgentError):
    """Another process owns the bus name."""


class Service:
    """The objects of one process on the bus. ``client``: calls other services over the same connection."""

    def __init__(self, connection: Connection) -> None:
        self.client = Client(connection)
        self._connection = connection
        self._dispatcher = Dispatcher(self._authorize)
        self._calls: set[asyncio.Task[None]] = set()
        self._holds: dict[object, asyncio.Task[Any] | None] = {}
        self._loop = asyncio.get_running_loop()
        self._calls_seen = 0
        self._last_activity = self._loop.time()
        self._idle_exit_sec = 0.0
        self._named = asyncio.Event()
        self._stopped: asyncio.Future[int] = self._loop.create_future()
        connection.bus.add_message_handler(self._on_message)

    def export(self, path: str, interface: Interface) -> None:
        """Make interface available at path, beside others; ValueError if it has one of that name."""
        assert_object_path_valid(path)
        interfaces = self._dispatcher.objects.setdefault(path, {})
        if interface.INTERFACE in interfaces:
            raise ValueError(f"{path} already has an interface {interface.INTERFACE}")
        interfaces[interface.INTERFACE] = interface
        interface._attach(path, self._emit)

    def unexport(self, path: str) -> None:
        """Remove the object at path with all its interfaces; KeyError if there is none."""
        for interface in self._dispatcher.objects.pop(path).values():
            interface._detach(path)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Prevent the idle exit while the context lasts.

        When the service is stopped, the tasks that entered such a context are cancelled and get
        STOP_GRACE_SEC; the signals that they send in that time still arrive.
        """
        key = object()
        self._holds[key] = asyncio.current_task()
        try:
            yield
        finally:
            del self._holds[key]
            self._touch()

    def linger(self, idle_exit_sec: float) -> None:
        """Stay at least this long after the last call from now on: somebody may want to ask how it ended."""
        self._idle_exit_sec = max(self._idle_exit_sec, idle_exit_sec)

    async def named(self) -> None:
        """Wait until the name is owned: signals that are sent before are not seen as the service's."""
        await self._named.wait()

    def stop(self, status: int = 0) -> None:
        """End serve(), which then returns status; calls after the first have no effect."""
        if not self._stopped.done():
            self._stopped.set_result(status)

    async def run(
        self, name: str, setup: Callable[[Service], Awaitable[None] | None], idle_exit_sec: float | None
    ) -> int:
        """Set up, own name, and return the exit status at the end; see serve()."""
        background: list[asyncio.Task[None]] = []
        idle: asyncio.Future[None] = self._loop.create_future()
        if idle_exit_sec is not None:
            self.linger(idle_exit_sec)
        try:
            # Objects first: a caller that waited for the name must find them.
            pending = setup(self)
            if inspect.isawaitable(pending):
                await pending
            await self._request(name)
            self._named.set()
            notify.ready()
            background.append(asyncio.create_task(_watchdog()))
            if idle_exit_sec is not None:
                self._touch()
                idle = asyncio.create_task(self._idle_out(name))
                background.append(idle)
            ends: list[asyncio.Future[Any]] = [self._stopped, self._connection.lost, idle]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not self._connection.alive:
                logger.error("The connection to the system bus is lost")
                self.stop(1)
            elif idle.done():
                idle.result()
                self.stop(0)
            else:
                notify.stopping()
                with suppress(AgentError):
                    await self._release(name)
            return await self._stopped
        finally:
            await _cancel([*background, *self._calls, *filter(None, self._holds.values())])

    async def _idle_out(self, name: str) -> None:
        """Return after a time with nothing to do, when no caller can be left without an answer."""
        while True:
            await self._until_idle()
            seen = self._calls_seen
            await self._release(name)
            # All that the bus took for us before the release is here now.
            if self._calls_seen == seen:
                break
            await self._request(name)
        notify.stopping()
        # Between the release and this message systemd still took us for running, so it started nobody for a
        # call of that moment. The bus has kept that call: own the name for an instant to get it.
        with suppress(AgentError):
            await self._request(name)
            await self._release(name)
        while self._busy():
            notify.extend_timeout(int(_EXTENSION_SEC * 1e6))
            await self._until_done(_EXTENSION_SEC / 2)

    async def _until_idle(self) -> None:
        while True:
            wait_sec = self._last_activity + self._idle_exit_sec - self._loop.time()
            if self._busy():
                wait_sec = max(self._idle_exit_sec, _BUSY_POLL_SEC)
            if wait_sec <= 0:
                return
            await asyncio.sleep(wait_sec)

    async def _until_done(self, limit_sec: float) -> None:
        started = self._loop.time()
        while self._busy() and self._loop.time() - started < limit_sec:
            await asyncio.sleep(_BUSY_POLL_SEC)

    def _busy(self) -> bool:
        return bool(self._calls or self._holds)

    def _touch(self) -> None:
        self._last_activity = self._loop.time()

    async def _request(self, name: str) -> None:
        flags = NameFlag.DO_NOT_QUEUE.value
        (reply,) = await self._connection.call_bus("RequestName", "su", name, flags)
        if reply != RequestNameReply.PRIMARY_OWNER.value:
            raise NameTaken(f"Another process owns {name} on the system bus; stop it first.")

    async def _release(self, name: str) -> None:
        await self._connection.call_bus("ReleaseName", "s", name)

    async def _authorize(self, sender: str, action: str, interactive: bool) -> None:
        await authorize(self._connection, sender, action, interactive=interactive)

    def _on_message(self, message: Any) -> bool:
        if not self._dispatcher.is_for_us(message):
            close_descriptors(message)
            return False
        self._calls_seen += 1
        task = asyncio.create_task(self._answer(message))
        self._calls.add(task)
        task.add_done_callback(self._forget)
        task.add_done_callback(lambda _: close_descriptors(message))
        return True

    async def _answer(self, message: Any) -> None:
        reply = await self._dispatcher.reply_to(message)
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            self._connection.send(reply)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._touch()

    def _emit(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        self._connection.send(Message.new_signal(path, interface, member, signature, body))


async def serve(
    name: str,
    setup: Callable[[Service], Awaitable[None] | None],
    *,
    idle_exit_sec: float | None,
    descriptors: bool = False,
) -> int:
    """Serve the objects that setup exports under the bus name, and return the exit status of the process.

    Tells the service manager READY after the name is owned, then pings its watchdog. Ends with 0 on SIGTERM,
    SIGINT (in the main thread) or after idle_exit_sec (see Service.linger) without a call and without a hold
    (None: never), with the status of Service.stop(), and with 1 when the bus is gone. Whatever was sent has
    reached the bus by then. descriptors: whether methods take file descriptors ("h"); they are closed when
    the method has returned. Raises NotRunning without a bus, and NameTaken if another process owns the name.
    """
    connection = await open_connection(descriptors=descriptors)
    service = Service(connection)
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT) if current_thread() is main_thread() else ()
    for number in numbers:
        loop.add_signal_handler(number, service.stop)
    try:
        return await service.run(name, setup, idle_exit_sec)
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
        await connection.close()


async def _watchdog() -> None:
    interval_sec = notify.watchdog_interval_sec()
    while interval_sec is not None:
        notify.watchdog()
        await asyncio.sleep(interval_sec)


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    pending = {task for task in tasks if not task.done()} - {asyncio.current_task()}
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending, timeout=STOP_GRACE_SEC)
