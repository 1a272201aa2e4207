# SPDX-License-Identifier: Apache-2.0
"""Clients that know nothing of us: what busctl alone and gdbus alone read, call and hear."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.integration import interfaces
from tests.integration.machine import Machine

CLIENTS = ("busctl", "gdbus")
_PROPERTIES = "org.freedesktop.DBus.Properties"
_SETTLE_SEC = 0.5
_LISTENERS = {
    "busctl": (("busctl", "--json=short", "monitor"), "Monitoring bus message stream"),
    "gdbus": (("gdbus", "monitor", "--system", "--dest"), "The name"),
}
"""The command, which the bus name follows, and what it prints when it listens."""


@dataclass
class Heard:
    """Signals as (member, all that the client printed of it), by client."""

    busctl: list[tuple[str, str]] = field(default_factory=list)
    gdbus: list[tuple[str, str]] = field(default_factory=list)

    def members(self, client: str) -> set[str]:
        """The names of the signals that a client heard."""
        return {member for member, _ in getattr(self, client)}

    def texts(self, client: str, member: str) -> list[str]:
        """What a client printed of each signal of that name."""
        return [text for name, text in getattr(self, client) if name == member]


@contextmanager
def listening(machine: Machine, name: str) -> Iterator[Heard]:
    """Collect the signals of a bus name while the context lasts, with both clients."""
    for client, (command, _) in _LISTENERS.items():
        machine.output("touch", f"/run/heard-{client}")
        redirect = f"--property=StandardOutput=truncate:/run/heard-{client}"
        unit = ("--collect", f"--unit=listen-{client}", redirect)
        machine.output("systemd-run", "--quiet", *unit, *command, name)
    heard = Heard()
    try:
        for client, (_, ready) in _LISTENERS.items():
            _wait(machine, f"/run/heard-{client}", ready)
        yield heard
        time.sleep(_SETTLE_SEC)
        for line in machine.output("cat", "/run/heard-busctl").splitlines():
            if line.startswith("{") and (message := json.loads(line))["type"] == "signal":
                heard.busctl.append((message["member"], line))
        for line in machine.output("cat", "/run/heard-gdbus").splitlines():
            if match := re.match(r"/\S+: (?:[A-Za-z0-9]+\.)+(\w+) \(", line):
                heard.gdbus.append((match[1], line))
    finally:
        for client in CLIENTS:
            machine.run("systemctl", "stop", f"listen-{client}.service")


def _wait(machine: Machine, path: str, words: str) -> None:
    deadline = time.monotonic() + 20
    while words not in machine.output("cat", path):
        assert time.monotonic() < deadline, f"{path} stays empty"
        time.sleep(0.05)


def read(machine: Machine, client: str, path: str, interface: str, name: str) -> tuple[str, Any]:
    """Read a property; return its type, and its value: busctl's JSON, or the text that gdbus prints."""
    service = ".".join(interface.split(".")[:3])
    if client == "busctl":
        argv = ["busctl", "--json=short", "get-property", service, path, interface, name]
        said = json.loads(machine.output(*argv))
        return said["type"], said["data"]
    argv = ["gdbus", "call", "--system", "--dest", service, "--object-path", path]
    said = machine.output(*argv, "--method", f"{_PROPERTIES}.Get", interface, name)
    match = re.fullmatch(r"\(<(.*)>,\)", said)
    assert match, said
    return _type_of(match[1]), match[1]


def _type_of(text: str) -> str:
    """The type of a value in GVariant's text format, as far as our properties go."""
    numbers = {"uint32": "u", "int64": "x", "uint64": "t", "objectpath": "o"}
    if text.startswith("@"):
        return text[1:].split()[0]
    if (word := text.split()[0]) in numbers:
        return numbers[word]
    if word in ("true", "false"):
        return "b"
    if text[0] in "'\"":
        return "s"
    if text[0] == "[":
        return "a" + _type_of(text[1:])
    return "a{sv}" if text[0] == "{" else "d"


def documented(interface: str, kind: str) -> dict[str, str]:
    """Members of a kind ("property", "signal", "method") of an interface, with the type of a property."""
    members = interfaces.documented(interface)
    return {key.split()[1]: value[0] or "" for key, value in members.items() if key.startswith(f"{kind} ")}
