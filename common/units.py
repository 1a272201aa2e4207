# SPDX-License-Identifier: Apache-2.0
"""Questions and orders to systemd, see org.freedesktop.systemd1(5).

For oneshots and the command line only: pystemd blocks the whole process while it calls. A service that
serves D-Bus asks systemd through ``Service.client`` of common.bus instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from common.errors import AgentError, NotRunning

if TYPE_CHECKING:
    from pystemd.dbuslib import DBus

_DESTINATION: Final = b"org.freedesktop.systemd1"
_MANAGER_PATH: Final = b"/org/freedesktop/systemd1"
_MANAGER: Final = b"org.freedesktop.systemd1.Manager"
_UNIT: Final = b"org.freedesktop.systemd1.Unit"


def start_unit(name: str, mode: str = "replace") -> None:
    """Queue a start job for a unit and return without waiting for it; mode as in systemctl(1) --job-mode=.

    Raises AgentError if systemd refuses, NotRunning if it cannot be reached.
    """
    with _bus(f"start {name}") as bus:
        _manager_call(bus, b"StartUnit", b"ss", [name.encode(), mode.encode()])


def unit_state(name: str) -> str:
    """Return the ActiveState of a unit: active, reloading, inactive, failed, activating or deactivating.

    A unit that does not exist is inactive.
    """
    from pystemd.dbuslib import path_encode

    with _bus(f"ask for the state of {name}") as bus:
        path = path_encode(b"/org/freedesktop/systemd1/unit", name.encode())
        state: bytes = bus.get_property(_DESTINATION, path, _UNIT, b"ActiveState", b"s")
        return state.decode()


def failed_units() -> tuple[str, ...]:
    """Return the names of all units in the state failed, sorted."""
    with _bus("list the failed units") as bus:
        # ListUnitsFiltered() wants an array, which takes the lower level of pystemd to write.
        states = [(ord("a"), b"s"), (ord("s"), b"failed"), (-1, None)]
        found = bus.call_method(_DESTINATION, _MANAGER_PATH, _MANAGER, b"ListUnitsFiltered", states).body
        return tuple(sorted(unit[0].decode() for unit in found))


def reboot() -> None:
    """Queue an orderly reboot, as ``systemctl --no-block reboot`` does."""
    start_unit("reboot.target", "replace-irreversibly")


def _manager_call(bus: DBus, member: bytes, signature: bytes, values: list[bytes]) -> Any:
    from pystemd.dbuslib import apply_signature

    arguments = apply_signature(signature, values)
    return bus.call_method(_DESTINATION, _MANAGER_PATH, _MANAGER, member, arguments).body


@contextmanager
def _bus(purpose: str) -> Iterator[DBus]:
    # Imported here: a program that may need to start a unit rarely does.
    from pystemd.dbusexc import DBusBaseError
    from pystemd.dbuslib import DBus

    try:
        bus = DBus()
        bus.open()
    except DBusBaseError as error:
        raise NotRunning(f"Cannot {purpose}: the system bus cannot be reached.") from error
    try:
        yield bus
    except DBusBaseError as error:
        raise AgentError(f"Cannot {purpose}: {_text(error)}.") from error
    finally:
        bus.close()


def _text(error: Exception) -> str:
    message = getattr(error, "err_message", None) or (error.args[-1] if error.args else "")
    text = message.decode("utf-8", "replace") if isinstance(message, bytes) else str(message)
    return text.strip().rstrip(".") or type(error).__name__
