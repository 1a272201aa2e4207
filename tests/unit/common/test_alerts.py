# SPDX-License-Identifier: Apache-2.0
"""Raising alerts: one file each, bounded, and never a trouble for who raises them."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from common import alerts, journal
from common.alerts import Kind, raise_alert


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(journal, "send", lambda text, **fields: texts.append(text))
    return texts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(alerts, "DIRECTORY", tmp_path / "run/alerts")
    return tmp_path / "run/alerts"


def test_an_alert_is_one_complete_file_that_only_its_owner_reads(folder: Path) -> None:
    assert raise_alert(Kind.BOOT_DEGRADED, "Two checks failed.", {"checks": "a, b", "count": 2})

    (file,) = folder.iterdir()
    content = json.loads(file.read_bytes())
    assert content.pop("usec") > 0
    assert content == {
        "kind": "boot-degraded",
        "summary": "Two checks failed.",
        "details": {"checks": "a, b", "count": "2"},
    }
    assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)


def test_the_names_of_alerts_sort_by_time(folder: Path) -> None:
    for number in range(5):
        raise_alert(Kind.TEST, str(number))

    found = [json.loads(path.read_bytes())["summary"] for path in sorted(folder.iterdir())]

    assert found == ["0", "1", "2", "3", "4"]


def test_a_full_directory_takes_no_more_and_the_journal_has_it(folder: Path, warnings: list[str]) -> None:
    for number in range(alerts.MAX_FILES):
        assert raise_alert(Kind.UNIT_FAILED, str(number))

    assert not raise_alert(Kind.UNIT_FAILED, "one too many")
    assert len(list(folder.iterdir())) == alerts.MAX_FILES
    assert "one too many" in warnings[-1]


def test_a_directory_that_cannot_be_made_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(alerts, "DIRECTORY", tmp_path / "file/alerts")

    assert not raise_alert(Kind.BACKUP_FAILED, "No backup was made.")
    assert len(warnings) == 1
    assert "No backup was made." in warnings[0]


def test_whatever_an_agent_passes_it_is_not_troubled(folder: Path, warnings: list[str]) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert not raise_alert(Kind.TEST, "strange", {"detail": Unprintable()})  # type: ignore[dict-item]
    assert warnings
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("text", ["x" * 50_000, "\U0001f4be" * 50_000, "\0\n\x1b" * 20_000])
def test_a_file_stays_within_its_limit(folder: Path, text: str) -> None:
    assert raise_alert(Kind.TEST, text, {f"{number}{text}": text for number in range(100)})

    (file,) = folder.iterdir()
    assert file.stat().st_size <= alerts.MAX_BYTES


def test_many_at_once_are_all_there(folder: Path) -> None:
    threads = [
        threading.Thread(target=raise_alert, args=(Kind.TEST, str(number)))
        for number in range(alerts.MAX_FILES)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(os.listdir(folder)) == alerts.MAX_FILES
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
