# SPDX-License-Identifier: Apache-2.0
"""The verbs of hypernet-admin: ask the agents, print the answer, return the exit status."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TextIO

from agents.admin import explain, render
from agents.admin.bus import Agents
from agents.admin.cli import ALL_RELEASES, Options
from agents.admin.explain import Verdict
from agents.admin.health import health
from agents.admin.model import Health, Slots, json_keys
from agents.admin.output import print_json
from agents.admin.update import update
from common import bus
from common.errors import ERROR_PREFIX, AgentError

_DEFAULT_REASON = "marked bad by an administrator"

Verb = Callable[[Agents, Options, TextIO], Awaitable[int]]


def run(options: Options, out: TextIO) -> int:
    """Run the verb that the command line names; only those that ask an agent connect to the bus."""
    if options.verb in ("verify", "info"):
        # Imported here: reading images takes a third of the time in which the other verbs start.
        from agents.admin import image

        return image.verify(options, out) if options.verb == "verify" else image.info(options, out)

    return asyncio.run(_ask(options, out))


async def _ask(options: Options, out: TextIO) -> int:
    async with bus.connect(descriptors=options.verb == "update") as client:
        return await _VERBS[options.verb](Agents(client), options, out)


async def _status(agents: Agents, options: Options, out: TextIO) -> int:
    properties = await agents.slots()
    slots = Slots.from_bus(properties)
    answer: dict[str, Any] = {}
    failure: AgentError | None = None
    try:
        answer = await agents.health()
    except AgentError as error:
        failure = error  # the slots can be shown all the same
        verdict = Verdict(error.dbus_name.removeprefix(ERROR_PREFIX), str(error))
    else:
        verdict = explain.judge(slots, Health.from_bus(answer))

    if options.json.enabled:
        judged = {"exit_status": verdict.exit_status, "name": verdict.name, "message": verdict.message}
        values = json_keys(properties) | {
            "health": json_keys(answer) if answer else None,
            "next_boot": explain.next_boot(slots),
            "check": judged,
        }
        print_json(values, options.json, out)
    elif not options.check:
        known = Health.from_bus(answer)
        line = f"unknown: {failure}" if failure else explain.health_line(known)
        out.write(render.status(slots, line, explain.failures_line(known)))
    elif failure is None:
        print(verdict.message, file=out)
    if options.check and failure is not None:
        raise failure
    return verdict.exit_status if options.check else 0


async def _slots(agents: Agents, options: Options, out: TextIO) -> int:
    properties = await agents.slots()
    if options.json.enabled:
        print_json({"slots": properties.get("Slots", [])}, options.json, out)
    else:
        out.write(render.slots_table(Slots.from_bus(properties).slots))
    return 0


async def _log(agents: Agents, options: Options, out: TextIO) -> int:
    properties = await agents.slots()
    if options.json.enabled:
        print_json({"transitions": properties.get("Transitions", [])}, options.json, out)
    else:
        out.write(render.log(Slots.from_bus(properties).transitions))
    return 0


async def _approve(agents: Agents, options: Options, out: TextIO) -> int:
    await agents.approve()
    return await _show("other", agents, options, out, hint="Let the next boot try it: hypernet-admin arm")


async def _arm(agents: Agents, options: Options, out: TextIO) -> int:
    before = Slots.from_bus(await agents.slots()).find("other")  # with --reboot it may be gone afterwards
    await agents.arm(reboot=options.reboot)
    if not options.reboot:
        return await _show("other", agents, options, out, hint="Reboot to start it: systemctl reboot")

    if options.json.enabled:
        values = {"slot": before.name, "version": before.version} if before else {}
        print_json(values | {"reboot": True}, options.json, out)
    else:
        print(
            f"The machine reboots now and tries {explain.named(before) if before else 'the other slot'}.",
            file=out,
        )
    return 0


async def _disarm(agents: Agents, options: Options, out: TextIO) -> int:
    await agents.disarm()
    return await _show("other", agents, options, out)


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
    return await _show(options.slot, agents, options, out)


async def _denied(agents: Agents, options: Options, out: TextIO) -> int:
    if options.release:
        cleared = await agents.clear_denied(options.release)
        if options.json.enabled:
            print_json({"cleared": cleared}, options.json, out)
        elif options.release == ALL_RELEASES:
            print("No release is denied on this machine any more.", file=out)
        else:
            print(f"Version {options.release} may be installed again.", file=out)
        return 0

    properties = await agents.slots()
    if options.json.enabled:
        print_json({"denied": properties.get("Denied", [])}, options.json, out)
    else:
        out.write(render.denied(Slots.from_bus(properties).denied))
    return 0


async def _show(name: str, agents: Agents, options: Options, out: TextIO, *, hint: str = "") -> int:
    """Print the slot called `name` as it is now, and for people the next step."""
    properties = await agents.slots()
    slot = Slots.from_bus(properties).find(name)
    if options.json.enabled:
        found = (each for each in properties.get("Slots", ()) if slot and each.get("name") == slot.name)
        print_json(next(found, {}), options.json, out)
    elif slot:
        print(f"S{explain.named(slot)[1:]}: {explain.slot_state(slot)}.", file=out)
        if hint:
            print(hint, file=out)
    return 0


_VERBS: dict[str, Verb] = {
    "status": _status,
    "slots": _slots,
    "log": _log,
    "health": health,
    "update": update,
    "approve": _approve,
    "arm": _arm,
    "disarm": _disarm,
    "rollback": _rollback,
    "mark": _mark,
    "denied": _denied,
}
