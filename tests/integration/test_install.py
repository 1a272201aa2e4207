# SPDX-License-Identifier: Apache-2.0
"""The package on a running system: it comes without a start and goes without a trace."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.machine import Machine


@pytest.fixture(scope="module")
def purged(new_machine: Callable[[], Machine], packages: Path) -> Iterator[Machine]:
    """A running machine from which the package was purged; it is installed again at the end."""
    machine = new_machine()
    (package,) = packages.glob("hypernet-agents_*.deb")
    shutil.copy(package, machine.config / "package.deb")
    machine.boot()
    machine.output("dpkg", "--purge", "hypernet-agents")
    yield machine
    machine.output("dpkg", "--install", "/config/package.deb")


def test_purge_ends_the_agents(purged: Machine) -> None:
    assert "/usr/lib/hypernet" not in purged.output("ps", "-e", "-o", "args=")


def test_purge_leaves_no_file_and_no_enabled_unit(purged: Machine) -> None:
    places = ("etc", "usr", "var/lib/systemd")
    left = [path for place in places for path in (purged.root / place).rglob("*hypernet*")]

    assert left == []


def test_install_on_a_running_system_starts_nothing(purged: Machine) -> None:
    purged.output("dpkg", "--install", "/config/package.deb")

    active = purged.output("systemctl", "list-units", "--state=active,activating", "--plain", "hypernet*")
    assert ".service" not in active


def test_agents_answer_right_after_the_install(purged: Machine) -> None:
    assert purged.run("hypernet-admin", "health").stdout.startswith("Health: ")


def test_install_enables_what_the_next_boot_needs(purged: Machine) -> None:
    units = ("hypernet-boot-health.service", "hypernet-bless.service", "hypernet.target")

    assert set(purged.output("systemctl", "is-enabled", *units).splitlines()) == {"enabled"}
