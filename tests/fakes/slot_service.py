# SPDX-License-Identifier: Apache-2.0
"""The running slot manager on a private bus, with a real engine behind it, and its callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agents.slot_manager import service
from agents.slot_manager.machine import Machine
from agents.slot_manager.properties import NAME
from agents.slot_manager.service import PATH
from common import bus
from tests.fakes import systemd as fake
from tests.fakes.private_bus import serving
from tests.fakes.slot_lab import Lab

JOB = "io.hypernet.SlotManager1.Job"


def run(story: Coroutine[Any, Any, None]) -> None:
    """Run what a test does on the bus."""
    asyncio.run(asyncio.wait_for(story, 60))


@asynccontextmanager
async def manager(lab: Lab, systemd: fake.Manager | None = None) -> AsyncIterator[bus.Client]:
    """A client of the running service; systemd plays its part, by default well."""

    def find() -> Machine:
        return lab.machine

    def setup(running: bus.Service) -> None:
        running.export(PATH, service.SlotManager(running, find))

    units = fake.systemd(systemd or fake.Manager(), requires=["backup.service"])
    async with units, serving(NAME, setup, descriptors=True), bus.connect() as client:
        yield client


async def call(client: bus.Client, member: str, signature: str, *args: Any) -> tuple[Any, ...]:
    """Call a method of the slot manager."""
    return await client.call(NAME, PATH, NAME, member, signature, *args)


async def properties(client: bus.Client) -> dict[str, Any]:
    """Its properties."""
    return await client.get_all(NAME, PATH, NAME)


async def finished(client: bus.Client, source: Path, **options: Any) -> tuple[str, tuple[Any, ...]]:
    """Install and wait for the job's end: (job path, arguments of Finished). dry_run stands for dry-run."""
    async with client.subscribe(JOB, "Finished") as queue:
        given = {key.replace("_", "-"): value for key, value in options.items()}
        (job,) = await call(client, "Install", "sa{sv}", str(source), given)
        signal = await asyncio.wait_for(queue.get(), 30)
        assert signal.path == job
        return job, signal.args
