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
    assert (check.timeout_sec, check.required, check.retries, check.interval_sec) == (10, True, 2, 2)
    assert (check.after, check.user, check.probe) == ((), "", None)


def test_every_option_of_a_check_is_read(tree: Tree) -> None:
    tree.admin(
        "health_checks:\n"
        "  - {name: api, command: \"curl -f 'a b'\", timeout: 1min,\n"
        "     required: false, retries: 9, interval: 30, after: [api.service, 'a@\\x2d1.mount'],"
        " user: www-data}\n"
    )
    (check,) = loaded(tree).checks
    assert check.command == ("curl", "-f", "a b")
    assert (check.timeout_sec, check.required, check.retries, check.interval_sec) == (60, False, 9, 30)
    assert (check.after, check.user) == (("api.service", "a@\\x2d1.mount"), "www-data")


def test_the_administrators_checks_come_after_those_of_the_image(tree: Tree) -> None:
    tree.image(IMAGE.replace("slots", "second"), "20-more.yaml")
    tree.image(IMAGE.replace("slots", "first"))
    tree.admin(IMAGE.replace("slots", "third"))
    assert [check.name for check in loaded(tree).checks] == ["first", "second", "third"]


def test_policy_and_deadline_come_from_the_administrators_file(tree: Tree) -> None:
    tree.admin("trial_failure: retry\ndeadline: 2min\nmax_failed_boots: 5\n")
    config = loaded(tree)
    assert (config.trial_failure, config.deadline_sec) == (TrialFailure.RETRY, 120)
    assert config.max_failed_boots == 5


def test_three_failed_boots_in_a_row_are_the_limit_if_nothing_is_said(tree: Tree) -> None:
    assert loaded(tree).max_failed_boots == 3


def test_a_built_in_check_has_a_probe_and_options_of_its_own(tree: Tree) -> None:
    tree.admin("health_checks:\n  - {name: space, check: disk-space, paths: [/], min_free: 1K}\n")
    (check,) = loaded(tree).checks
    assert check.command == ()
    assert check.probe is not None
    assert check.probe(5).passed


def test_a_built_in_check_that_talks_to_a_service_is_a_command(tree: Tree) -> None:
    tree.admin("health_checks:\n  - {name: db, check: database, port: 5433}\n")
    (check,) = loaded(tree).checks
    assert check.probe is None
    assert check.command[0] == "pg_isready"


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
        ("health_checks:\n  - name: a\n    command: x\n    attempts: 3\n", 4, "attempts: unknown key"),
        ("health_checks:\n  - {name: a, command: x, retries: 10}\n", 2, "retries: 10 is too large"),
        ("health_checks:\n  - {name: a, command: bin/x}\n", 2, "command: bin/x is a relative path"),
        ("health_checks:\n  - {name: a, command: x, check: units}\n", 2, "either 'command' or 'check'"),
        ("health_checks:\n  - {name: a}\n", 2, "either 'command' or 'check'"),
        (
            "health_checks:\n  - {name: a, check: tea}\n",
            2,
            "check: 'tea' is not a built-in check; there are ",
        ),
        ("health_checks:\n  - {name: a, check: units, colour: blue}\n", 2, "colour: unknown key"),
        ("health_checks:\n  - {name: a, check: units, user: root}\n", 2, "user: unknown key"),
        ("health_checks:\n  - {name: a, command: x, user: 'a b'}\n", 2, "user: 'a b' is not"),
        ("health_checks:\n  - {name: a, command: x, after: [api]}\n", 2, "after: 'api' is not"),
        ("max_failed_boots: 0\n", 1, "max_failed_boots: 0 is too small"),
        ("max_failed_boots: 11\n", 1, "max_failed_boots: 11 is too large"),
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
