# SPDX-License-Identifier: Apache-2.0
"""Order of versions, compared with systemd's own."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import process, version

VERSIONS = st.text(alphabet="0123456789abz.~-^", min_size=1, max_size=10)


def systemd(left: str, right: str) -> int:
    done = process.run(["systemd-analyze", "compare-versions", left, right], timeout_sec=10, success=None)
    return {0: 0, 11: 1, 12: -1}[done.returncode]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.0.0", "1.0.1"),
        ("9.0.0", "10.0.0"),
        ("1.0.0~rc1", "1.0.0"),
        ("1.0.0~rc1", "1.0.0~rc2"),
        ("1.0.0", "1.0.0-rc1"),
        ("1.0.0", "1.0.0.1"),
        ("1.0.0-1", "1.0.0^1"),
        ("1.0.a", "1.0.1"),
    ],
)
def test_versions_have_an_order(older: str, newer: str) -> None:
    assert version.compare(older, newer) == -1
    assert version.compare(newer, older) == 1
    assert version.compare(older, older) == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@settings(max_examples=60, deadline=None)
@given(VERSIONS, VERSIONS)
def test_versions_are_compared_as_systemd_does(left: str, right: str) -> None:
    left, right = "1" + left, "1" + right  # an argument must not look like an option
    assert version.compare(left, right) == systemd(left, right)


@given(st.text(max_size=20), st.text(max_size=20))
def test_comparing_any_two_texts_ends_and_is_antisymmetric(left: str, right: str) -> None:
    assert version.compare(left, right) == -version.compare(right, left)


@pytest.mark.parametrize("good", ["0.1.0", "1.2.3", "1.2.3-rc1", "1.2.3~beta.2", "10.20.30"])
def test_a_release_is_named_by_three_numbers_and_a_suffix(good: str) -> None:
    assert version.is_sane(good)


@pytest.mark.parametrize(
    "bad", ["", "1", "1.2", "1.2.3+4", "1.2.3/..", "v1.2.3", "1.2.3 ", "1.2.3\n", "１.2.3"]
)
def test_other_names_are_refused(bad: str) -> None:
    assert not version.is_sane(bad)
