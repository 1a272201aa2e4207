# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from agents.boot_health.config import HealthConfig, TrialFailure, load

from .conftest import Tree

IMAGE = """\
health_checks:
  - name: slots
    command: busctl list
"""


def loaded(tree: Tree) -> HealthConfig:
    return load(tree.places.admin_config, tree.places.image_config)


def test_without_an_administrators_file_only_the_checks_of_the_image_count(tree: Tree) -> None:
    tree.image(IMAGE)
    config = loaded(tree)
    assert [check.name for check in config.checks] == ["slots"]
    assert config.errors == ()


def test_a_check_with_name_and_command_only_gets_the_documented_defaults(tree: Tree) -> None:
    tree.image(IMAGE)
    (check,) = loaded(tree).checks
    assert (check.timeout_sec, check.required, check.attempts, check.interval_sec) == (10, True, 3, 2)


def test_every_option_of_a_check_is_read(tree: Tree) -> None:
    tree.admin(
        "health_checks:\n"
        "  - {name: api, command: \"curl -f 'a b'\", timeout: 1min,\n"
        "     required: false, attempts: 10, interval: 30}\n"
    )
    (check,) = loaded(tree).checks
    assert check.command == ("curl", "-f", "a b")
    assert (check.timeout_sec, check.required, check.attempts, check.interval_sec) == (60, False, 10, 30)


def test_the_administrators_checks_come_after_those_of_the_image(tree: Tree) -> None:
    tree.image(IMAGE.replace("slots", "second"), "20-more.yaml")
    tree.image(IMAGE.replace("slots", "first"))
    tree.admin(IMAGE.replace("slots", "third"))
    assert [check.name for check in loaded(tree).checks] == ["first", "second", "third"]


def test_policy_and_deadline_come_from_the_administrators_file(tree: Tree) -> None:
    tree.admin("trial_failure: retry\ndeadline: 2min\n")
    config = loaded(tree)
    assert (config.trial_failure, config.deadline_sec) == (TrialFailure.RETRY, 120)


def test_the_administrator_cannot_replace_a_check_of_the_image(tree: Tree) -> None:
    tree.image(IMAGE)
    tree.admin("health_checks:\n  - name: slots\n    command: 'true'\n")
    config = loaded(tree)
    assert [check.command for check in config.checks] == [("busctl", "list")]
    (error,) = config.errors
    assert error.startswith(f"{tree.places.admin_config}:2: ")
    assert (
        f"'slots' is already the name of the check at {tree.places.image_config}/10-system.yaml:2" in error
    )


def test_a_wrong_administrators_file_is_not_used_in_part(tree: Tree) -> None:
    tree.admin("trial_failure: retry\nhealth_checks:\n  - {name: a, command: x}\n  - {name: b}\n")
    config = loaded(tree)
    assert (config.checks, config.trial_failure) == ((), TrialFailure.ROLLBACK)
    assert len(config.errors) == 1


def test_a_wrong_file_of_the_image_does_not_hide_the_others(tree: Tree) -> None:
    tree.image("health_checks: 5\n", "05-wrong.yaml")
    tree.image(IMAGE)
    config = loaded(tree)
    assert [check.name for check in config.checks] == ["slots"]
    assert "05-wrong.yaml:1" in config.errors[0]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("health_checks:\n  - {name: a b, command: x}\n", 2, "name: 'a b' is not allowed"),
        ("health_checks:\n  - {name: configuration, command: x}\n", 2, "not 'configuration'"),
        ('health_checks:\n  - name: a\n    command: "\'open"\n', 3, "command: No closing quotation"),
        ("health_checks:\n  - name: a\n    command: '  '\n", 3, "command: is empty"),
        ("health_checks:\n  - name: a\n    command: x\n    retries: 3\n", 4, "retries: unknown key"),
        ("health_checks:\n  - {name: a, command: x, attempts: 11}\n", 2, "attempts: 11 is too large"),
        ("health_checks:\n  - {name: a, command: x, timeout: 1h}\n", 2, "timeout: 3600"),
        ("deadline: 10min\n", 1, "deadline: 600"),
        ("\ntrial_failure: never\n", 2, "trial_failure: "),
        ("health_checks: [\n", 2, "not valid YAML"),
    ],
)
def test_an_error_names_file_line_and_what_is_wrong(tree: Tree, text: str, line: int, words: str) -> None:
    tree.admin(text)
    (error,) = loaded(tree).errors
    assert error.startswith(f"{tree.places.admin_config}:{line}: ")
    assert words in error


def test_more_than_64_checks_are_refused(tree: Tree) -> None:
    tree.admin("health_checks:\n" + "".join(f"  - {{name: c{n}, command: x}}\n" for n in range(65)))
    assert "at most 64 checks" in loaded(tree).errors[0]
