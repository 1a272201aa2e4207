# SPDX-License-Identifier: Apache-2.0
"""What the units of the alerter must say, and the pages about them."""

from __future__ import annotations

from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]


def lines(name: str) -> list[str]:
    return (TOP / "units" / name).read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", ["hypernet-alerter.service", "hypernet-alert@.service"])
def test_a_storm_of_alerts_ends_no_unit_for_good(name: str) -> None:
    assert "StartLimitIntervalSec=0" in lines(name)


def test_a_storm_of_alerts_starts_one_program_a_second_at_most() -> None:
    assert "ExecStopPost=/usr/bin/sleep 1" in lines("hypernet-alerter.service")


def test_a_report_that_failed_is_no_failed_unit() -> None:
    assert "CollectMode=inactive-or-failed" in lines("hypernet-alert@.service")


def test_alerts_kept_on_a_disk_that_is_read_only_now_do_not_start_the_service_without_end() -> None:
    watched = [line for line in lines("hypernet-alerter.path") if line.startswith("DirectoryNotEmpty=")]

    assert watched == ["DirectoryNotEmpty=/run/hypernet/alerts"]


def test_what_waits_in_run_is_looked_for_as_well() -> None:
    assert "ConditionDirectoryNotEmpty=|/run/hypernet/alerter/spool" in lines("hypernet-alerter.service")


def test_the_drop_in_for_addresses_empties_the_list_first() -> None:
    page = (TOP / "packaging/man/hypernet-alerter.service.8").read_text(encoding="utf-8")
    allowed = [line for line in page.splitlines() if line.startswith("IPAddressAllow=")]

    assert allowed[0] == "IPAddressAllow="
    assert len(allowed) > 1
