# SPDX-License-Identifier: Apache-2.0
"""One connection to the system bus: sends, calls with a time limit, and notices that the bus is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any, Final

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, MessageFlag, MessageType
from dbus_next.message import Message

from common.bus._values import from_wire, taken_out, text, to_body
from common.errors import AgentError, NotPermitted, NotRunning, exit_status_of

BUS_NAME: Final = "org.freedesktop.DBus"
BUS_PATH: Final = "/org/freedesktop/DBus"
BUS_CALL_TIMEOUT_SEC: Final = 10.0

_STANDARD_PREFIX: Final = BUS_NAME + ".Error."
_NOT_RUNNING: Final = ("Disconnected", "NameHasNoOwner", "NoReply", "ServiceUnknown", "TimedOut", "Timeout")
_NOT_PERMITTED: Final = ("AccessDenied", "AuthFailed", "InteractiveAuthorizationRequired")


class RemoteError(AgentError):
    """An error that the called service answered. ``dbus_name``: its name; ``message``: its sentence."""

    def __init__(self, dbus_name: str, message: str) -> None:
        super().__init__(message)
        self.dbus_name = dbus_name
        self.message = message
        standard = dbus_name.removeprefix(_STANDARD_PREFIX)
        if standard in _NOT_PERMITTED:
            self.exit_status = NotPermitted.exit_status
        else:
            self.exit_status = exit_status_of(dbus_name)


class Connection:
    """A connection that was opened by open_connection().

    ``lost`` is a future that is done as soon as the connection has ended, whoever ended it.
    """

    def __init__(self, bus: Any) -> None:
        self.bus = bus
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bus.add_message_handler(_without_descriptors)
        self._watch = asyncio.create_task(self._wait_for_end())

    @property
    def unique_name(self) -> str:
        """The name that the bus gave to this connection, such as ":1.42"."""
        return str(self.bus.unique_name)

    @property
    def alive(self) -> bool:
        """Whether messages can still be sent."""
        return bool(self.bus.connected)

    def send(self, message: Any) -> None:
        """Queue a message; it is dropped if the bus is gone."""
        if self.alive:
            # The future fails if the bus goes away, which is reported by ``lost``.
            self.bus.send(message).add_done_callback(lambda sent: sent.cancelled() or sent.exception())

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        args: tuple[Any, ...] = (),
        *,
        timeout_sec: float,
        interactive: bool = False,
    ) -> tuple[Any, ...]:
        """Call a method and return its out values; an argument of type "h" is a file descriptor.

        Raises RemoteError, NotRunning if destination or the bus is not there, AgentError after timeout_sec.
        """
        flags = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else MessageFlag.NONE
        args, descriptors = taken_out(signature, args)
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            flags=flags,
            signature=signature,
            body=to_body(signature, args),
            unix_fds=descriptors,
        )
        # The library never completes a call on a connection that has ended.
        reply = await self._reply(message, timeout_sec) if self.alive else None
        if reply is None:
            raise NotRunning(f"Cannot call {member}: the connection to the system bus is lost; start again.")
        body = from_wire(reply.body)
        if reply.message_type is MessageType.ERROR:
            raise _error(destination, member, reply.error_name, str(body[0]) if body else "")
        return tuple(body)

    async def call_bus(self, member: str, signature: str = "", *args: Any) -> tuple[Any, ...]:
        """Call a method of the bus itself."""
        return await self.call(
            BUS_NAME, BUS_PATH, BUS_NAME, member, signature, args, timeout_sec=BUS_CALL_TIMEOUT_SEC
        )

    async def flush(self) -> None:
        """Return when the bus has got everything that was sent before; never raises."""
        with contextlib.suppress(AgentError):
            await self.call_bus("GetId")

    async def close(self) -> None:
        """End the connection after a flush."""
        if self.alive:
            await self.flush()
            self.bus.disconnect()
            await asyncio.wait([self._watch], timeout=BUS_CALL_TIMEOUT_SEC)

    async def _reply(self, message: Any, timeout_sec: float) -> Any:
        try:
            return await asyncio.wait_for(self.bus.call(message), timeout_sec)
        except TimeoutError:
            raise AgentError(
                f"{message.destination} did not answer {message.member} within {timeout_sec:g} s; "
                "look for it with 'systemctl --failed' and try again."
            ) from None
        except Exception:
            # Whatever ended the connection (EOFError, OSError, a broken message) is thrown into all calls.
            if self.alive:
                raise
            return None

    async def _wait_for_end(self) -> None:
        try:
            with contextlib.suppress(Exception):
                await self.bus.wait_for_disconnect()
        finally:
            # The library leaves its socket open.
            with contextlib.suppress(OSError, ValueError):
                self.bus._sock.close()
                self.bus._stream.close()
            if not self.lost.done():
                self.lost.set_result(None)


async def open_connection(*, descriptors: bool = False) -> Connection:
    """Connect to the system bus ($DBUS_SYSTEM_BUS_ADDRESS if set); raises NotRunning.

    descriptors: calls may carry file descriptors. The library never closes those that it receives: whoever
    answers calls has to; nothing else may bring any.
    """
    try:
        bus = MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=descriptors)
        await asyncio.wait_for(bus.connect(), BUS_CALL_TIMEOUT_SEC)
    except Exception as error:
        reason = text(str(error)).rstrip(".") or type(error).__name__
        raise NotRunning(
            f"Cannot connect to the system bus: {reason}; see 'systemctl status dbus.socket'."
        ) from error
    return Connection(bus)


def close_descriptors(message: Any) -> None:
    """What a message brought along, wanted or not, must not stay open."""
    for fd in message.unix_fds:
        with contextlib.suppress(OSError):
            os.close(fd)
    message.unix_fds = []


def _without_descriptors(message: Any) -> None:
    if message.message_type is not MessageType.METHOD_CALL:
        close_descriptors(message)


def _error(destination: str, member: str, name: str, message: str) -> AgentError:
    standard = name.removeprefix(_STANDARD_PREFIX)
    if standard in _NOT_RUNNING or standard.startswith("Spawn."):
        detail = message.rstrip(".") or name
        return NotRunning(f"{destination} cannot be reached for {member}: {detail}.")
    return RemoteError(name, message or f"{destination} answered {member} with {name}.")
