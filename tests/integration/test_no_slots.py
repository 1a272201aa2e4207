# SPDX-License-Identifier: Apache-2.0
"""A machine without A/B slots: it boots, it is degraded, and everything says so clearly."""

import json
from collections.abc import Callable

import pytest

from tests.integration.machine import Machine
from tests.integration.root_tree import USER


@pytest.fixture(scope="module")
def plain(new_machine: Callable[[], Machine]) -> Machine:
    """A running machine without slots and without configuration."""
    machine = new_machine()
    machine.boot()
    return machine


def test_boot_goes_on_to_the_login_prompt(plain: Machine) -> None:
    assert plain.output("systemctl", "is-active", "multi-user.target") == "active"


def test_boot_is_not_called_complete(plain: Machine) -> None:
    assert plain.run("systemctl", "is-active", "boot-complete.target").stdout == "inactive\n"


def test_health_is_degraded_because_the_slot_manager_does_not_answer(plain: Machine) -> None:
    result = plain.run("hypernet-admin", "health", "--json=short")

    assert (result.returncode, result.stderr) == (20, "")
    health = json.loads(result.stdout)
    assert health["state"] == "degraded"
    assert [check["name"] for check in health["checks"] if check["result"] == "failed"] == ["slot-manager"]


@pytest.mark.parametrize(
    "verb", [["status"], ["rollback"], ["mark", "good", "a"], ["update", "--image=/config/new.img"]]
)
def test_verb_about_slots_is_one_sentence_and_an_exit_status(plain: Machine, verb: list[str]) -> None:
    result = plain.run("hypernet-admin", *verb)

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith("hypernet-admin: The root file system is on no partition")


def test_plain_user_may_ask_for_health(plain: Machine) -> None:
    assert plain.run("hypernet-admin", "health", user=USER).stdout.startswith("Health: degraded")
