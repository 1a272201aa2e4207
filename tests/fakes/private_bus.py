# SPDX-License-Identifier: Apache-2.0
"""A real message bus for one test, in place of the system bus, and what tests on it have in common."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from common import bus

NOBODY_UID = 65534

_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <servicedir>{services}</servicedir>
  <policy context="default">
    <allow user="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


@dataclass(frozen=True)
class PrivateBus:
    """A running dbus-daemon. services: folder for activation files, made known by a ReloadConfig call."""

    address: str
    services: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End the daemon, as if the bus had crashed."""
        self.process.kill()
        self.process.wait()


@contextmanager
def start_private_bus() -> Iterator[PrivateBus]:
    """Start a daemon and wait until it listens."""
    # Not pytest's tmp_path: a socket's path is short, and other users must reach it.
    folder = Path(tempfile.mkdtemp(prefix="bus-"))
    try:
        folder.chmod(0o755)
        services = folder / "services"
        services.mkdir()
        config = folder / "bus.conf"
        config.write_text(_CONFIG.format(socket=folder / "socket", services=services))
        process = subprocess.Popen(
            ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address"],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        with process, process.stdout:
            try:
                address = process.stdout.readline().decode().strip()
                assert address, "dbus-daemon did not start"
                yield PrivateBus(address, services, process)
            finally:
                process.kill()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def private_bus_daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateBus]:
    """Make a private bus the system bus of this process and its children."""
    with start_private_bus() as daemon:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", daemon.address)
        yield daemon


@pytest.fixture
def private_bus(private_bus_daemon: PrivateBus) -> str:
    """Return the address of the private bus, which is $DBUS_SYSTEM_BUS_ADDRESS, too."""
    return private_bus_daemon.address


@dataclass(frozen=True)
class Serving:
    """A service that runs in this event loop; exit_status is what serve() returns."""

    service: bus.Service
    exit_status: asyncio.Task[int]


@asynccontextmanager
async def serving(
    name: str,
    setup: Callable[[bus.Service], Awaitable[None] | None],
    *,
    idle_exit_sec: float | None = None,
    descriptors: bool = False,
) -> AsyncIterator[Serving]:
    """Run bus.serve() while the context lasts; enter it when the name is owned."""
    services: list[bus.Service] = []

    def remember(service: bus.Service) -> Awaitable[None] | None:
        services.append(service)
        return setup(service)

    serve = bus.serve(name, remember, idle_exit_sec=idle_exit_sec, descriptors=descriptors)
    task = asyncio.create_task(serve)
    try:
        async with bus.connect() as client:
            while not task.done() and not await _has_owner(client, name):
                await asyncio.sleep(0.005)
        if task.done():
            task.result()
        yield Serving(services[0], task)
    finally:
        if services:
            services[0].stop()
        await asyncio.wait([task], timeout=10)


async def _has_owner(client: bus.Client, name: str) -> bool:
    (owned,) = await client.call(
        "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "NameHasOwner", "s", name
    )
    return bool(owned)


@asynccontextmanager
async def connect_unprivileged() -> AsyncIterator[bus.Client]:
    """Connect to the bus as a user who is not root."""
    connecting = bus.connect()
    if os.geteuid() != 0:
        async with connecting as client:
            yield client
        return
    # The bus asks the kernel for the user at the time of the connection.
    os.setresuid(NOBODY_UID, NOBODY_UID, 0)
    try:
        client = await connecting.__aenter__()
    finally:
        os.setresuid(0, 0, 0)
    try:
        yield client
    finally:
        await connecting.__aexit__(None, None, None)
