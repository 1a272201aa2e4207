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
from typing import TYPE_CHECKING, Final

from common import config
from common.errors import AgentError

if TYPE_CHECKING:
    from agents.boot_health.builtin import Probe

MAX_CHECKS: Final = 64
DEFAULT_DEADLINE_SEC: Final = 300.0
DEFAULT_MAX_FAILED_BOOTS: Final = 3
MAX_DEADLINE_SEC: Final = 420.0
"""30 s less than TimeoutStartSec= of hypernet-boot-health.service."""

CONFIGURATION: Final = "configuration"
"""Name of the check that stands for the configuration files themselves."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_USER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
_UNIT: Final = re.compile(
    r"[A-Za-z0-9:_.\\@-]{1,240}\.(service|socket|device|mount|automount|swap|target|path|timer|slice|scope)"
)
_MAX_AFTER: Final = 32


class TrialFailure(StrEnum):
    """What a failed verdict in a trial leads to."""

    ROLLBACK = "rollback"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: a command that ends with status 0 when all is well, or a probe, a built-in check.

    timeout_sec limits one attempt; retries come after the first attempt, interval_sec lies between two.
    after: units that have to be up, or failed, before the first attempt. user: who runs the command, a
    dynamic user if empty. where: "FILE:LINE".
    """

    name: str
    command: tuple[str, ...] = ()
    timeout_sec: float = 10.0
    required: bool = True
    retries: int = 2
    interval_sec: float = 2.0
    after: tuple[str, ...] = ()
    user: str = ""
    probe: Probe | None = None
    where: str = ""


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """All checks, and what could not be read. deadline_sec counts from the start of PID 1. max_failed_boots:
    so many boots in a row of a slot that was good lead back to the other slot.

    errors: one sentence for each file that is wrong; no check of such a file is in checks.
    """

    checks: tuple[Check, ...] = ()
    trial_failure: TrialFailure = TrialFailure.ROLLBACK
    deadline_sec: float = DEFAULT_DEADLINE_SEC
    max_failed_boots: int = DEFAULT_MAX_FAILED_BOOTS
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
    max_failed_boots = DEFAULT_MAX_FAILED_BOOTS
    try:
        section = config.load(admin_file, optional=True)
        added = _checks(section, tuple(checks))
        policy = section.get_enum("trial_failure", TrialFailure, default=TrialFailure.ROLLBACK)
        limit_sec = section.get_duration_sec(
            "deadline", default=DEFAULT_DEADLINE_SEC, minimum=10, maximum=MAX_DEADLINE_SEC
        )
        max_boots = section.get_int(
            "max_failed_boots", default=DEFAULT_MAX_FAILED_BOOTS, minimum=1, maximum=10
        )
        section.finish()
    except AgentError as error:
        errors.append(str(error))
    else:
        checks += added
        trial_failure, deadline_sec, max_failed_boots = policy, limit_sec, max_boots
    return HealthConfig(tuple(checks), trial_failure, deadline_sec, max_failed_boots, tuple(errors))


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
    command, probe = _what(item)
    check = Check(
        name=name,
        command=command,
        timeout_sec=item.get_duration_sec("timeout", default=10.0, minimum=1, maximum=300),
        required=item.get_bool("required", default=True),
        retries=item.get_int("retries", default=2, minimum=0, maximum=9),
        interval_sec=item.get_duration_sec("interval", default=2.0, minimum=0, maximum=60),
        after=_units(item),
        user=_user(item),
        probe=probe,
        where=item.where,
    )
    item.finish()
    return check


def _what(item: config.Section) -> tuple[tuple[str, ...], Probe | None]:
    """Return the command, or the built-in check that stands in its place."""
    builtin = item.get_str("check", default="")
    has_command = "command" in item.keys()  # noqa: SIM118
    if has_command == bool(builtin):
        raise item.error(
            "command" if has_command else "name",
            "give either 'command' or 'check', the name of a built-in check",
        )
    if not builtin:
        return _command(item), None
    # Imported here: most built-in checks are not used by those who only read the policy.
    from agents.boot_health.builtin import BUILTINS

    if builtin not in BUILTINS:
        names = ", ".join(sorted(BUILTINS))
        raise item.error("check", f"'{builtin}' is not a built-in check; there are {names}")
    made = BUILTINS[builtin](item)
    return (made, None) if isinstance(made, tuple) else ((), made)


def _command(item: config.Section) -> tuple[str, ...]:
    text = item.get_str("command")
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise item.error("command", f"{error}; close every quotation mark") from None
    if not words or not words[0] or "\0" in text:
        raise item.error("command", "is empty; give a program and its arguments")
    if "/" in words[0] and not words[0].startswith("/"):
        raise item.error("command", f"{words[0]} is a relative path; give a name or an absolute path")
    return words


def _units(item: config.Section) -> tuple[str, ...]:
    names = item.get_strings("after")
    for name in names:
        if not _UNIT.fullmatch(name):
            raise item.error("after", f"'{name}' is not the name of a unit, such as api.service")
    if len(names) > _MAX_AFTER:
        raise item.error("after", f"at most {_MAX_AFTER} units are allowed")
    return names


def _user(item: config.Section) -> str:
    if "check" in item.keys():  # noqa: SIM118
        # Only a command has a user: the key stays unknown, and finish() says so.
        return ""
    user = item.get_str("user", default="")
    if user and not _USER.fullmatch(user):
        raise item.error("user", f"'{user}' is not the name of a user")
    return user
