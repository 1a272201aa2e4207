# SPDX-License-Identifier: Apache-2.0
"""What the user hears when a program is missing or fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hypernet_release import build, install, tools
from hypernet_release.errors import ToolError

TOP = Path(__file__).parents[3]


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def test_a_missing_program_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tools.PACKAGES, "mkfs.nothing", "nothing-progs")

    with pytest.raises(
        ToolError, match=r"^The program mkfs\.nothing is missing; install the Debian package noth"
    ):
        tools.run(["mkfs.nothing", "/dev/null"], timeout_sec=5)


@pytest.mark.parametrize(
    ("stderr", "complaint"),
    [
        ("I: running apt\nE: Unable to locate package x\nE: apt failed\n", "E: Unable to locate package x"),
        ("WARNING: old\nERROR: No matching distribution\nsorry\n", "ERROR: No matching distribution"),
        ("dpkg: error processing package x\nErrors were encountered\n", "dpkg: error processing package x"),
        ("dracut[E]: Module 'x' cannot be found.\n", "dracut[E]: Module 'x' cannot be found"),
        ("something\nwent wrong.\n\n", "went wrong"),
        ("", "exit status 3"),
    ],
)
def test_the_line_that_says_what_is_wrong_is_chosen(stderr: str, complaint: str) -> None:
    with pytest.raises(ToolError) as caught:
        tools.run(shell("cat >&2; exit 3"), timeout_sec=5, stdin=stderr.encode(), name="tool")

    assert str(caught.value) == f"tool failed: {complaint}."


def test_the_log_has_command_and_all_that_was_said() -> None:
    with pytest.raises(ToolError) as caught:
        tools.run(shell("echo one >&2; echo two >&2; exit 3"), timeout_sec=5)

    assert (
        caught.value.log == "$ /bin/sh -c 'echo one >&2; echo two >&2; exit 3'\none\ntwo\n(exit status 3)\n"
    )


def test_the_log_is_bounded() -> None:
    with pytest.raises(ToolError) as caught:
        tools.run(shell("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1"), timeout_sec=20)

    assert len(caught.value.log) < 100_000


def test_a_program_that_takes_too_long_is_told_without_its_command_line() -> None:
    with pytest.raises(ToolError) as caught:
        tools.run(shell("sleep 60"), timeout_sec=0.1, name="tool")

    assert str(caught.value) == "tool took longer than 0.1 s and was killed."


def test_all_programs_that_are_asked_for_have_a_package() -> None:
    asked = {*build._TOOLS, *install._TOOLS, *install._formatters(TOP / "packaging/image/repart.d")}

    assert asked <= set(tools.PACKAGES)


def test_hypernet_release_depends_on_all_packages_that_are_not_essential() -> None:
    control = (TOP / "packaging/debian/control").read_text()
    depends = re.search(r"Package: hypernet-release\n.*?Depends:(.*?)\nDescription", control, re.DOTALL)
    assert depends is not None
    names = {entry.split()[0] for entry in depends[1].split(",")}

    assert set(tools.PACKAGES.values()) - {"dpkg", "tar", "util-linux"} <= names
