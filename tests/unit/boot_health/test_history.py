# SPDX-License-Identifier: Apache-2.0
"""The count of failed boots in a row, and the file that keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.boot_health.history import History, counted, load, noted, save

from .conftest import Journal

ONE, OTHER = "ab" * 32, "cd" * 32


def boots(*outcomes: tuple[str, str, bool]) -> int:
    """Count boots given as (boot id, root hash, failed)."""
    history = History()
    for boot_id, root_hash, failed in outcomes:
        history = counted(history, boot_id, root_hash, failed)
    return history.failures


def test_failed_boots_in_a_row_add_up() -> None:
    assert boots(("1", ONE, True), ("2", ONE, True), ("3", ONE, True)) == 3


def test_a_good_boot_ends_the_row() -> None:
    assert boots(("1", ONE, True), ("2", ONE, False), ("3", ONE, True)) == 1


def test_another_system_begins_a_row_of_its_own() -> None:
    assert boots(("1", ONE, True), ("2", ONE, True), ("3", OTHER, True)) == 1


def test_a_system_whose_name_is_not_known_is_taken_for_the_same() -> None:
    assert boots(("1", ONE, True), ("2", "", True), ("3", ONE, True)) == 3


def test_a_boot_counts_once_however_often_it_is_judged() -> None:
    assert boots(("1", ONE, True), ("2", ONE, True), ("2", ONE, True), ("2", ONE, True)) == 2


def test_the_last_word_on_a_boot_counts() -> None:
    judged_good_and_then_not = [("1", ONE, True), ("2", ONE, False), ("2", ONE, True)]
    assert boots(*judged_good_and_then_not) == 2
    repaired = [("1", ONE, True), ("2", ONE, True), ("2", ONE, False)]
    assert boots(*repaired) == 0
    assert boots(*repaired, ("3", ONE, True)) == 1


def test_what_is_saved_is_loaded(tmp_path: Path, sent: Journal) -> None:
    path = tmp_path / "history.json"
    save(path, History(ONE, "12" * 16, 3, 2, OTHER))
    assert load(path) == History(ONE, "12" * 16, 3, 2, OTHER)
    assert sent.messages == []


def test_a_file_without_a_proven_system_is_one_of_an_older_version(tmp_path: Path, sent: Journal) -> None:
    path = tmp_path / "history.json"
    path.write_text('{"root_hash": "", "boot_id": "12", "failures": 1, "before": 0}', encoding="utf-8")
    assert load(path) == History("", "12", 1, 0, "")
    assert sent.messages == []


def test_the_last_system_that_was_no_trial_is_kept_until_it_is_tried_anew() -> None:
    history = noted(History(), ONE, trial=False)
    assert history.proven == ONE
    assert counted(history, "2", OTHER, True).proven == ONE
    assert noted(history, OTHER, trial=True).proven == ONE
    assert noted(history, ONE, trial=True).proven == ""


def test_no_file_is_an_empty_history_and_nothing_to_talk_about(tmp_path: Path, sent: Journal) -> None:
    assert load(tmp_path / "history.json") == History()
    assert sent.messages == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 2000,
        "{}",
        '{"root_hash": 1, "boot_id": "", "failures": 1, "before": 0}',
        '{"root_hash": "GG", "boot_id": "", "failures": 1, "before": 0}',
        '{"root_hash": "", "boot_id": "", "failures": 1, "before": 0, "proven": null}',
        '{"root_hash": "", "boot_id": "", "failures": -1, "before": 0}',
        '{"root_hash": "", "boot_id": "", "failures": true, "before": 0}',
        '{"root_hash": "", "boot_id": "", "failures": 1e3, "before": 0}',
        '{"root_hash": "", "boot_id": "", "failures": 1, "before": 99999999999}',
        "x" * 5000,
    ],
)
def test_a_damaged_file_is_an_empty_history_and_a_warning(tmp_path: Path, sent: Journal, text: str) -> None:
    path = tmp_path / "history.json"
    path.write_text(text, encoding="utf-8")
    assert load(path) == History()
    (warning,) = sent.messages
    assert str(path) in warning[1]


def test_the_count_has_an_end(tmp_path: Path, sent: Journal) -> None:
    path = tmp_path / "history.json"
    history = History(ONE, "1" * 32, 1 << 20, 1 << 20)
    save(path, counted(history, "2" * 32, ONE, True))
    assert load(path).failures == 1 << 20
