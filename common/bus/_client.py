# SPDX-License-Identifier: Apache-2.0
"""Calling other services and listening to their signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from dbus_next.constants import MessageType

from common.bus._connection import Connection, open_connection
from common.bus._interface import PROPERTIES
from common.bus._values import from_wire
from common.errors import AgentError, NotRunning

logger = logging.getLogger(__name__)

CALL_TIMEOUT_SEC: Final = 25.0
MAX_QUEUED_SIGNALS: Final = 1000


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal that arrived; args are plain Python values."""

    path: str
    member: str
    args: tuple[Any, ...]


class SignalQueue(asyncio.Queue[Any]):
    """The signals of one subscription, oldest first: get() and get_nowait() return a Signal.

    Both raise NotRunning when all has been read and the bus is gone.
    """

    async def get(self) -> Signal:
        """Wait for the next signal and return it."""
        # The base class takes the item with get_nowait(), which knows what the end looks like.
        signal: Signal = await super().get()
        return signal

    def get_nowait(self) -> Signal:
        """Return the next signal; raises asyncio.QueueEmpty if there is none now."""
        signal: Signal | None = super().get_nowait()
        if signal is None:
            self.put_nowait(None)
            raise NotRunning("The connection to the system bus is lost; start again.")
        return signal

    def deliver(self, signal: Signal) -> None:
        """Append a signal; the oldest one is dropped if the reader is far behind."""
        if self.qsize() >= MAX_QUEUED_SIGNALS:
            logger.warning("A signal %s is dropped: too many wait", self.get_nowait().member)
        self.put_nowait(signal)

    def end(self, _lost: asyncio.Future[None]) -> None:
        """Note that nothing can follow."""
        self.put_nowait(None)


class Client:
    """Calls and subscriptions on one connection; see connect()."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *args: Any,
        timeout_sec: float = CALL_TIMEOUT_SEC,
        interactive: bool = False,
    ) -> tuple[Any, ...]:
        """Call a method and return its out values as plain Python values.

        interactive: polkit may ask the user for a password; give a longer timeout_sec, too. Raises
        RemoteError, NotRunning if the service or the bus cannot be reached, AgentError if there is no answer
        in time.
        """
        return await self._connection.call(
            destination,
            path,
            interface,
            member,
            signature,
            args,
            timeout_sec=timeout_sec,
            interactive=interactive,
        )

    async def get_property(self, destination: str, path: str, interface: str, name: str) -> Any:
        """Return one property; raises as call() does."""
        (value,) = await self.call(destination, path, PROPERTIES, "Get", "ss", interface, name)
        return value

    async def get_all(self, destination: str, path: str, interface: str) -> dict[str, Any]:
        """Return all properties of an interface by name; raises as call() does."""
        (values,) = await self.call(destination, path, PROPERTIES, "GetAll", "s", interface)
        return dict(values)

    @asynccontextmanager
    async def subscribe(
        self,
        interface: str,
        member: str | None = None,
        path: str | None = None,
        *,
        sender: str | None = None,
    ) -> AsyncIterator[SignalQueue]:
        """Collect broadcast signals of an interface while the context lasts.

        member, path: only these. sender: only those that the owner of this bus name sent; without it,
        anybody on the bus can forge them. Raises RemoteError or NotRunning.
        """
        wanted = {"interface": interface, "member": member, "path": path, "sender": sender}
        rule = ",".join(
            ["type='signal'", *(f"{key}='{value}'" for key, value in wanted.items() if value is not None)]
        )
        queue = SignalQueue()
        self._connection.lost.add_done_callback(queue.end)

        def on_message(message: Any) -> None:
            if (
                message.message_type is MessageType.SIGNAL
                # A signal that is addressed to us did not pass the match rule with its sender.
                and message.destination is None
                and message.interface == interface
                and member in (None, message.member)
                and path in (None, message.path)
            ):
                queue.deliver(Signal(message.path, message.member, tuple(from_wire(message.body))))

        self._connection.bus.add_message_handler(on_message)
        try:
            await self._connection.call_bus("AddMatch", "s", rule)
            yield queue
        finally:
            self._connection.lost.remove_done_callback(queue.end)
            self._connection.bus.remove_message_handler(on_message)
            with contextlib.suppress(AgentError):
                await self._connection.call_bus("RemoveMatch", "s", rule)


@asynccontextmanager
async def connect(*, descriptors: bool = False) -> AsyncIterator[Client]:
    """Connect to the system bus ($DBUS_SYSTEM_BUS_ADDRESS if set); raises NotRunning.

    descriptors: calls may carry file descriptors, as arguments of type "h".
    """
    connection = await open_connection(descriptors=descriptors)
    try:
        yield Client(connection)
    finally:
        await connection.close()
