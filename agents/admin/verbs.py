# SPDX-License-Identifier: Apache-2.0
"""The verbs of hypernet-admin: ask the agents, print the answer, return the exit status."""

from collections.abc import Awaitable, Callable
from typing import TextIO

from agents.admin import render
from agents.admin.bus import Agents
from agents.admin.cli import Options
from agents.admin.model import Health, Slots, json_keys
from agents.admin.output import print_json
from agents.admin.update import update
from common import bus
from common.errors import AgentError

UNHEALTHY = 20
"""Exit status of `health` unless the verdict on this boot is "healthy"."""

_DEFAULT_REASON = "marked bad by an administrator"

Verb = Callable[[Agents, Options, TextIO], Awaitable[int]]


async def run(options: Options, out: TextIO) -> int:
    """Connect to the system bus and run the verb that the command line names."""
    async with bus.connect() as client:
        return await _VERBS[options.verb](Agents(client), options, out)


async def _status(agents: Agents, options: Options, out: TextIO) -> int:
    properties = await agents.slots()
    try:
        health = await agents.health()
        error = ""
    except AgentError as failure:
        # The slots can be shown all the same.
        health = {}
        error = str(failure)

    if options.json.enabled:
        values = json_keys(properties) | {"health": json_keys(health) if health else None}
        print_json(values, options.json, out)
    else:
        line = f"unknown: {error}" if error else render.health_line(Health.from_bus(health))
        out.write(render.status(Slots.from_bus(properties), line))
    return 0


async def _health(agents: Agents, options: Options, out: TextIO) -> int:
    properties = await agents.health()
    health = Health.from_bus(properties)
    if options.json.enabled:
        print_json(json_keys(properties), options.json, out)
    else:
        out.write(render.health(health))
    return 0 if health.state == "healthy" else UNHEALTHY


async def _rollback(agents: Agents, options: Options, out: TextIO) -> int:
    before = Slots.from_bus(await agents.slots())  # with --reboot the slot manager may be gone afterwards
    name = await agents.rollback(options.reason, reboot=options.reboot)
    slot = before.find(name)
    version = slot.version if slot else ""
    if options.json.enabled:
        print_json({"slot": name, "version": version, "reboot": options.reboot}, options.json, out)
    elif options.reboot:
        print(f"The machine reboots now into slot {name} (version {version}).", file=out)
    else:
        print(f"The next boot starts slot {name} (version {version}).", file=out)
        print("Reboot to start it: systemctl reboot", file=out)
    return 0


async def _mark(agents: Agents, options: Options, out: TextIO) -> int:
    if options.mark == "good":
        await agents.mark_good(options.slot)
    else:
        await agents.mark_bad(options.slot, options.reason or _DEFAULT_REASON)

    properties = await agents.slots()
    slot = Slots.from_bus(properties).find(options.slot)
    if options.json.enabled:
        name = slot.name if slot else options.slot
        values = next((each for each in properties.get("Slots", ()) if each.get("name") == name), None)
        print_json(values, options.json, out)
    elif slot:
        print(f"Slot {slot.name} (version {slot.version}): {render.slot_state(slot)}.", file=out)
    return 0


_VERBS: dict[str, Verb] = {
    "status": _status,
    "update": update,
    "rollback": _rollback,
    "mark": _mark,
    "health": _health,
}
