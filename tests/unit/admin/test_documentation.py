# SPDX-License-Identifier: Apache-2.0
"""The manual page, the completions and the package say the same as the code."""

import re
import tomllib
from pathlib import Path

import pytest

from agents.admin import VERSION
from common.errors import EXIT_STATUS_BY_NAME

TOP = Path(__file__).parents[3]
MANUAL = (TOP / "packaging/man/hypernet-admin.1").read_text()
VERBS = ("status", "update", "rollback", "mark", "health")


def documented_statuses() -> dict[str, int]:
    """Return the manual's table "EXIT STATUS": error name to number."""
    section = MANUAL.split("\n.SH EXIT STATUS\n")[1].split("\n.SH ")[0]
    statuses: dict[str, int] = {}
    for entry in section.split("\n.TP\n")[1:]:
        number, _, text = entry.removeprefix(".B ").partition("\n")
        statuses |= dict.fromkeys(re.findall(r"^\.IR ([A-Z]\w+) [,:]", text, re.MULTILINE), int(number))
    return statuses


def test_manual_lists_the_exit_status_of_every_error() -> None:
    # "Unhealthy" is never an answer on the bus: the manual describes its number with the verb.
    names = {name: status for name, status in EXIT_STATUS_BY_NAME.items() if name != "Unhealthy"}

    assert documented_statuses() == names


@pytest.mark.parametrize("status", [0, 20, 130])
def test_manual_lists_the_statuses_that_are_no_errors(status: int) -> None:
    assert f"\n.TP\n.B {status}\n" in MANUAL


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("file", ["completions/hypernet-admin.bash", "completions/_hypernet-admin"])
def test_completion_knows_every_verb(file: str, verb: str) -> None:
    assert re.search(rf"\b{verb}\b", (TOP / "packaging" / file).read_text())


@pytest.mark.parametrize("verb", VERBS)
def test_manual_describes_every_verb(verb: str) -> None:
    commands = MANUAL.split("\n.SH COMMANDS\n")[1].split("\n.SH ")[0]

    assert re.search(rf'^\.TP\n\.BI? "?{verb}\b', commands, re.MULTILINE)


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    changelog = (TOP / "packaging/debian/changelog").read_text().split("(")[1].split(")")[0]

    assert {project, changelog} == {VERSION}
    assert f'"hypernet {VERSION}"' in MANUAL
