# SPDX-License-Identifier: Apache-2.0
"""io.hypernet.BootHealth1 with clients that know nothing of us: every property, method and signal."""

import json
import re
import time
from collections.abc import Iterator

import pytest

from tests.integration import listeners
from tests.integration.listeners import CLIENTS, Heard
from tests.integration.machine import Machine
from tests.integration.slots import SlotDisk

NAME = "io.hypernet.BootHealth1"
PATH = "/io/hypernet/BootHealth1"
SERVICE = "hypernet-boot-health-bus.service"

CHECKS = """health_checks:
  - name: fine
    command: /bin/echo all is well
  - name: probe
    command: /bin/sh -c 'echo no network; test -e /config/network'
    retries: 0
    required: {required}
"""


@pytest.fixture(scope="module")
def degraded(machine: Machine, slot_disk: SlotDisk) -> Iterator[Machine]:
    """A running machine with a wanted check that fails."""
    choose(machine, required=False)
    slot_disk.boot_loader()
    machine.boot()
    yield machine
    machine.stop()


def choose(machine: Machine, *, required: bool) -> None:
    text = CHECKS.format(required=str(required).lower())
    (machine.config / "hypernet/health.yaml").write_text(text)


def check_again(machine: Machine) -> None:
    """Find a new verdict, as an administrator does."""
    machine.run("systemctl", "reset-failed")
    machine.run("systemctl", "restart", "hypernet-boot-health.service")
    deadline = time.monotonic() + 60
    while machine.output("systemctl", "list-jobs", "--no-legend"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run(machine: Machine, client: str, name: str) -> str:
    """Call the method Run; return what the client prints."""
    if client == "busctl":
        call = ["busctl", "--json=short", "--timeout=60", "call", NAME, PATH, NAME, "Run", "s", name]
    else:
        call = ["gdbus", "call", "--system", "--timeout=60", "--dest", NAME, "--object-path", PATH]
        call += ["--method", f"{NAME}.Run", name]
    result = machine.run(*call)
    return result.stdout + result.stderr


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", listeners.documented(NAME, "property"))
def test_every_property_can_be_read_and_has_its_type(degraded: Machine, client: str, name: str) -> None:
    kind, value = listeners.read(degraded, client, PATH, NAME, name)

    assert kind == listeners.documented(NAME, "property")[name]
    assert value not in ("", [], "[]")


def test_the_properties_tell_what_the_checks_found(degraded: Machine) -> None:
    _, checks = listeners.read(degraded, "busctl", PATH, NAME, "Checks")
    found = {check["name"]["data"]: check for check in checks}

    assert listeners.read(degraded, "busctl", PATH, NAME, "State")[1] == "degraded"
    assert listeners.read(degraded, "gdbus", PATH, NAME, "ConsecutiveFailures")[1] == "uint32 0"
    assert found["fine"]["result"]["data"] == "passed"
    assert (found["probe"]["result"]["data"], found["probe"]["output"]["data"]) == ("failed", "no network")


def test_the_journal_of_the_unit_that_a_check_names_has_its_output(degraded: Machine) -> None:
    _, checks = listeners.read(degraded, "busctl", PATH, NAME, "Checks")
    (unit,) = (check["unit"]["data"] for check in checks if check["name"]["data"] == "probe")

    assert "no network" in degraded.output("journalctl", "--boot", "--output=cat", "--unit", unit)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_check_is_run_again_and_the_verdict_stays(degraded: Machine, client: str) -> None:
    before = listeners.read(degraded, client, PATH, NAME, "Checks")
    (degraded.config / "network").touch()
    try:
        said = run(degraded, client, "probe")
    finally:
        (degraded.config / "network").unlink()

    if client == "busctl":
        (result,) = json.loads(said)["data"]
        assert {key: result[key]["data"] for key in ("name", "result", "output", "required")} == {
            **{"name": "probe", "result": "passed"},
            **{"output": "no network", "required": False},
        }
    else:
        assert "'result': <'passed'>" in said
    assert listeners.read(degraded, client, PATH, NAME, "Checks") == before


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", ["nothing", "../../etc/passwd", ""])
def test_a_check_that_is_not_there_is_an_error_in_one_sentence(
    degraded: Machine, client: str, name: str
) -> None:
    assert "There is no health check" in run(degraded, client, name)


def test_admin_runs_a_check(degraded: Machine) -> None:
    result = degraded.run("hypernet-admin", "health", "--run=fine")

    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"Check fine: passed \(\d\.\d s, 1 attempt\)\n  all is well\n", result.stdout)


def hear(machine: Machine, *, running: bool) -> Heard:
    """The signals of three verdicts: healthy, degraded, and degraded by a required check."""
    with listeners.listening(machine, NAME) as heard:
        if running:
            listeners.read(machine, "busctl", PATH, NAME, "State")
        else:
            machine.output("systemctl", "stop", SERVICE)  # gdbus starts what it watches
        (machine.config / "network").touch()
        check_again(machine)
        (machine.config / "network").unlink()
        check_again(machine)
        choose(machine, required=True)
        check_again(machine)
        choose(machine, required=False)
    return heard


@pytest.fixture(scope="module")
def heard(degraded: Machine) -> dict[str, tuple[str, Heard]]:
    """The client, and what was heard of the service or, when it does not run, of who writes the verdict.

    gdbus begins to listen only when the name has an owner, which is too late for a moment.
    """
    service, others = hear(degraded, running=True), hear(degraded, running=False)
    return {
        "busctl": ("busctl", service),
        "gdbus": ("gdbus", service),
        "busctl without the service": ("busctl", others),
    }


LISTENERS = ("busctl", "gdbus", "busctl without the service")


@pytest.mark.parametrize("listener", LISTENERS)
def test_every_signal_is_heard(heard: dict[str, tuple[str, Heard]], listener: str) -> None:
    client, signals = heard[listener]

    assert signals.members(client) >= {*listeners.documented(NAME, "signal"), "PropertiesChanged"}


@pytest.mark.parametrize("listener", LISTENERS)
def test_the_signals_tell_what_happened(heard: dict[str, tuple[str, Heard]], listener: str) -> None:
    client, signals = heard[listener]
    completed, failed = signals.texts(client, "BootCompleted"), signals.texts(client, "CheckFailed")

    assert [state for text in completed for state in re.findall("healthy|degraded", text)] == [
        "healthy",
        "degraded",
    ]
    assert len(failed) == 2
    assert all("probe" in text and "no network" in text for text in failed)
    assert "Required check failed: probe" in signals.texts(client, "BootDegraded")[-1]
