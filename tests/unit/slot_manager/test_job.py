# SPDX-License-Identifier: Apache-2.0
"""What a job says of itself: progress, rate, time left, owner, end."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from agents.slot_manager import job as jobs
from agents.slot_manager.install import Installed
from agents.slot_manager.job import Job, Pace, Reporter
from agents.slot_manager.progress import Stage
from agents.slot_manager.state import State
from common.errors import AgentError, Cancelled

MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pace(*samples: tuple[float, int], then: float = 0.0) -> int:
    """The rate after these (seconds since the last, bytes done), `then` seconds later."""
    clock = Clock()
    measured = Pace(clock)
    for wait, done in samples:
        clock.now += wait
        measured.note(done)
    clock.now += then
    return measured.rate()


def test_a_steady_pace_is_its_rate() -> None:
    assert pace(*((1.0, number * MIB) for number in range(5))) == MIB


def test_nothing_is_known_before_the_second_sample() -> None:
    assert pace() == 0
    assert pace((0.0, 5)) == 0


def test_only_the_last_ten_seconds_count() -> None:
    slow = [(1.0, number) for number in range(20)]
    fast = [(1.0, 20 + number * MIB) for number in range(1, 12)]
    assert pace(*slow, *fast) == MIB


def test_a_stall_lowers_the_rate_to_nothing() -> None:
    samples = [(1.0, number * MIB) for number in range(11)]
    assert pace(*samples, then=5.0) == pytest.approx(MIB * 10 / 15, rel=0.5)
    assert pace(*samples, then=60.0) == 0


def test_a_rate_is_never_negative() -> None:
    assert pace((1.0, 100), (1.0, 0)) == 0


def job(*, dry_run: bool = False) -> Job:
    return Job(7, "/x.img", "b", owner="alice", dry_run=dry_run)


def test_remaining_time_follows_from_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, running = Clock(), job()
    running._pace = Pace(clock)
    running.report(Stage.WRITE, 0, 100 * MIB)
    assert running.remaining() == jobs.UNKNOWN_USEC
    clock.now += 2
    running.report(Stage.WRITE, 20 * MIB, 100 * MIB)
    assert running.rate() == 10 * MIB
    assert running.remaining() == 8_000_000
    assert running.progress() == 0.2


def test_an_ended_job_has_no_rate_and_nothing_remains() -> None:
    ended = job()
    ended.report(Stage.WRITE, 1, 2)
    ended.succeed(Installed("b", "2.0.0", State.ARMED, False))
    assert (ended.rate(), ended.remaining(), ended.progress(), ended.result()) == (0, 0, 1.0, "done")
    assert ended.bytes_done() == ended.bytes_total()


def test_progress_is_complete_only_at_the_end() -> None:
    running = job()
    running.report(Stage.ENTRY, 10, 10)
    assert running.progress() < 1


@pytest.mark.parametrize(
    ("error", "result"), [(AgentError("It broke."), "failed"), (Cancelled("Stop."), "cancelled")]
)
def test_the_end_without_success_has_a_name_and_a_sentence(error: AgentError, result: str) -> None:
    failed = job()
    failed.fail(error)
    assert (failed.result(), failed.error_name(), failed.error_message()) == (
        result,
        error.dbus_name,
        str(error),
    )


@pytest.mark.parametrize(
    ("installed", "sentence"),
    [
        (Installed("b", "2.0.0", State.ARMED, False), "Installed 2.0.0 into slot b; it is armed. Note."),
        (Installed("b", "2.0.0", State.STAGED, False), "Installed 2.0.0 into slot b; it is staged. Note."),
        (
            Installed("b", "2.0.0", State.EMPTY, True),
            "Version 2.0.0 can be installed into slot b; nothing was written. Note.",
        ),
    ],
)
def test_the_last_sentence_says_what_was_done(
    installed: Installed, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str, str]] = []
    monkeypatch.setattr(Job, "finished", lambda self, *args: told.append(args))
    job(dry_run=installed.dry_run).succeed(installed, "Note.")
    assert told == [("done", "", sentence)]


def test_who_has_to_wait_is_told_for_whom_since_when_and_what_to_do() -> None:
    assert re.fullmatch(
        r"Slot b is being written by alice since \d\d:\d\d:\d\d "
        r"\(job /io/hypernet/SlotManager1/job/7\); wait for its end or cancel it\.",
        str(job().busy()),
    )
    assert "is being checked by alice" in str(job(dry_run=True).busy())


def test_a_slot_is_being_written_from_the_first_write_to_the_last() -> None:
    running = job()
    seen = []
    for stage in Stage:
        running.report(stage, 0, 1)
        seen.append((str(stage), running.writing))
    assert [name for name, writing in seen if writing] == ["write", "entry"]


def test_each_new_stage_is_announced_once() -> None:
    running, stages = job(), []
    running.on_stage = lambda: stages.append(running.stage())
    for stage, done in ((Stage.CHECK, 0), (Stage.VERIFY, 0), (Stage.VERIFY, 1), (Stage.WRITE, 1)):
        running.report(stage, done, 2)
    assert stages == ["verify", "write"]


def test_progress_of_the_engine_reaches_the_loop_a_few_times_a_second() -> None:
    running = job()
    reports: list[tuple[Stage, int, int]] = []
    running.report = lambda *args: reports.append(args)  # type: ignore[method-assign]

    async def story() -> None:
        reporter = Reporter(running, asyncio.get_running_loop())
        for done in range(1000):
            reporter.progress(Stage.WRITE, done, 1000)
        reporter.progress(Stage.ENTRY, 1000, 2000)
        await asyncio.sleep(0)

    asyncio.run(story())
    assert reports == [(Stage.WRITE, 0, 1000), (Stage.ENTRY, 1000, 2000)]


def test_the_interface_file_names_the_unknown_time() -> None:
    xml = Path(__file__).parents[3] / "units/dbus/interfaces/io.hypernet.SlotManager1.xml"
    assert str(jobs.UNKNOWN_USEC) in xml.read_text(encoding="utf-8")
