# SPDX-License-Identifier: Apache-2.0
"""The program as systemd starts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.slot_manager import install, machine, topology
from agents.slot_manager.__main__ import main
from agents.slot_manager.state import State
from tests.fakes.slot_images import BuiltImage
from tests.fakes.slot_lab import Lab


@pytest.fixture
def as_this_machine(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The lab as the machine that the program finds."""
    top = lab.topology
    slots = {slot: {"data": str(item.data), "tree": str(item.tree)} for slot, item in top.slots.items()}
    places = {"disk": str(top.disk), "esp": str(top.esp), "efivars": str(top.efivars)}
    path = tmp_path / "topology.json"
    path.write_text(json.dumps({"slots": slots, "booted": "a", **places}))
    monkeypatch.setenv(topology.OVERRIDE, str(path))
    monkeypatch.setenv("STATE_DIRECTORY", str(lab.machine.store.folder))
    return lab


def test_bless_records_the_running_slot_as_good(as_this_machine: Lab) -> None:
    linux = as_this_machine.linux
    (linux / "hypernet_1.0.0.efi").rename(linux / "hypernet_1.0.0+2-1.efi")

    assert main(["bless"]) == 0

    assert as_this_machine.names() == ["hypernet_1.0.0.efi"]
    assert as_this_machine.machine.view().slots["a"].state is State.GOOD


def test_the_program_finds_the_machine_of_its_environment(
    as_this_machine: Lab, images: dict[str, BuiltImage]
) -> None:
    found = machine.this_machine()
    assert found.topology == as_this_machine.topology
    install.install(as_this_machine.machine, str(images["2.0.0"].path))
    assert found.view().slots["b"].state is State.ARMED


def test_a_failure_is_one_sentence_and_an_exit_status(
    as_this_machine: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    (as_this_machine.linux / "hypernet_1.0.0.efi").unlink()

    assert main(["bless"]) == 1

    (line,) = [text for text in capsys.readouterr().err.splitlines() if not text.startswith("<")]
    assert line.startswith("slot-manager: Slot a:")


def test_serving_without_a_bus_ends_with_the_status_for_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/absent")
    assert main([]) == 7
    assert capsys.readouterr().err.startswith("slot-manager: ")
