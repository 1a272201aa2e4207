# SPDX-License-Identifier: Apache-2.0
"""The verb `health`: show the verdict on this boot, watch it, or run one of its checks again."""

import asyncio
from typing import Any, TextIO

from agents.admin import render
from agents.admin.bus import Agents
from agents.admin.cli import Options
from agents.admin.model import Check, Health, json_keys
from agents.admin.output import print_json
from common.errors import EXIT_STATUS_BY_NAME

_UNHEALTHY = EXIT_STATUS_BY_NAME["Unhealthy"]


async def health(agents: Agents, options: Options, out: TextIO) -> int:
    """Do what the options say; 0 stands for a healthy boot, or a check that passed."""
    if options.run:
        return await _run(agents, options, out)
    if options.watch:
        return await _watch(agents, options, out)
    return _show(await agents.health(), options, out)


async def _run(agents: Agents, options: Options, out: TextIO) -> int:
    values = await agents.run_check(options.run)
    result = Check.from_bus(values)
    if options.json.enabled:
        print_json(values, options.json, out)
    else:
        out.write(render.check(result))
    return 0 if result.result == "passed" else _UNHEALTHY


async def _watch(agents: Agents, options: Options, out: TextIO) -> int:
    """Show the verdict again whenever it changes. Ctrl-C is how this ends, not a failure of it."""
    # Subscribed before the question: nothing is missed. The agent may exit meanwhile; whoever writes a new
    # verdict announces it under its name.
    async with agents.health_changes() as changes:
        values = await agents.health()
        status = _show(values, options, out)
        try:
            while True:
                _, changed, _ = (await changes.get()).args
                values |= changed
                if not options.json.enabled:
                    print(file=out)
                status = _show(values, options, out)
        except asyncio.CancelledError:
            return status


def _show(values: dict[str, Any], options: Options, out: TextIO) -> int:
    known = Health.from_bus(values)
    if options.json.enabled:
        print_json(json_keys(values), options.json, out)
    else:
        out.write(render.health(known))
    out.flush()
    return 0 if known.state == "healthy" else _UNHEALTHY
