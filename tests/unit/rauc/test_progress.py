# SPDX-License-Identifier: Apache-2.0
"""Progress as RAUC tells it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agents.rauc.progress import Installation

STAGES = ["check", "verify", "write", "entry", "done"]


def new() -> Installation:
    return Installation("/job/1", {"Slot": "b", "Started": 1})


def test_an_installation_is_a_tree_of_steps() -> None:
    job = new()

    steps = job.begin()
    for values in (
        {"Stage": "check", "Progress": 0.0},
        {"Stage": "verify", "Progress": 0.1},
        {"Progress": 0.25},
        {"Stage": "write", "Progress": 0.3},
        {"Stage": "done", "Progress": 1.0, "Result": "done"},
    ):
        steps += job.update(values)
    steps += job.end(done=True)

    assert steps == [
        (0, "Installing", 1),
        (0, "Checking bundle", 2),
        (10, "Checking bundle done.", 2),
        (10, "Verifying signature", 2),
        (25, "Verifying signature", 2),
        (30, "Verifying signature done.", 2),
        (30, "Copying image to rootfs.1", 2),
        (99, "Copying image to rootfs.1 done.", 2),
        (100, "Installing done.", 1),
    ]


def test_a_failure_ends_the_step_and_the_whole() -> None:
    job = new()
    job.update({"Stage": "verify", "Progress": 0.1})
    job.update({"Result": "failed", "ErrorMessage": "No."})

    assert (job.result, job.message) == ("failed", "No.")
    assert job.end(done=False) == [(10, "Verifying signature failed.", 2), (100, "Installing failed.", 1)]


def test_a_stage_that_this_version_does_not_know_is_named() -> None:
    assert new().update({"Stage": "migrate"}) == [(0, "Migrate", 2)]


def test_a_report_that_is_older_than_the_last_one_changes_nothing() -> None:
    job = new()
    job.update({"Stage": "verify", "Progress": 0.2})
    job.update({"Stage": "write", "Progress": 0.5})

    assert job.update({"Stage": "verify", "Progress": 0.3}) == [(50, "Copying image to rootfs.1", 2)]


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={"Stage": st.sampled_from(STAGES), "Progress": st.floats(0, 1), "Slot": st.just("b")},
        )
    ),
    st.booleans(),
)
def test_percent_never_goes_back_and_100_is_the_end_only(changes: list[dict[str, Any]], done: bool) -> None:
    job = new()

    steps = job.begin() + [step for values in changes for step in job.update(values)]
    last = job.end(done=done)

    percents = [step[0] for step in [*steps, *last]]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert 100 not in percents[:-1]
    assert last[-1][2] == 1
