# SPDX-License-Identifier: Apache-2.0
"""Which limits a command has, and what is said of its end; tests/integration runs such units."""

from __future__ import annotations

import pytest

from agents.boot_health.commands import describe, properties
from agents.boot_health.config import Check
from common.transient import NOT_STARTED, Ended

CHECK = Check("api", ("/usr/bin/curl", "x"))


def test_a_command_runs_as_a_dynamic_user_in_a_sandbox_with_limits() -> None:
    given = properties(CHECK)
    assert (given["DynamicUser"], "User" in given) == (True, False)
    assert (given["ProtectSystem"], given["ProtectHome"], given["NoNewPrivileges"]) == (
        "strict",
        "yes",
        True,
    )
    assert (given["MemoryMax"], given["TasksMax"]) == (256 << 20, 64)


def test_a_command_with_a_user_runs_as_that_user() -> None:
    given = properties(Check("api", ("x",), user="postgres"))
    assert (given["User"], "DynamicUser" in given) == ("postgres", False)


@pytest.mark.parametrize(
    ("result", "status", "text"),
    [
        ("success", 0, ""),
        ("exit-code", 7, "exit status 7"),
        ("exit-code", 203, "/usr/bin/curl cannot be run"),
        ("exit-code", 217, "there is no user for it"),
        ("signal", 9, "ended by SIGKILL"),
        ("core-dump", 11, "ended by SIGSEGV"),
        ("signal", 500, "ended by signal 500"),
        ("oom-kill", 9, "it needed more than 256 MiB of memory"),
        (NOT_STARTED, 0, "systemd did not start it"),
        ("resources", 0, "systemd reports 'resources'"),
    ],
)
def test_the_end_of_a_command_is_told_in_half_a_sentence(result: str, status: int, text: str) -> None:
    assert describe(Ended(result, status), CHECK) == text
