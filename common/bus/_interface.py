# SPDX-License-Identifier: Apache-2.0
"""How an agent describes a D-Bus interface: a class whose methods keep their real Python types.

The decorators only attach a description; the functions stay what they are and can be called in unit tests.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Concatenate, Final, ParamSpec, TypeVar

from common.bus._values import Variant, to_body, types_of

F = TypeVar("F", bound=Callable[..., Any])
G = TypeVar("G", bound=Callable[[Any], Any])
I = TypeVar("I", bound="Interface")  # noqa: E741
P = ParamSpec("P")

PROPERTIES: Final = "org.freedesktop.DBus.Properties"

_MARK: Final = "_hypernet_dbus_member"


@dataclass(frozen=True, slots=True)
class Method:
    """Description of a method; action: polkit action that a caller who is not root needs, None if free."""

    name: str
    function: str
    in_signature: str
    out_signature: str
    arguments: tuple[str, ...]
    action: str | None


@dataclass(frozen=True, slots=True)
class Property:
    """Description of a read-only property."""

    name: str
    function: str
    signature: str


@dataclass(frozen=True, slots=True)
class Signal:
    """Description of a signal."""

    name: str
    signature: str
    arguments: tuple[str, ...]


Emit = Callable[[str, str, str, str, list[Any]], None]
"""Sends a signal: path, interface, member, signature, body."""


def method(
    name: str, in_signature: str, out_signature: str, *, action: str | None = None
) -> Callable[[F], F]:
    """Make a function, plain or async, a D-Bus method.

    It gets one argument for each type of in_signature (for "h" a file descriptor, which is closed after the
    method) and returns None, one value, or a tuple, as out_signature says. With action, callers other than
    root need polkit's consent; the function runs only after that.
    """
    types_of(out_signature)

    def decorate(function: F) -> F:
        arguments = _arguments(function, in_signature)
        member = Method(name, function.__name__, in_signature, out_signature, arguments, action)
        setattr(function, _MARK, member)
        return function

    return decorate


def prop(name: str, signature: str) -> Callable[[G], G]:
    """Make a function (self) -> value a read-only D-Bus property."""
    if len(types_of(signature)) != 1:
        raise ValueError(f"property {name}: {signature!r} is not a single complete type")

    def decorate(function: G) -> G:
        _arguments(function, "")
        setattr(function, _MARK, Property(name, function.__name__, signature))
        return function

    return decorate


def signal(
    name: str, signature: str
) -> Callable[[Callable[Concatenate[I, P], None]], Callable[Concatenate[I, P], None]]:
    """Make a function a D-Bus signal: calling it runs it and then sends its arguments."""

    def decorate(function: Callable[Concatenate[I, P], None]) -> Callable[Concatenate[I, P], None]:
        member = Signal(name, signature, _arguments(function, signature))
        parameters = inspect.signature(function)

        @functools.wraps(function)
        def emit(self: I, /, *args: P.args, **kwargs: P.kwargs) -> None:
            bound = parameters.bind(self, *args, **kwargs)
            bound.apply_defaults()
            function(self, *args, **kwargs)
            self._emit(self.INTERFACE, name, signature, tuple(bound.arguments.values())[1:])

        setattr(emit, _MARK, member)
        return emit

    return decorate


class Interface:
    """Base class of an object's D-Bus interface. Subclasses set INTERFACE to its name."""

    INTERFACE: ClassVar[str] = ""
    # Private names below leave all others to the agents.
    _members: ClassVar[tuple[Method | Property | Signal, ...]] = ()
    _exports: tuple[tuple[str, Emit], ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        found: dict[str, Method | Property | Signal] = {}
        for base in reversed(cls.__mro__):
            own = [getattr(value, _MARK) for value in vars(base).values() if hasattr(value, _MARK)]
            if len({member.name for member in own}) < len(own):
                raise TypeError(f"{base.__name__}: two D-Bus members have the same name")
            found.update((member.name, member) for member in own)
        cls._members = tuple(found.values())

    def changed(self, *names: str) -> None:
        """Announce new values of properties (PropertiesChanged). Raises ValueError for an unknown name."""
        known = {member.name: member for member in self._members if isinstance(member, Property)}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"{self.INTERFACE} has no property {', '.join(unknown)}")
        if self._exports:
            values = {name: Variant(known[name].signature, self._read(known[name])) for name in names}
            self._emit(PROPERTIES, "PropertiesChanged", "sa{sv}as", (self.INTERFACE, values, []))

    def _read(self, member: Property) -> Any:
        """Return the current value of a property."""
        return getattr(self, member.function)()

    def _attach(self, path: str, emit: Emit) -> None:
        """Send signals from path, too, from now on."""
        self._exports = (*self._exports, (path, emit))

    def _detach(self, path: str) -> None:
        """Send no more signals from path."""
        self._exports = tuple(export for export in self._exports if export[0] != path)

    def _emit(self, interface: str, name: str, signature: str, values: tuple[Any, ...]) -> None:
        # Converted even if nobody is there to send it: a unit test of the agent finds a wrong type.
        body = to_body(signature, values)
        for path, emit in self._exports:
            emit(path, interface, name, signature, body)


def _arguments(function: Callable[..., Any], signature: str) -> tuple[str, ...]:
    names = tuple(inspect.signature(function).parameters)[1:]
    if len(names) != len(types_of(signature)):
        raise TypeError(f"{function.__qualname__}: {len(names)} arguments do not fit {signature!r}")
    return names
