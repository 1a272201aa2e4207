# SPDX-License-Identifier: Apache-2.0
"""Answers method calls from the exported objects.

Calls do not go through the library's own service classes: those send exception texts and tracebacks to
callers, hide who called, and fail a whole GetAll for one property.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final

from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message

from common import journal
from common.bus import _introspect
from common.bus._interface import PROPERTIES, Interface, Method, Property
from common.bus._values import Variant, from_wire, put_in, text, to_body
from common.errors import AgentError, Cancelled, Internal

logger = logging.getLogger(__name__)

INTROSPECTABLE: Final = "org.freedesktop.DBus.Introspectable"
PEER: Final = "org.freedesktop.DBus.Peer"

Authorize = Callable[[str, str, bool], Awaitable[None]]
"""Returns if (sender, action, interactive) is permitted, else raises NotPermitted."""

_caller: ContextVar[str] = ContextVar("caller")
_require: ContextVar[Callable[[str], Awaitable[None]]] = ContextVar("require")


def caller() -> str:
    """Return the unique bus name of the caller of the running method; LookupError outside of one."""
    return _caller.get()


async def require(action: str) -> None:
    """Return if the caller of the running method may do this polkit action, too, else raise NotPermitted.

    For what a method does only with some of its arguments; ask before the first change. LookupError outside
    of a method.
    """
    await _require.get()(action)


class _StandardError(AgentError):
    """An error of the D-Bus specification."""

    def __init__(self, name: str, sentence: str) -> None:
        super().__init__(sentence)
        self.dbus_name = "org.freedesktop.DBus.Error." + name


class Dispatcher:
    """The exported objects: ``objects`` maps a path to its interfaces by name."""

    def __init__(self, authorize: Authorize) -> None:
        self.objects: dict[str, dict[str, Interface]] = {}
        self._authorize = authorize

    @staticmethod
    def is_for_us(message: Any) -> bool:
        """Whether reply_to() is to answer; Peer is left to the library."""
        return message.message_type is MessageType.METHOD_CALL and message.interface != PEER

    async def reply_to(self, message: Any) -> Any:
        """Run a method call and return the message that answers it; never raises."""
        _caller.set(message.sender)
        interactive = bool(message.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
        _require.set(lambda action: self._authorize(message.sender, action, interactive))
        name = f"{message.interface}.{message.member}"
        try:
            signature, values = await self._run(message)
            return Message.new_method_return(message, signature, to_body(signature, values))
        except AgentError as error:
            logger.info("%s called by %s failed: %s", name, message.sender, error)
            return _error_reply(message, error)
        except asyncio.CancelledError:
            return _error_reply(
                message, Cancelled(f"{name} was cancelled: the service stops; call it again.")
            )
        except Exception:
            logger.error("%s called by %s hit a defect", name, message.sender, exc_info=True)  # noqa: G201
            return _error_reply(message, Internal(journal.identifier()))

    async def _run(self, message: Any) -> tuple[str, tuple[Any, ...]]:
        args = [from_wire(value) for value in message.body]
        match (message.interface, message.member, message.signature):
            case (str(interface), "Introspect", "") if interface == INTROSPECTABLE:
                return "s", (self._introspect(message.path),)
            case (str(interface), "Get", "ss") if interface == PROPERTIES:
                return "v", (self._get(message.path, *args),)
            case (str(interface), "GetAll", "s") if interface == PROPERTIES:
                return "a{sv}", (self._get_all(message.path, *args),)
            case (str(interface), "Set", "ssv") if interface == PROPERTIES:
                self._get(message.path, args[0], args[1])
                raise _StandardError("PropertyReadOnly", f"Property {args[1]} cannot be set.")
            case (str(interface), _, _) if interface in (INTROSPECTABLE, PROPERTIES):
                raise _StandardError("UnknownMethod", f"There is no such method {message.member}.")
            case _:
                return await self._call(message, args)

    async def _call(self, message: Any, args: list[Any]) -> tuple[str, tuple[Any, ...]]:
        interface, member = self._find_method(message)
        if message.signature != member.in_signature:
            raise _StandardError(
                "InvalidArgs",
                f"{member.name} takes arguments of type '{member.in_signature}', not '{message.signature}'.",
            )
        try:
            args = put_in(member.in_signature, args, message.unix_fds)
        except IndexError as error:
            raise _StandardError(
                "InvalidArgs", "The message does not bring all of its descriptors."
            ) from error
        if member.action is not None:
            await require(member.action)
        result = getattr(interface, member.function)(*args)
        if inspect.isawaitable(result):
            result = await result
        if member.out_signature == "":
            return "", ()
        return member.out_signature, result if isinstance(result, tuple) else (result,)

    def _find_method(self, message: Any) -> tuple[Interface, Method]:
        # A call without an interface is legal: the first method of that name is meant.
        for interface in self._interfaces(message.path, message.interface or ""):
            for member in interface._members:
                if isinstance(member, Method) and member.name == message.member:
                    return interface, member
        raise _StandardError("UnknownMethod", f"{message.path} has no method {message.member}.")

    def _get(self, path: str, interface_name: str, name: str) -> Variant:
        for interface in self._interfaces(path, interface_name):
            for member in interface._members:
                if isinstance(member, Property) and member.name == name:
                    return Variant(member.signature, interface._read(member))
        raise _StandardError("UnknownProperty", f"{path} has no property {name}.")

    def _get_all(self, path: str, interface_name: str) -> dict[str, Variant]:
        values = {}
        for interface in self._interfaces(path, interface_name):
            for member in interface._members:
                if isinstance(member, Property):
                    try:
                        value = Variant(member.signature, interface._read(member))
                        to_body("v", (value,))
                    # The other properties are still worth an answer.
                    except AgentError as error:
                        logger.warning("Property %s cannot be read: %s", member.name, error)
                    except Exception:
                        logger.exception("Property %s cannot be read", member.name)
                    else:
                        values[member.name] = value
        return values

    def _interfaces(self, path: str, name: str) -> list[Interface]:
        if path not in self.objects:
            raise _StandardError("UnknownObject", f"There is no object {path}.")
        interfaces = self.objects[path]
        if name == "":
            return list(interfaces.values())
        if name not in interfaces:
            raise _StandardError("UnknownInterface", f"{path} has no interface {name}.")
        return [interfaces[name]]

    def _introspect(self, path: str) -> str:
        prefix = path.rstrip("/") + "/"
        children = {known[len(prefix) :].split("/")[0] for known in self.objects if known.startswith(prefix)}
        children.discard("")
        if path not in self.objects and not children:
            raise _StandardError("UnknownObject", f"There is no object {path}.")
        return _introspect.document(self.objects.get(path, {}).values(), children)


def _error_reply(message: Any, error: AgentError) -> Any:
    return Message.new_error(message, error.dbus_name, text(str(error)))
