# SPDX-License-Identifier: Apache-2.0
"""The verb `update`: start an install job, show its progress, let Ctrl-C cancel it, and say how it ended."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from agents.admin import render
from agents.admin.bus import JOB, Agents
from agents.admin.cli import PROGRAM, Options
from agents.admin.model import Job, Slots
from agents.admin.output import print_json
from agents.admin.progress import Progress, progress
from common import bus
from common.errors import AgentError, Cancelled, exit_status_of

_WAKE_SEC = 0.1
"""How often Ctrl-C is looked for."""

_SILENCE_SEC = 5.0
"""A running job reports several times a second; after this time without a word it is asked."""

_CANCELLED = "The update was cancelled; the running system was not touched."
_FAILED = "The update failed; see 'journalctl -u hypernet-slot-manager.service'."


class JobFailed(AgentError):
    """An install job that did not end in success. `exit_status` is that of the error which the job names."""

    def __init__(self, job: Job) -> None:
        cancelled = job.result == "cancelled"
        super().__init__(job.error_message or (_CANCELLED if cancelled else _FAILED))
        self.dbus_name = Cancelled.dbus_name if cancelled else job.error_name or AgentError.dbus_name
        self.exit_status = exit_status_of(self.dbus_name)


async def update(agents: Agents, options: Options, out: TextIO) -> int:
    """Install `options.image` and wait until the job has ended.

    Raises JobFailed if it ended otherwise than well, and what the slot manager answers to a refused start.
    """
    # Subscribed before the start: no stage, however short, is missed.
    async with agents.changes() as changes:
        with _interrupt() as interrupted:
            path = await agents.install(options.image)
            job = await _follow(agents, path, changes, progress(out, options.json), interrupted)

    installed = None
    if job.result == "done":
        installed = Slots.from_bus(await agents.slots()).find(job.slot)
    version = installed.version if installed else ""
    if options.json.enabled:
        values = {
            "result": job.result,
            "slot": job.slot,
            "version": version,
            "error_name": job.error_name,
            "error_message": job.error_message,
        }
        print_json(values, options.json, out)
    if job.result != "done":
        raise JobFailed(job)

    if not options.json.enabled:
        state = f" ({render.slot_state(installed)})" if installed else ""
        print(f"Version {version} is installed in slot {job.slot}{state}.", file=out)
        print("Reboot to start it: systemctl reboot", file=out)
    return 0


async def _follow(
    agents: Agents, path: str, changes: bus.SignalQueue, display: Progress, interrupted: asyncio.Event
) -> Job:
    """Return the job once it has ended. The first interrupt asks the slot manager, once, to cancel it."""
    values: dict[str, Any] = {"Stage": "check"}
    heard = time.monotonic()
    asked = False
    try:
        while not values.get("Result"):
            display.update(Job.from_bus(values))
            if interrupted.is_set() and not asked:
                asked = True
                await _cancel(agents, path, display)
            try:
                change = await asyncio.wait_for(changes.get(), _WAKE_SEC)
            except TimeoutError:
                if time.monotonic() - heard > _SILENCE_SEC:
                    heard = time.monotonic()
                    values = await _read(agents, path)
                continue
            if change.path == path and change.args[0] == JOB:
                heard = time.monotonic()
                values |= change.args[1]
        return Job.from_bus(await _read(agents, path))
    finally:
        display.close()


async def _read(agents: Agents, path: str) -> dict[str, Any]:
    try:
        return await agents.job(path)
    except AgentError as error:
        raise AgentError(
            f"The update can no longer be followed ({str(error).rstrip('.')}); "
            "see 'hypernet-admin status' and 'journalctl -u hypernet-slot-manager.service'."
        ) from error


async def _cancel(agents: Agents, path: str, display: Progress) -> None:
    display.close()
    print(f"{PROGRAM}: Cancelling the update, please wait.", file=sys.stderr)
    try:
        await agents.cancel(path)
    except AgentError as error:
        # Refused, or the job has just ended: either way the job itself says how it goes on.
        print(f"{PROGRAM}: The update was not cancelled: {error}", file=sys.stderr)


@contextlib.contextmanager
def _interrupt() -> Iterator[asyncio.Event]:
    """Give an event that the first Ctrl-C sets; the second one ends the program as usual."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    # asyncio's own, which cancels the main task. The interpreter's would interrupt the loop itself, and what
    # the tasks do then on a closed connection ends in tracebacks.
    usual = signal.getsignal(signal.SIGINT)

    def restore() -> None:
        if loop.remove_signal_handler(signal.SIGINT):
            signal.signal(signal.SIGINT, usual)

    def handle() -> None:
        event.set()
        restore()

    loop.add_signal_handler(signal.SIGINT, handle)
    try:
        yield event
    finally:
        restore()
