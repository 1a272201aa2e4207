# SPDX-License-Identifier: Apache-2.0
"""Questions and orders to systemd, see org.freedesktop.systemd1(5).

For oneshots and the command line only: pystemd blocks the whole process while it calls. A service that
serves D-Bus asks systemd through ``Service.client`` of common.bus instead.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from common.errors import AgentError, NotRunning

if TYPE_CHECKING:
    from pystemd.dbuslib import DBus

_DESTINATION: Final = b"org.freedesktop.systemd1"
_MANAGER_PATH: Final = b"/org/freedesktop/systemd1"
_MANAGER: Final = b"org.freedesktop.systemd1.Manager"
_UNIT_PREFIX: Final = b"/org/freedesktop/systemd1/unit"
UNIT: Final = "org.freedesktop.systemd1.Unit"
SERVICE: Final = "org.freedesktop.systemd1.Service"

_IMPORT: Final = threading.Lock()
_END: Final = (-1, None)
"""Closes the innermost container of a message that is being written."""

Value = bool | int | str | tuple[str, ...]
"""A property of a transient unit: boolean (b), number (t), text (s), list of texts (as)."""


class Systemd:
    """One connection to systemd, for one thread at a time; see connect()."""

    def __init__(self, bus: DBus) -> None:
        self._bus = bus

    def start(self, name: str, mode: str) -> None:
        """Queue a start job for a unit."""
        self._call(b"StartUnit", [_text(name), _text(mode)])

    def stop(self, name: str, mode: str) -> None:
        """Queue a stop job for a unit."""
        self._call(b"StopUnit", [_text(name), _text(mode)])

    def start_transient(self, name: str, argv: Sequence[str], properties: Mapping[str, Value]) -> None:
        """Queue the start of a service that exists only as long as somebody needs it.

        argv: the program, an absolute path or a name to be found, and its arguments; systemd expands nothing
        in them. properties: as in systemd.service(5) and so on, with the names and units of
        org.freedesktop.systemd1(5). With AddRef, the unit stays known until this connection is closed.
        """
        message = [_text(name), _text("fail"), (ord("a"), b"(sv)")]
        for key, value in properties.items():
            signature, items = _variant(value)
            message += [(ord("r"), b"sv"), _text(key), (ord("v"), signature), *items, _END, _END]
        message += [(ord("r"), b"sv"), _text("ExecStart"), (ord("v"), b"a(sasb)"), (ord("a"), b"(sasb)")]
        message += [(ord("r"), b"sasb"), _text(argv[0]), *_texts(map(_literal, argv)), (ord("b"), False)]
        message += [_END, _END, _END, _END, _END]
        message += [(ord("a"), b"(sa(sv))"), _END]
        self._call(b"StartTransientUnit", message)

    def property(self, name: str, interface: str, key: str, signature: str) -> Any:
        """Return a property of a unit; texts are bytes."""
        from pystemd.dbuslib import path_encode

        path = path_encode(_UNIT_PREFIX, name.encode())
        return self._bus.get_property(
            _DESTINATION, path, interface.encode(), key.encode(), signature.encode()
        )

    def state(self, name: str) -> str:
        """Return the ActiveState of a unit: active, reloading, inactive, failed, activating or deactivating.

        A unit that does not exist is inactive.
        """
        state: bytes = self.property(name, UNIT, "ActiveState", "s")
        return state.decode()

    def busy(self, name: str) -> bool:
        """Whether a unit is about to change: between two states, or with a job in the queue."""
        number, _path = self.property(name, UNIT, "Job", "(uo)")
        return number != 0 or self.state(name) in ("activating", "deactivating", "reloading")

    def failed(self) -> tuple[str, ...]:
        """Return the names of all units in the state failed, sorted."""
        found = self._call(b"ListUnitsFiltered", _texts(["failed"]))
        return tuple(sorted(unit[0].decode() for unit in found))

    def _call(self, member: bytes, message: list[tuple[int, Any]]) -> Any:
        return self._bus.call_method(_DESTINATION, _MANAGER_PATH, _MANAGER, member, message).body


@contextmanager
def connect(purpose: str) -> Iterator[Systemd]:
    """Connect to systemd; purpose completes "Cannot ...:".

    Raises NotRunning if systemd cannot be reached, AgentError if it refuses what is asked inside.
    """
    _import_pystemd()
    from pystemd.dbusexc import DBusBaseError
    from pystemd.dbuslib import DBus

    try:
        bus = DBus()
        bus.open()
    except DBusBaseError as error:
        raise NotRunning(f"Cannot {purpose}: the system bus cannot be reached.") from error
    try:
        yield Systemd(bus)
    except DBusBaseError as error:
        raise AgentError(f"Cannot {purpose}: {_complaint(error)}.") from error
    finally:
        bus.close()


def start_unit(name: str, mode: str = "replace") -> None:
    """Queue a start job for a unit and return without waiting for it; mode as in systemctl(1) --job-mode=.

    Raises AgentError if systemd refuses, NotRunning if it cannot be reached.
    """
    with connect(f"start {name}") as systemd:
        systemd.start(name, mode)


def unit_state(name: str) -> str:
    """Return the ActiveState of a unit, see Systemd.state(). Raises AgentError, NotRunning."""
    with connect(f"ask for the state of {name}") as systemd:
        return systemd.state(name)


def failed_units() -> tuple[str, ...]:
    """Return the names of all units in the state failed, sorted. Raises AgentError, NotRunning."""
    with connect("list the failed units") as systemd:
        return systemd.failed()


def reboot() -> None:
    """Queue an orderly reboot, as ``systemctl --no-block reboot`` does."""
    start_unit("reboot.target", "replace-irreversibly")


def _import_pystemd() -> None:
    """Make the modules of pystemd importable without its __init__.py, which imports an XML parser that only
    introspection needs: that would cost every boot as much time as the rest of our imports together.
    """
    with _IMPORT:  # engines ask from several threads
        if "pystemd" in sys.modules:
            return
        spec = importlib.util.find_spec("pystemd")
        if spec is not None and spec.submodule_search_locations is not None:
            package = types.ModuleType("pystemd")
            package.__path__ = list(spec.submodule_search_locations)
            sys.modules["pystemd"] = package


def _text(text: str) -> tuple[int, Any]:
    return ord("s"), text.encode()


def _texts(texts: Iterator[str] | Sequence[str] | map[str]) -> list[tuple[int, Any]]:
    return [(ord("a"), b"s"), *map(_text, texts), _END]


def _variant(value: Value) -> tuple[bytes, list[tuple[int, Any]]]:
    match value:
        case bool():
            return b"b", [(ord("b"), value)]
        case int():
            return b"t", [(ord("t"), value)]
        case str():
            return b"s", [_text(value)]
        case _:
            return b"as", _texts(value)


def _literal(word: str) -> str:
    # systemd expands $NAME and ${NAME} in the arguments of a unit; "$$" is a plain dollar sign.
    return word.replace("$", "$$")


def _complaint(error: Exception) -> str:
    message = getattr(error, "err_message", None) or (error.args[-1] if error.args else "")
    text = message.decode("utf-8", "replace") if isinstance(message, bytes) else str(message)
    return text.strip().rstrip(".") or type(error).__name__
