# SPDX-License-Identifier: Apache-2.0
"""Tells the bus that there is a new report, without a process that waits for one.

Whoever writes the report calls this. If hypernet-boot-health-bus.service does not run, this process owns its
name for the moment in which the signals are sent: listeners, who match signals by that name, see no
difference, and no second process is started in the path of the boot.
"""

from __future__ import annotations

import asyncio
import logging

from agents.boot_health.places import Places
from agents.boot_health.report import Report
from agents.boot_health.service import NAME, PATH, BootHealth
from common import bus
from common.errors import AgentError

logger = logging.getLogger(__name__)

LIMIT_SEC = 10.0


def announce(places: Places, before: Report | None = None) -> None:
    """Send the signals of the report as it is now, as far as they are new since the one before.

    Never raises: the report itself is what counts.
    """
    try:
        asyncio.run(_announce(places, before or Report()))
    except (AgentError, TimeoutError) as error:
        logger.warning("The new health report could not be announced on the bus: %s", error)


async def _announce(places: Places, before: Report) -> None:
    async with asyncio.timeout(LIMIT_SEC):
        try:
            await _as_the_service(places, before)
        except bus.NameTaken:
            # The service runs: it looks for a new report when it is asked, and then stays for a while.
            async with bus.connect() as client:
                await client.get_property(NAME, PATH, NAME, "State")


async def _as_the_service(places: Places, before: Report) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def tell(service: bus.Service, interface: BootHealth) -> None:
        with service.hold():
            await service.named()
            interface.announce_all(before)

    def setup(service: bus.Service) -> None:
        interface = BootHealth(places, service.client)
        service.export(PATH, interface)
        tasks.append(asyncio.create_task(tell(service, interface)))

    try:
        # Without anything to do, it ends at once, and no caller is left without an answer.
        await bus.serve(NAME, setup, idle_exit_sec=0)
    finally:
        for task in tasks:
            task.cancel()
        # What became of them is known by now: whoever cannot get the name has nothing to tell.
        await asyncio.gather(*tasks, return_exceptions=True)
