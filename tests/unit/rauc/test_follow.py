# SPDX-License-Identifier: Apache-2.0
"""What RAUC's properties show of slot-manager's jobs, and in which order clients are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agents.rauc import follow
from agents.rauc.follow import Follower
from agents.rauc.slots import SlotManager
from common import bus

from .stand_in import StandIn, slot, slot_manager


class Recorder:
    """Remembers what is told, with the values of that moment."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.follower: Follower | None = None

    def changed(self, *names: str) -> None:
        attributes = {
            "Operation": "operation",
            "LastError": "last_error",
            "Progress": "progress",
            "BootSlot": "boot_slot",
            "SystemVersion": "system_version",
        }
        (name,) = names
        self.told.append((name, getattr(self.follower, attributes[name])))

    def completed(self, result: int) -> None:
        self.told.append(("Completed", result))

    def without_progress(self) -> list[tuple[str, Any]]:
        return [each for each in self.told if each[0] != "Progress"]


Work = Callable[[StandIn, Follower, Recorder], Awaitable[None]]


def follow_while(work: Work, *, before: Callable[[StandIn], object] = lambda stand_in: None) -> None:
    """Run work beside a follower of a stand-in; `before` comes before the follower listens."""

    async def run() -> None:
        async with slot_manager() as stand_in, bus.connect() as client:
            before(stand_in)
            recorder = Recorder()
            follower = Follower(SlotManager(client), recorder)
            recorder.follower = follower
            ready = asyncio.Event()
            watching = asyncio.create_task(follower.watch(ready))
            await ready.wait()
            recorder.told.clear()
            try:
                await asyncio.wait_for(work(stand_in, follower, recorder), 20)
            finally:
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watching

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_order_of_a_good_installation_is_rauc_s(private_bus: str) -> None:
    async def work(stand_in: StandIn, follower: Follower, told: Recorder) -> None:
        job = stand_in.start()
        job.tell(Stage="write", Progress=0.5)
        stand_in.end(Stage="done", Progress=1.0, Result="done")
        await until(lambda: ("Operation", "idle") in told.told)
        assert told.without_progress() == [
            ("Operation", "installing"),
            ("Completed", 0),
            ("Operation", "idle"),
        ]
        assert told.told[-3:-1] == [("Progress", (100, "Installing done.", 1)), ("Completed", 0)]

    follow_while(work)


@pytest.mark.parametrize("result", ["failed", "cancelled"])
def test_error_is_told_before_completed(private_bus: str, result: str) -> None:
    async def work(stand_in: StandIn, follower: Follower, told: Recorder) -> None:
        stand_in.start()
        stand_in.end(Result=result, ErrorMessage="It was not to be.")
        await until(lambda: ("Operation", "idle") in told.told)
        assert told.without_progress() == [
            ("Operation", "installing"),
            ("LastError", "It was not to be."),
            ("Completed", 1),
            ("Operation", "idle"),
        ]

    follow_while(work)


def test_next_installation_clears_the_error(private_bus: str) -> None:
    async def work(stand_in: StandIn, follower: Follower, told: Recorder) -> None:
        stand_in.start()
        stand_in.end(Result="failed", ErrorMessage="No.")
        await until(lambda: follower.last_error == "No.")
        stand_in.start()
        await until(lambda: follower.operation == "installing")
        assert follower.last_error == ""

    follow_while(work)


def test_dry_run_is_not_told(private_bus: str) -> None:
    async def work(stand_in: StandIn, follower: Follower, told: Recorder) -> None:
        stand_in.start(dry_run=True)
        stand_in.end(Result="done")
        stand_in.start()
        await until(lambda: follower.operation == "installing")
        assert told.without_progress() == [("Operation", "installing")]

    follow_while(work)


def test_installation_that_runs_already_is_followed(private_bus: str) -> None:
    async def work(stand_in: StandIn, follower: Follower, told: Recorder) -> None:
        assert follower.operation == "installing"
        stand_in.end(Result="done")
        await until(lambda: ("Completed", 0) in told.told)

    follow_while(work, before=lambda stand_in: stand_in.start())


def test_job_that_is_gone_is_a_failed_installation(
    private_bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "SILENCE_SEC", 0.05)

    async def work(stand_in: StandIn, follower: Follower, told: Recorder) -> None:
        job = stand_in.start()
        await until(lambda: follower.operation == "installing")
        stand_in.service.unexport(job.path)
        await until(lambda: ("Completed", 1) in told.told)
        assert follower.last_error.startswith("The installation can no longer be followed (")

    follow_while(work)


def test_silent_job_that_still_runs_is_waited_for(private_bus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "SILENCE_SEC", 0.05)

    async def work(stand_in: StandIn, follower: Follower, told: Recorder) -> None:
        stand_in.start()
        await asyncio.sleep(0.5)
        assert follower.operation == "installing"

    follow_while(work)


def test_another_job_of_the_same_path_is_another_installation(private_bus: str) -> None:
    async def work(stand_in: StandIn, follower: Follower, told: Recorder) -> None:
        job = stand_in.start()
        await until(lambda: follower.operation == "installing")
        stand_in.service.unexport(job.path)
        stand_in._jobs = 0
        stand_in.start()._started = 99
        await until(lambda: len(told.without_progress()) >= 6)
        assert [name for name, _ in told.without_progress()] == [
            "Operation",
            "LastError",
            "Completed",
            "Operation",
            "Operation",
            "LastError",
        ]
        assert follower.operation == "installing"

    follow_while(work)


def test_running_slot_and_version_are_known_and_kept_up_to_date(private_bus: str) -> None:
    async def work(stand_in: StandIn, follower: Follower, told: Recorder) -> None:
        assert (follower.boot_slot, follower.system_version) == ("a", "1.0.0")
        stand_in.slot_list = [slot("a", "good", "1.0.0"), slot("b", "trying", "1.1.0", booted=True)]
        stand_in.changed("Slots")
        await until(lambda: follower.boot_slot == "b")
        assert told.told == [("BootSlot", "b"), ("SystemVersion", "1.1.0")]

    follow_while(work)


def test_without_slot_manager_it_listens_and_says_what_is_wrong(private_bus: str) -> None:
    async def run() -> None:
        async with bus.connect() as client:
            recorder = Recorder()
            follower = recorder.follower = Follower(SlotManager(client), recorder)
            ready = asyncio.Event()
            watching = asyncio.create_task(follower.watch(ready))
            await asyncio.wait_for(ready.wait(), 10)
            assert "io.hypernet.SlotManager1" in follower.last_error
            async with slot_manager() as stand_in:
                stand_in.start()
                await asyncio.wait_for(until(lambda: follower.operation == "installing"), 10)
            watching.cancel()

    asyncio.run(run())
