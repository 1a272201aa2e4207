# SPDX-License-Identifier: Apache-2.0
"""How much is made up and kept; each area asserts its own share where it runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fuzz.hostile import CASES, CORPUS, Hang, survives

CORPUS_MAX_BYTES = 1 << 20


def test_a_run_makes_up_at_least_ten_thousand_cases() -> None:
    assert sum(CASES.values()) >= 10_000


def test_each_area_is_explored_by_one_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    explored = re.findall(r'explore\(\s*"([a-z0-9-]+)"', tests)

    assert sorted(explored) == sorted(CASES)


def test_the_corpus_is_small_and_each_folder_belongs_to_an_area() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) <= CORPUS_MAX_BYTES
    assert {path.relative_to(CORPUS).parts[0] for path in files} <= set(CASES)


def test_memory_over_the_bound_is_noticed() -> None:
    with pytest.raises(MemoryError):
        survives(lambda: bytearray(1 << 30))


def test_a_hang_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> None:
        while True:
            pass

    monkeypatch.setattr("tests.fuzz.hostile.CASE_SEC", 0.1)
    with pytest.raises(Hang):
        survives(endless)
