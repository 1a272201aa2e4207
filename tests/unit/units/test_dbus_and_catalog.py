# SPDX-License-Identifier: Apache-2.0
"""D-Bus files, polkit actions and the journal's message catalog, compared with the code and each other."""

from __future__ import annotations

import configparser
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from common import process

from .conftest import ROOT, UNITS, services, values

DBUS = UNITS / "dbus"
BUS_NAMES = sorted({name for path in services() for name in values(path, "BusName")})
POLICIES = sorted((UNITS / "polkit").glob("*.policy"))
HEX_ID = r"[0-9a-f]{32}"


def ids_in_code() -> set[str]:
    code = [*(ROOT / "agents").rglob("*.py"), *(ROOT / "common").rglob("*.py")]
    return {
        found for path in code for found in re.findall(f'"({HEX_ID})"', path.read_text(encoding="utf-8"))
    }


def catalogs() -> dict[Path, list[str]]:
    return {
        path: re.findall(f"^-- ({HEX_ID})$", path.read_text(encoding="utf-8"), re.MULTILINE)
        for path in sorted((UNITS / "catalog").glob("*.catalog"))
    }


def policy_actions() -> set[str]:
    return {action.get("id", "") for path in POLICIES for action in ET.parse(path).getroot().iter("action")}


def test_every_message_id_in_the_code_is_in_a_catalog_and_back() -> None:
    listed = [found for ids in catalogs().values() for found in ids]
    assert sorted(listed) == sorted(ids_in_code())


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="systemd is not installed")
@pytest.mark.parametrize("path", catalogs(), ids=lambda path: path.name)
def test_the_journal_reads_every_entry_of_a_catalog(path: Path, tmp_path: Path) -> None:
    for folder in ("usr/lib/systemd/catalog", "var/lib/systemd/catalog"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(path, tmp_path / "usr/lib/systemd/catalog")
    process.run(["journalctl", f"--root={tmp_path}", "--update-catalog"], timeout_sec=60)
    done = process.run(["journalctl", f"--root={tmp_path}", "--list-catalog"], timeout_sec=60)
    assert sorted(line.split()[0] for line in done.stdout.decode().splitlines()) == sorted(catalogs()[path])


def test_there_is_a_bus_name() -> None:
    assert BUS_NAMES


@pytest.mark.parametrize("name", BUS_NAMES)
def test_a_bus_name_is_activated_through_the_unit_that_owns_it(name: str) -> None:
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DBUS / "system-services" / f"{name}.service", encoding="utf-8")
    section = parser["D-BUS Service"]
    assert (section["Name"], section["Exec"], section["User"]) == (name, "/bin/false", "root")
    (unit,) = (
        path for path in services() if section["SystemdService"] in (path.name, *values(path, "Alias"))
    )
    assert values(unit, "BusName") == [name]


@pytest.mark.parametrize("name", BUS_NAMES)
def test_only_root_may_own_a_bus_name_and_others_may_send_only_what_is_listed(name: str) -> None:
    root = ET.parse(DBUS / "system.d" / f"{name}.conf").getroot()
    owners = [policy.attrib for policy in root.iter("policy") for rule in policy if rule.get("own") == name]
    assert owners == [{"user": "root"}]
    (default,) = [policy for policy in root.iter("policy") if policy.get("context") == "default"]
    first = next(iter(default))
    assert (first.tag, first.attrib) == ("deny", {"send_destination": name})
    for rule in default.iter("allow"):
        if "send_destination" in rule.attrib:
            assert "send_interface" in rule.attrib
            assert rule.get("send_member") != "Set"


@pytest.mark.parametrize("name", BUS_NAMES)
def test_an_interface_file_describes_every_member(name: str) -> None:
    # RAUC's interface, unlike ours, has a longer name than its service.
    (path,) = (DBUS / "interfaces").glob(f"{name}*.xml")
    text = path.read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert path.stem in {interface.get("name") for interface in root.iter("interface")}
    comments = " ".join(re.findall(r"<!--(.*?)-->", text, re.DOTALL))
    for interface in root.iter("interface"):
        for member in interface:
            if member.tag in ("method", "property", "signal"):
                assert f"{member.get('name')}:" in comments, member.get("name")


def test_there_is_no_dbus_file_for_a_name_that_no_unit_owns() -> None:
    for path in DBUS.rglob("*.*.*"):
        assert not path.is_file() or path.stem.startswith(tuple(BUS_NAMES)), path.name


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_an_action_asks_for_an_administrator_and_says_what_for(path: Path) -> None:
    for action in ET.parse(path).getroot().iter("action"):
        assert action.findtext("description")
        assert action.findtext("message")
        defaults = action.find("defaults")
        assert defaults is not None
        assert {item.tag for item in defaults} == {"allow_any", "allow_inactive", "allow_active"}
        assert all((item.text or "") in ("no", "auth_admin", "auth_admin_keep") for item in defaults)


def test_every_action_in_the_code_has_a_policy_and_back() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "agents").rglob("*.py"))
    used = set(re.findall(r'"(io\.hypernet\.[A-Za-z0-9]+\.[a-z][a-z-]*)"', code))
    assert policy_actions() == used


def manual(page: str) -> str:
    """A manual page without the backslashes of its hyphens."""
    return (ROOT / "packaging/man" / page).read_text(encoding="utf-8").replace("\\-", "-")


def test_the_manual_page_of_the_slot_manager_explains_every_message_id() -> None:
    page = manual("hypernet-slot-manager.service.8")
    missing = [
        found for found in catalogs()[UNITS / "catalog/hypernet-slot-manager.catalog"] if found not in page
    ]
    assert missing == []


def test_the_manual_page_of_the_interface_names_every_member_and_action() -> None:
    page = manual("io.hypernet.SlotManager1.5")
    root = ET.parse(DBUS / "interfaces/io.hypernet.SlotManager1.xml").getroot()
    members = [each.get("name", "") for interface in root.iter("interface") for each in interface]
    assert [name for name in members if not re.search(rf"\b{name}\b", page)] == []
    ours = "io.hypernet.SlotManager1."
    actions = [action.removeprefix(ours) for action in policy_actions() if action.startswith(ours)]
    authorization = page.split(".SH AUTHORIZATION")[1].split(".SH ERRORS")[0]
    assert [action for action in actions if action not in authorization] == []
