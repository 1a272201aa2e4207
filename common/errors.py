# SPDX-License-Identifier: Apache-2.0
"""The error that all agents raise, its exit statuses, and the way it reaches the user.

Exit statuses follow systemd.exec(5), "Process Exit Codes": 2, 4, 6 and 7 are the LSB statuses, 70 is
EX_SOFTWARE of sysexits(3); 10 to 26 are ours.
"""

from __future__ import annotations

import sys
from typing import Final

ERROR_PREFIX: Final = "io.hypernet.Error."

EXIT_STATUS_BY_NAME: Final[dict[str, int]] = {
    "Failed": 1,
    "InvalidArgument": 2,
    "NotPermitted": 4,
    "ConfigInvalid": 6,
    "NotRunning": 7,
    "Busy": 10,
    "BelowFloor": 11,
    "Denied": 11,
    "Downgrade": 11,
    "NeedsSteppingStone": 11,
    "NoManifest": 11,
    "NoSuchSlot": 11,
    "OtherSlotNotGood": 11,
    "SlotBooted": 11,
    "WrongArchitecture": 11,
    "WrongChannel": 11,
    "WrongProduct": 11,
    "WrongState": 11,
    "BadSignature": 12,
    "ManifestInvalid": 12,
    "TooFewSignatures": 13,
    "UntrustedKey": 13,
    "KeyExpired": 14,
    "KeyRevoked": 14,
    "KeySetTooOld": 14,
    "ManifestExpired": 14,
    "SignatureExpired": 14,
    "ChecksumMismatch": 15,
    "Truncated": 16,
    "ImageUnfit": 17,
    "NotAnImage": 17,
    "NoSpace": 18,
    "ReadBackMismatch": 19,
    "Unhealthy": 20,
    "Cancelled": 21,
    "SameVersion": 22,
    "RebootNeeded": 23,
    "RolledBack": 24,
    "PreUpdateFailed": 25,
    "DownloadFailed": 26,
    "Internal": 70,
}
"""Exit status of each D-Bus error; the key is the part of the name after ``io.hypernet.Error.``."""

INTERRUPTED: Final = 130
"""Exit status after Ctrl+C, as shells report it (128 + SIGINT)."""


def exit_status_of(dbus_name: str) -> int:
    """Return the exit status for a full D-Bus error name; 1 for names that are not ours."""
    return EXIT_STATUS_BY_NAME.get(dbus_name.removeprefix(ERROR_PREFIX), 1)


class AgentError(Exception):
    """An expected failure. ``str(error)`` is one sentence: what failed, where, and what to do next.

    Subclasses set ``dbus_name`` (the full D-Bus error name) and ``exit_status`` (0 to 255).
    """

    dbus_name: str = ERROR_PREFIX + "Failed"
    exit_status: int = 1


class InvalidArgument(AgentError):
    """The caller passed something that is not allowed."""

    dbus_name = ERROR_PREFIX + "InvalidArgument"
    exit_status = 2


class NotPermitted(AgentError):
    """The caller may not do this."""

    dbus_name = ERROR_PREFIX + "NotPermitted"
    exit_status = 4


class ConfigError(AgentError):
    """A configuration file is missing, unreadable or wrong."""

    dbus_name = ERROR_PREFIX + "ConfigInvalid"
    exit_status = 6


class NotRunning(AgentError):
    """A service or the bus itself cannot be reached."""

    dbus_name = ERROR_PREFIX + "NotRunning"
    exit_status = 7


class Busy(AgentError):
    """Something else of the same kind is running."""

    dbus_name = ERROR_PREFIX + "Busy"
    exit_status = 10


class Cancelled(AgentError):
    """The operation was ended before it was done."""

    dbus_name = ERROR_PREFIX + "Cancelled"
    exit_status = 21


class Internal(AgentError):
    """A defect of ours. The text is fixed: details may hold secrets and go to the journal only.

    agent: name of the program, with or without "hypernet-".
    """

    dbus_name = ERROR_PREFIX + "Internal"
    exit_status = 70

    def __init__(self, agent: str) -> None:
        super().__init__(f"Internal error in {agent}; see 'journalctl -t {_identifier(agent)}' for details.")


def report(error: BaseException, *, program: str) -> int:
    """Write one line "PROGRAM: SENTENCE" for error to standard error and return the exit status to use.

    An exception that is no AgentError is shown as Internal; its traceback goes to the journal only.
    """
    if isinstance(error, KeyboardInterrupt):
        print(f"{program}: Interrupted.", file=sys.stderr)
        return INTERRUPTED
    if not isinstance(error, AgentError):
        _record_defect(error, program)
        error = Internal(program)
    # Names of files and texts in images must not steer the terminal.
    sentence = " ".join("".join(char if char.isprintable() else " " for char in str(error)).split())
    print(f"{program}: {sentence}", file=sys.stderr)
    return error.exit_status


def _identifier(agent: str) -> str:
    """SYSLOG_IDENTIFIER of a program; one program can be the main process of several units, or of none."""
    return "hypernet-" + agent.removeprefix("hypernet-")


def _record_defect(error: BaseException, program: str) -> None:
    import traceback

    from common import journal

    journal.record(
        f"Internal error: {type(error).__name__}",
        priority=journal.DEBUG,
        syslog_identifier=_identifier(program),
        traceback="".join(traceback.format_exception(error)),
    )
