# SPDX-License-Identifier: Apache-2.0
"""The manual page, the table of errors, the exit statuses and the package say the same as the code."""

import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import agents
import common
import hypernet_release
from agents.admin import VERSION, cli
from agents.admin.model import Job, Slots, json_keys
from common.errors import ERROR_PREFIX, EXIT_STATUS_BY_NAME, INTERRUPTED, AgentError
from tests.unit.admin.lab import VERBS

TOP = Path(__file__).parents[3]
MANUAL = (TOP / "packaging/man/hypernet-admin.1").read_text()
INTERFACE = (TOP / "units/dbus/interfaces/io.hypernet.SlotManager1.xml").read_text()

VERDICTS = {"Unhealthy", "RebootNeeded", "RolledBack"}
"""Names of the table that are answers of `status --check`, never errors."""

ROW = re.compile(r"\.B (?P<status>\d+) ?(?P<name>\w*)\n(?P<cause>[A-Z].+)\n\.br\nNext: (?P<next>\S.+\.)")


def section(title: str) -> str:
    return MANUAL.split(f"\n.SH {title}\n")[1].split("\n.SH ")[0]


def rows() -> list[re.Match[str]]:
    """Return the rows of the table "EXIT STATUS", each with status, name, cause and next step."""
    found = []
    for entry in section("EXIT STATUS").split("\n.TP\n")[1:]:
        row = ROW.fullmatch(entry)
        assert row is not None, f"not a row of status, name, cause and next step: {entry!r}"
        found.append(row)
    return found


def documented_statuses() -> dict[str, int]:
    return {row["name"]: int(row["status"]) for row in rows() if row["name"]}


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """Import every module of a package."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith(".__main__"):
            yield importlib.import_module(module.name)


def error_classes() -> set[type[AgentError]]:
    """Return the errors of the whole tree, AgentError itself among them."""
    for package in (agents, common, hypernet_release):
        list(modules(package))
    found, waiting = set(), [AgentError]
    while waiting:
        found.add(waiting[-1])
        waiting.extend(set(waiting.pop().__subclasses__()) - found)
    ours = {"agents", "common", "hypernet_release"}
    return {each for each in found if each.__module__.partition(".")[0] in ours}


def statuses_of_classes() -> set[tuple[str, int]]:
    """Return error name and exit status of all errors that are ours; classes may share a name."""
    return {
        (each.dbus_name.removeprefix(ERROR_PREFIX), each.exit_status)
        for each in error_classes()
        if each.dbus_name.startswith(ERROR_PREFIX)
    }


def test_manual_has_one_row_for_each_error_name_with_its_exit_status() -> None:
    assert documented_statuses() == EXIT_STATUS_BY_NAME


def test_rows_are_sorted_and_none_is_there_twice() -> None:
    keys = [(int(row["status"]), row["name"]) for row in rows()]

    assert keys == sorted(set(keys))


@pytest.mark.parametrize("status", [0, INTERRUPTED])
def test_manual_lists_the_statuses_that_are_no_errors(status: int) -> None:
    assert (str(status), "") in {(row["status"], row["name"]) for row in rows()}


def test_every_error_class_has_the_exit_status_of_its_name_in_the_manual() -> None:
    assert statuses_of_classes() - set(documented_statuses().items()) == set()


def test_every_error_in_the_manual_can_happen() -> None:
    raised = {name for name, _ in statuses_of_classes()}

    assert documented_statuses().keys() - VERDICTS - raised == set()


def verbs_of_the_synopsis() -> set[str]:
    words = re.sub(r"\\f.|[\[\]|,]", " ", section("SYNOPSIS"))
    return {word for word in words.split() if word in VERBS}


def test_synopsis_names_every_verb() -> None:
    assert verbs_of_the_synopsis() == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_manual_describes_every_verb(verb: str) -> None:
    assert re.search(rf'^\.TP\n\.BI?R? "?{verb}\b', section("COMMANDS"), re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_manual_documents_the_json_of_every_verb(verb: str) -> None:
    assert re.search(rf"^\.BR? .*\b{verb}\b", section("JSON OUTPUT"), re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_manual_describes_every_option(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse([verb, "--help"])

    for option in set(re.findall(r"--[a-z-]+", capsys.readouterr().out)):
        assert option.replace("-", r"\-") in section("COMMANDS") + section("OPTIONS"), option


@pytest.mark.parametrize("kind", [Slots, Job])
def test_every_property_that_is_shown_is_one_of_the_interface(kind: type[Slots | Job]) -> None:
    name = "io.hypernet.SlotManager1" if kind is Slots else "io.hypernet.SlotManager1.Job"
    text = INTERFACE.split(f'<interface name="{name}">')[1].split("</interface>")[0]
    properties = json_keys(dict.fromkeys(re.findall(r'<property name="(\w+)"', text)))

    shown = {field.metadata.get("key", field.name) for field in kind.__dataclass_fields__.values()}

    assert shown - properties.keys() == set()


def test_json_of_status_is_documented_with_every_property() -> None:
    text = INTERFACE.split('<interface name="io.hypernet.SlotManager1">')[1].split("</interface>")[0]
    properties = json_keys(dict.fromkeys(re.findall(r'<property name="(\w+)"', text)))

    assert [key for key in properties if not re.search(rf"\b{key}\b", section("JSON OUTPUT"))] == []


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    changelog = (TOP / "packaging/debian/changelog").read_text().split("(")[1].split(")")[0]

    assert {project, changelog} == {VERSION}
    assert f'"hypernet {VERSION}"' in MANUAL
