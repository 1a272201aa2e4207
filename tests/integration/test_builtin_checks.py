# SPDX-License-Identifier: Apache-2.0
"""The built-in checks where they run: inside the sandbox of boot-health, and as transient units."""

import json
from typing import Any

import pytest

from tests.integration.machine import Machine
from tests.integration.slots import SlotDisk

NAMES = ("configuration", "database", "disk-space", "dm-verity", "http", "secrets", "time-sync", "units")
URL = "http://127.0.0.1:8000/"
OPTIONS = {"http": f"url: {URL}", "time-sync": "timeout: 1s"}
HARDENED = (
    "  - {name: hardened, check: mounts, paths: [/config, /gone], timeout: 1s, retries: 0, required: no}\n"
)


def health_yaml() -> str:
    lines = ["health_checks:\n"]
    for name in NAMES:
        lines.append(f"  - name: the-{name}\n    check: {name}\n    required: no\n    retries: 0\n")
        if name in OPTIONS:
            lines.append(f"    {OPTIONS[name]}\n")
    return "".join(lines) + HARDENED


@pytest.fixture(scope="module")
def booted(machine: Machine, slot_disk: SlotDisk) -> Machine:
    if machine.running:
        machine.stop()
    (machine.config / "hypernet/health.yaml").write_text(health_yaml())
    assert slot_disk.boot_loader() == "a"
    machine.boot()
    return machine


@pytest.fixture(scope="module")
def checks(booted: Machine) -> dict[str, dict[str, Any]]:
    report = json.loads(booted.output("cat", "/run/hypernet/health.json"))
    return {check["name"]: check for check in report["checks"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("configuration", "YAML files in /config/hypernet can be read."),
        ("disk-space", "/config has "),
        ("dm-verity", "This image has a root without dm-verity."),
        ("secrets", "This system has no hypernet-secrets-unsealer.service: there are no secrets to open."),
        ("units", "No unit has failed."),
    ],
)
def test_a_check_passes_inside_the_sandbox(checks: dict[str, dict[str, Any]], name: str, text: str) -> None:
    check = checks[f"the-{name}"]

    assert check["result"] == "passed", check
    assert text in check["output"]


def test_mounts_are_seen_as_the_machine_has_them(checks: dict[str, dict[str, Any]]) -> None:
    assert checks["hardened"]["output"].splitlines() == [
        "/config is mounted without nodev, nosuid, noexec.",
        "/gone is not mounted.",
    ]


def test_the_clock_is_asked_for_inside_the_sandbox(checks: dict[str, dict[str, Any]]) -> None:
    # Whether the machine that runs the tests is synchronised is not ours to say.
    assert checks["the-time-sync"]["output"].startswith("The clock is ")


def test_a_database_without_its_client_fails_and_names_it(checks: dict[str, dict[str, Any]]) -> None:
    assert checks["the-database"]["detail"] == "pg_isready cannot be run"


def test_a_server_that_does_not_answer_is_told_by_our_program(checks: dict[str, dict[str, Any]]) -> None:
    check = checks["the-http"]

    assert check["result"] == "failed"
    assert check["output"].endswith(f"No answer from {URL}: Connection refused.")


def test_the_kernels_messages_can_be_searched_inside_the_sandbox(booted: Machine) -> None:
    call = (
        "import sys; sys.path.insert(0, '/usr/lib/hypernet');"
        " from agents.boot_health.builtins import dm_verity; print(dm_verity.kernel_log(10))"
    )
    unit = booted.output("cat", "/usr/lib/systemd/system/hypernet-boot-health.service")
    lines = [line for line in unit.splitlines() if not line.startswith(("ExecStart=", "RemainAfterExit="))]
    lines.insert(lines.index("[Service]") + 1, f'ExecStart=/usr/bin/python3 -I -c "{call}"')
    booted.output("tee", "/run/systemd/system/kernel-log.service", stdin="\n".join(lines))
    booted.output("systemctl", "daemon-reload")

    booted.run("systemctl", "start", "kernel-log.service")

    # A container has no messages of the kernel; an error of journalctl(1) would be another line.
    booted.output("journalctl", "--sync")
    log = booted.output("journalctl", "--quiet", "--output=cat", "--identifier=python3", "--unit=kernel-log")
    assert log == "()"


def test_a_server_that_answers_passes_when_it_is_asked_again(booted: Machine) -> None:
    # fmt: off
    booted.output(
        "systemd-run", "--unit=web.service",
        "/usr/bin/python3", "-m", "http.server", "--bind=127.0.0.1", "8000"
    )
    # fmt: on
    booted.output("bash", "-c", "until (exec 3<>/dev/tcp/127.0.0.1/8000) 2>/dev/null; do sleep 0.1; done")
    booted.output("systemctl", "restart", "hypernet-boot-health.service")

    report = json.loads(booted.output("cat", "/run/hypernet/health.json"))

    (check,) = [check for check in report["checks"] if check["name"] == "the-http"]
    assert check["result"] == "passed", check
    assert check["output"] == f"{URL} answered 200 OK."
