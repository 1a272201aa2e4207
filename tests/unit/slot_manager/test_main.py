# SPDX-License-Identifier: Apache-2.0
"""The program as systemd starts it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from agents.slot_manager import attempts, install, lifecycle, machine, topology
from agents.slot_manager.__main__ import main
from agents.slot_manager.state import State
from common import process
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


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What systemd is told."""
    told: list[list[str]] = []
    real = process.run

    def run(argv: list[str], **options: object) -> process.Completed:
        if argv[0] != "systemctl":
            return real(argv, **options)  # type: ignore[arg-type]
        told.append(argv)
        return process.Completed(tuple(argv), 0, b"", "")

    monkeypatch.setattr(process, "run", run)
    return told


def test_a_boot_of_a_good_slot_is_not_counted(as_this_machine: Lab, orders: list[list[str]]) -> None:
    before = as_this_machine.snapshot()

    assert main(["attempt"]) == 0

    assert as_this_machine.snapshot() == before
    assert orders == []


def test_a_trial_that_is_over_its_budget_is_marked_bad_and_the_machine_reboots(
    as_this_machine: Lab,
    images: dict[str, BuiltImage],
    orders: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    install.install(as_this_machine.machine, str(images["2.0.0"].path))
    path = tmp_path / "topology.json"
    path.write_text(path.read_text().replace('"booted": "a"', '"booted": "b"'))
    for number in range(4):
        assert orders == []
        monkeypatch.setattr(attempts, "boot_id", lambda number=number: str(number))
        assert main(["attempt"]) == 0

    (order,) = orders
    assert order[-2:] == ["start", "reboot.target"]
    assert as_this_machine.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+0-1.efi"]


def test_the_early_oneshot_loads_neither_the_bus_nor_the_loop() -> None:
    code = (
        "import sys; sys.path.insert(0, '.');"
        "from agents.slot_manager import __main__, attempts, lifecycle;"
        "print(sorted({'asyncio', 'dbus_next', 'pystemd'} & set(sys.modules)))"
    )
    done = process.run([sys.executable, "-c", code], timeout_sec=60, cwd=Path(__file__).parents[3])
    assert done.stdout == b"[]\n"


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


def test_a_bless_that_crashes_is_told_without_the_text_of_the_crash(
    as_this_machine: Lab, raised: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(machine: machine.Machine) -> None:
        raise ZeroDivisionError("nobody's business")

    monkeypatch.setattr(lifecycle, "bless", crash)

    assert main(["bless"]) == 70

    (alert,) = (json.loads(path.read_bytes()) for path in raised.glob("*.json"))
    assert alert["kind"] == "boot-degraded"
    assert alert["summary"].startswith(
        "This boot is good, but that could not be recorded: Internal error in slot-manager;"
    )


@pytest.mark.parametrize(
    ("result", "told"),
    [
        *(("timeout", True), ("oom-kill", True), ("signal", True), ("core-dump", True)),
        *(("success", False), ("exit-code", False)),
    ],
)
def test_a_bless_that_is_ended_by_force_is_told_by_its_unit(
    tmp_path: Path, result: str, *, told: bool
) -> None:
    unit = (Path(__file__).parents[3] / "units/hypernet-bless.service").read_text(encoding="utf-8")
    (line,) = (line for line in unit.splitlines() if line.startswith("ExecStopPost="))
    program = tmp_path / "alerter"
    program.write_text('#!/bin/sh\necho "$@" $MONITOR_UNIT $MONITOR_SERVICE_RESULT\n', encoding="utf-8")
    program.chmod(0o755)
    line = (
        line.replace("/usr/lib/hypernet/alerter", str(program)).replace("$$", "$").replace("%n", "x.service")
    )
    _, shell, option, command = re.split("=-| ", line, maxsplit=3)

    environment = {"SERVICE_RESULT": result}
    done = process.run([shell, option, command.strip("'")], timeout_sec=30, env=environment)

    assert done.stdout.decode().split() == (
        ["unit-failed", "x.service", "x.service", result] if told else []
    )


def test_the_service_tells_of_a_rollback_in_every_boot_whatever_its_verdict_will_be(
    as_this_machine: Lab,
    images: dict[str, BuiltImage],
    raised: Path,
    at_login: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    lab = as_this_machine
    install.install(lab.machine, str(images["2.0.0"].path))
    lab.try_once("hypernet_2.0.0+3.efi", "b")
    lifecycle.mark_bad(lab.machine, "b", "check web failed")
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/absent")

    assert main(["attempt"]) == 0
    assert not raised.exists()  # so early, there is no place for it yet
    assert [main(["serve"]), main(["serve"])] == [7, 7]

    (alert,) = (json.loads(path.read_bytes()) for path in raised.glob("*.json"))
    assert alert["summary"] == "The machine went back from 2.0.0 to 1.0.0: check web failed"
    assert "check web failed" in at_login.read_text()


def test_serving_without_a_bus_ends_with_the_status_for_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/absent")
    assert main([]) == 7
    assert capsys.readouterr().err.startswith("slot-manager: ")
