# SPDX-License-Identifier: Apache-2.0
"""Which checks decide about a boot: health.yaml(5).

The checks of the image (/usr/lib/hypernet/health.d/*.yaml, in the order of their names) come first, those
of the administrator (/config/hypernet/health.yaml) are added. The administrator cannot replace a check of
the image: the same name twice is an error, so that a file on /config never hides what a new image found
worth checking.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from common import config
from common.errors import AgentError

MAX_CHECKS: Final = 64
DEFAULT_DEADLINE_SEC: Final = 300.0
MAX_DEADLINE_SEC: Final = 420.0
"""30 s less than TimeoutStartSec= of hypernet-boot-health.service."""

CONFIGURATION: Final = "configuration"
"""Name of the check that stands for the configuration files themselves."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class TrialFailure(StrEnum):
    """What a failed verdict in a trial leads to."""

    ROLLBACK = "rollback"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: a command that ends with status 0 when all is well.

    timeout_sec limits one attempt; interval_sec lies between two attempts; where is "FILE:LINE".
    """

    name: str
    command: tuple[str, ...]
    timeout_sec: float = 10.0
    required: bool = True
    attempts: int = 3
    interval_sec: float = 2.0
    where: str = ""


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """All checks, and what could not be read. deadline_sec counts from the start of PID 1.

    errors: one sentence for each file that is wrong; no check of such a file is in checks.
    """

    checks: tuple[Check, ...] = ()
    trial_failure: TrialFailure = TrialFailure.ROLLBACK
    deadline_sec: float = DEFAULT_DEADLINE_SEC
    errors: tuple[str, ...] = ()


def load(admin_file: Path, image_directory: Path) -> HealthConfig:
    """Read both places. Never raises: a boot must be judged even when its configuration is wrong."""
    checks: list[Check] = []
    errors: list[str] = []
    for path in sorted(image_directory.glob("*.yaml")):
        try:
            checks += _image_checks(path, tuple(checks))
        except AgentError as error:
            errors.append(str(error))
    trial_failure, deadline_sec = TrialFailure.ROLLBACK, DEFAULT_DEADLINE_SEC
    try:
        section = config.load(admin_file, optional=True)
        added = _checks(section, tuple(checks))
        policy = section.get_enum("trial_failure", TrialFailure, default=TrialFailure.ROLLBACK)
        limit_sec = section.get_duration_sec(
            "deadline", default=DEFAULT_DEADLINE_SEC, minimum=10, maximum=MAX_DEADLINE_SEC
        )
        section.finish()
    except AgentError as error:
        errors.append(str(error))
    else:
        checks += added
        trial_failure, deadline_sec = policy, limit_sec
    return HealthConfig(tuple(checks), trial_failure, deadline_sec, tuple(errors))


def _image_checks(path: Path, known: tuple[Check, ...]) -> list[Check]:
    section = config.load(path)
    checks = _checks(section, known)
    section.finish()
    return checks


def _checks(section: config.Section, known: tuple[Check, ...]) -> list[Check]:
    taken = {check.name: check.where for check in known}
    checks: list[Check] = []
    for item in section.sections("health_checks"):
        check = _check(item)
        if check.name in taken:
            raise item.error(
                "name",
                f"'{check.name}' is already the name of the check at {taken[check.name]}; choose another",
            )
        taken[check.name] = check.where
        checks.append(check)
    if len(taken) > MAX_CHECKS:
        raise section.error("health_checks", f"at most {MAX_CHECKS} checks are allowed in all")
    return checks


def _check(item: config.Section) -> Check:
    name = item.get_str("name")
    if not _NAME.fullmatch(name) or name == CONFIGURATION:
        raise item.error(
            "name",
            f"{name!r} is not allowed; use up to 64 letters, digits, '-', '_' and '.', the first a letter or"
            f" digit, and not '{CONFIGURATION}'",
        )
    check = Check(
        name=name,
        command=_command(item),
        timeout_sec=item.get_duration_sec("timeout", default=10.0, minimum=1, maximum=300),
        required=item.get_bool("required", default=True),
        attempts=item.get_int("attempts", default=3, minimum=1, maximum=10),
        interval_sec=item.get_duration_sec("interval", default=2.0, minimum=0, maximum=60),
        where=item.where,
    )
    item.finish()
    return check


def _command(item: config.Section) -> tuple[str, ...]:
    text = item.get_str("command")
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise item.error("command", f"{error}; close every quotation mark") from None
    if not words or not words[0] or "\0" in text:
        raise item.error("command", "is empty; give a program and its arguments")
    return words
