# SPDX-License-Identifier: Apache-2.0
"""The rules of hypernet-boot(7) that a unit file could break without anybody noticing before a bad boot."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agents.boot_health.check import STARTED
from common.duration import parse_sec

from .conftest import ROOT, UNITS, drop_ins, services, settings, unit_files, values

TARGET = "boot-complete.target"
HOOKS = ["hypernet-boot-failed.service", "hypernet-emergency.service"]


def targets(path: Path, key: str) -> set[str]:
    return {name for value in values(path, key) for name in value.split()}


def test_only_the_verdict_is_required_for_a_complete_boot() -> None:
    # An agent that fails once and is restarted would fail the boot.
    required = {path.name for path in unit_files() if TARGET in targets(path, "RequiredBy")}
    assert required == {"hypernet-boot-health.service"}


def test_what_pulls_in_the_verdict_is_ordered_after_multi_user_target_by_name() -> None:
    pullers = [path for path in services() if TARGET in targets(path, "Requires")]
    assert [path.name for path in pullers] == ["hypernet-bless.service"]
    assert {TARGET, "multi-user.target"} <= targets(pullers[0], "After")


def test_nothing_that_multi_user_target_waits_for_waits_for_the_verdict() -> None:
    waiting = {path.name for path in unit_files() if TARGET in targets(path, "After")}
    assert waiting == {"hypernet-bless.service"}


def test_a_failed_boot_is_decided_by_the_job_of_the_target_and_not_by_its_state() -> None:
    (path,) = (path for path in drop_ins() if path.parent.name == f"{TARGET}.d")
    keys = {key for _, key, _ in settings(path)}
    assert {"OnFailure", "JobTimeoutSec"} <= keys
    assert not {"FailureAction", "JobTimeoutAction", "StartLimitAction"} & keys


@pytest.mark.parametrize("name", HOOKS)
def test_what_ends_a_failed_boot_needs_nothing_that_may_be_what_failed(name: str) -> None:
    path = UNITS / name
    assert not {"Requires", "Wants", "BindsTo"} & {key for _, key, _ in settings(path)}
    # What is stopped first is waited for, see the next test.
    assert targets(path, "After") <= targets(path, "Conflicts")


def test_checks_that_still_run_are_stopped_so_that_no_late_verdict_overwrites_the_decision() -> None:
    path = UNITS / "hypernet-boot-failed.service"
    for key in ("Conflicts", "After"):
        assert "hypernet-boot-health.service" in targets(path, key)
    # A check that does not stop must not keep the decision waiting.
    (limit,) = values(UNITS / "hypernet-boot-health.service", "TimeoutStopSec")
    assert parse_sec(limit) <= 10


def test_no_ordering_lets_the_checks_wait_beyond_the_deadline() -> None:
    # What is slow to start, or never does, is waited for inside: for hypernet.target, and what after: names.
    assert targets(UNITS / "hypernet-boot-health.service", "After") == {"basic.target", "dbus.socket"}
    assert STARTED == ("hypernet.target",)


def test_no_unit_reboots_a_slot_that_is_good_when_it_has_crashed_too_often() -> None:
    for path in [*unit_files(), *drop_ins()]:
        assert not values(path, "StartLimitAction"), path.name


@pytest.mark.parametrize("path", services(), ids=lambda path: path.name)
def test_a_daemon_that_hangs_is_ended_by_its_watchdog(path: Path) -> None:
    if values(path, "Type") == ["notify"]:
        assert values(path, "WatchdogSec")


@pytest.mark.parametrize(
    "path",
    [
        UNITS / "system.conf.d/10-hypernet.conf",
        ROOT / "packaging/image/dracut/90hypernet/10-hypernet.conf",
    ],
    ids=["system", "initrd"],
)
def test_the_hardware_watchdog_runs_in_the_initrd_and_in_the_system(path: Path) -> None:
    assert [value.removesuffix("s") for value in values(path, "RuntimeWatchdogSec")] == ["30"]
    assert values(path, "RebootWatchdogSec") == ["5min"]


def test_the_initrd_has_the_drivers_of_usual_watchdogs() -> None:
    script = (ROOT / "packaging/image/dracut/90hypernet/module-setup.sh").read_text(encoding="utf-8")
    (line,) = (line for line in script.splitlines() if "instmods" in line)
    assert {"i6300esb", "iTCO_wdt", "sp5100_tco", "hpwdt", "wdat_wdt", "ipmi_watchdog"} <= set(line.split())


def test_the_manual_page_shows_the_drop_in_of_the_application_as_it_is() -> None:
    page = (ROOT / "packaging/man/hypernet-boot.7").read_text(encoding="utf-8").splitlines()
    for _, key, value in settings(UNITS / "hypernet-app-.service.d/10-application.conf"):
        if key != "Documentation":
            assert f"{key}={value}" in page


def test_the_manual_page_has_every_unit_of_a_boot_in_its_graph() -> None:
    page = (ROOT / "packaging/man/hypernet-boot.7").read_text(encoding="utf-8")
    graph = page.split(".SH TARGET GRAPH")[1].split(".SH FAILURES")[0]
    for name in ("bless", "boot-failed", "boot-health", "emergency"):
        assert f"hypernet-{name}.service" in graph
    for name in ("boot-complete", "emergency", "hypernet-rollback", "hypernet", "multi-user"):
        assert f"{name}.target" in graph


def test_the_manual_page_of_boot_health_explains_every_message_id() -> None:
    page = (ROOT / "packaging/man/hypernet-boot-health.service.8").read_text(encoding="utf-8")
    catalog = (UNITS / "catalog/hypernet-boot-health.catalog").read_text(encoding="utf-8")
    found = re.findall("^-- ([0-9a-f]{32})$", catalog, re.MULTILINE)
    assert [message_id for message_id in found if message_id not in page] == []
