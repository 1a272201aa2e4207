# SPDX-License-Identifier: Apache-2.0
"""The verb `update`: start an install job, show its progress, let Ctrl-C cancel it, and say how it ended."""

import asyncio
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from agents.admin import explain, text
from agents.admin.bus import JOB, Agents
from agents.admin.cli import PROGRAM, Options
from agents.admin.interrupt import Interrupts, Question, can_ask, interrupts
from agents.admin.model import Job, Slot, Slots
from agents.admin.output import print_json
from agents.admin.progress import Progress, progress
from common import bus
from common.errors import INTERRUPTED, AgentError, Cancelled, exit_status_of

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


class RebootFailed(AgentError):
    """The update is done, and the reboot that was asked for could not be started."""


class NotFollowed(AgentError):
    """The second Ctrl-C: the job runs on, and nobody waits for it here."""

    def __init__(self) -> None:
        super().__init__(
            "Interrupted; the update itself goes on: 'hypernet-admin status' shows it, and "
            "'journalctl -u hypernet-slot-manager.service' how it ended."
        )
        self.exit_status = INTERRUPTED


async def update(agents: Agents, options: Options, out: TextIO) -> int:
    """Install `options.source` and wait until the job has ended.

    Raises JobFailed if it ended otherwise than well, RebootFailed, NotFollowed, and what the slot manager
    answers to a refused start.
    """
    with interrupts() as seen:
        path = ""
        try:
            # Subscribed before the start: no stage, however short, is missed.
            async with agents.changes() as changes:
                path = await _start(agents, options)
                job = await _follow(agents, path, changes, progress(out, options.json), seen)
        except asyncio.CancelledError:
            if seen.given_up and path:
                raise NotFollowed from None
            if seen.given_up:
                raise KeyboardInterrupt from None
            raise

    slot = await _slot(agents, job) if job.result == "done" else None
    if options.json.enabled:
        values = {
            "result": job.result,
            "slot": job.slot,
            "version": job.version,
            "state": slot.state if slot else "",
            "dry_run": options.dry_run,
            "reboot": options.reboot and job.result == "done" and not job.error_message,
            "error_name": job.error_name,
            "error_message": job.error_message,
            "bytes_total": job.bytes_total,
            "bytes_copied": job.bytes_copied,
            "bytes_skipped": job.bytes_skipped,
            "bytes_zero": job.bytes_zero,
            "bytes_fetched": job.bytes_fetched,
        }
        print_json(values, options.json, out)
    if job.result != "done":
        raise JobFailed(job)
    if job.error_message:
        raise RebootFailed(f"Version {job.version} is installed in slot {job.slot}. {job.error_message}")

    if not options.json.enabled:
        print("\n".join(_outcome(options, job, slot)), file=out)
    return 0


async def _start(agents: Agents, options: Options) -> str:
    """Return the object path of the new job.

    Files that we can open are passed on open: the agent need not be able to reach them, and may not.
    """
    asked = _install_options(options)
    with ExitStack() as stack:
        if "://" not in options.source:
            image = Path(options.source)
            manifest = image.with_name(
                image.name.removesuffix(".zst").removesuffix(".img") + ".manifest.json"
            )
            try:
                files = [
                    stack.enter_context(open(path, "rb"))
                    for path in (image, manifest, manifest.with_name(manifest.name + ".asc"))
                ]
            except OSError:
                pass  # not all are there, or ours: what is wrong with that is for the agent to say
            else:
                return await agents.install_file([file.fileno() for file in files], asked)
        return await agents.install(options.source, asked)


def _install_options(options: Options) -> dict[str, bool | str]:
    """What the caller asked for; what is left out is as the slot manager documents it."""
    asked: dict[str, bool | str] = {}
    if options.stage_only:
        asked["arm"] = False
    if options.allow_downgrade:
        asked["allow-downgrade"] = True
    if options.dry_run:
        asked["dry-run"] = True
    if options.reboot:
        asked["reboot"] = True
    if options.slot:
        asked["slot"] = options.slot
    return asked


def _outcome(options: Options, job: Job, slot: Slot | None) -> tuple[str, ...]:
    """Return what a person has to know after a job that ended well, with the next step."""
    if options.dry_run:
        return (f"Version {job.version} can be installed into slot {job.slot}; nothing was written.",)

    state = f" ({explain.slot_state(slot)})" if slot else ""
    done = [f"Version {job.version} is installed in slot {job.slot}{state}."]
    if "://" in options.source and job.bytes_total:
        done.append(f"Fetched {text.size(job.bytes_fetched)} of {text.size(job.bytes_total)}.")
    if options.reboot:
        return *done, "The machine reboots now to start it."
    if options.stage_only:
        return *done, "Let the next boot try it: hypernet-admin arm"
    return *done, "Reboot to start it: systemctl reboot"


async def _slot(agents: Agents, job: Job) -> Slot | None:
    """Return the slot that was written; None if the slot manager cannot be asked, as in a reboot."""
    try:
        return Slots.from_bus(await agents.slots()).find(job.slot)
    except AgentError:
        return None


async def _follow(
    agents: Agents, path: str, changes: bus.SignalQueue, display: Progress, seen: Interrupts
) -> Job:
    """Return the job once it has ended. The first interrupt asks, once, whether to cancel it."""
    first = await _read(agents, path)
    values: dict[str, Any] = {"Stage": "check"}
    heard = time.monotonic()
    answered = False
    question: Question | None = None
    try:
        while not values.get("Result"):
            if seen.given_up:  # asyncio.wait_for of Python 3.11 may swallow a cancellation
                raise asyncio.CancelledError
            if question is None:
                display.update(Job.from_bus(values))
            if seen.asked and not answered and question is None:
                display.close()
                if can_ask():
                    question = Question()
                else:
                    answered = True
                    await _cancel(agents, path)
            if question is not None and question.answer is not None:
                answered = True
                if question.answer:
                    await _cancel(agents, path)
                question = None
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
        return Job.from_bus(await _last(agents, path, first | values))
    finally:
        if question is not None:
            question.close()
        display.close()


async def _read(agents: Agents, path: str) -> dict[str, Any]:
    try:
        return await agents.job(path)
    except AgentError as error:
        raise AgentError(
            f"The update can no longer be followed ({str(error).rstrip('.')}); "
            "see 'hypernet-admin status' and 'journalctl -u hypernet-slot-manager.service'."
        ) from error


async def _last(agents: Agents, path: str, heard: dict[str, Any]) -> dict[str, Any]:
    """Return the properties of a job that has ended; what was heard if a reboot has stopped the agent."""
    try:
        return await agents.job(path)
    except AgentError:
        return heard


async def _cancel(agents: Agents, path: str) -> None:
    print(f"{PROGRAM}: Cancelling the update, please wait.", file=sys.stderr)
    try:
        await agents.cancel(path)
    except AgentError as error:
        # Refused, or the job has just ended: either way the job itself says how it goes on.
        print(f"{PROGRAM}: The update was not cancelled: {error}", file=sys.stderr)
