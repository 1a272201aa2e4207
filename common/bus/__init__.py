# SPDX-License-Identifier: Apache-2.0
"""The D-Bus of the agents: serving interfaces, calling others. Nothing else imports the D-Bus library.

class Greeter(bus.Interface):
    INTERFACE = "io.hypernet.Greeter1"

    @bus.method("Greet", "s", "s", action="io.hypernet.Greeter1.greet")
    async def greet(self, name: str) -> str: ...

    @bus.prop("Greeted", "t")
    def greeted(self) -> int: ...

    @bus.signal("Left", "s")
    def left(self, name: str) -> None:
        "Calling this sends the signal."

status = await bus.serve("io.hypernet.Greeter1", setup, idle_exit_sec=60)
"""

from __future__ import annotations

from common.bus._client import Client, Signal, SignalQueue, connect
from common.bus._connection import RemoteError
from common.bus._dispatch import caller, require
from common.bus._interface import Interface, method, prop, signal
from common.bus._service import NameTaken, Service, serve
from common.bus._values import Variant

__all__ = [
    "Client",
    "Interface",
    "NameTaken",
    "RemoteError",
    "Service",
    "Signal",
    "SignalQueue",
    "Variant",
    "caller",
    "connect",
    "method",
    "prop",
    "require",
    "serve",
    "signal",
]
