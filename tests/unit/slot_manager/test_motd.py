# SPDX-License-Identifier: Apache-2.0
"""The message that a login shows after a rollback."""

from pathlib import Path

import pytest

from agents.slot_manager import motd
from agents.slot_manager.record import Record, Rollback, Transition

BACK = Rollback("b", "2.0.0", "a", "1.0.0", "check 'application' failed", 1_800_000_000_000_000)


def good(version: str, since_usec: int) -> Transition:
    return Transition(since_usec, "a", version, "ab" * 32, "good", "")


def test_rollback_is_told_with_versions_time_and_reason(tmp_path: Path) -> None:
    motd.write(Record(last_rollback=BACK), tmp_path / "motd")

    assert (tmp_path / "motd").read_text() == (
        "This machine went back from 2.0.0 to 1.0.0 on 2027-01-15 08:00 UTC: check 'application' failed\n"
        "'hypernet-admin status' tells more.\n"
    )


@pytest.mark.parametrize(
    ("version", "after_usec", "told"),
    [("3.0.0", 1, False), ("1.0.0", 1, True), ("3.0.0", -1, True)],
    ids=["another version proved good", "the old version proved good", "another version was good before"],
)
def test_story_ends_when_another_version_proves_good(
    tmp_path: Path, version: str, after_usec: int, told: bool
) -> None:
    record = Record(last_rollback=BACK, transitions=(good(version, BACK.since_usec + after_usec),))
    (tmp_path / "motd").write_text("old")

    motd.write(record, tmp_path / "motd")

    assert (tmp_path / "motd").exists() == told


def test_machine_that_never_went_back_shows_nothing(tmp_path: Path) -> None:
    motd.write(Record(), tmp_path / "motd")

    assert not (tmp_path / "motd").exists()
