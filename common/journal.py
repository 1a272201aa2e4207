# SPDX-License-Identifier: Apache-2.0
"""Structured messages to the systemd journal, without a library.

The datagram format is https://systemd.io/JOURNAL_NATIVE_PROTOCOL/. Without a journal each message is a line
on standard error with the priority prefix of sd-daemon(3), which systemd understands too.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import struct
import sys
from typing import Final

EMERG: Final = 0
ALERT: Final = 1
CRIT: Final = 2
ERR: Final = 3
WARNING: Final = 4
NOTICE: Final = 5
INFO: Final = 6
DEBUG: Final = 7

SOCKET = "/run/systemd/journal/socket"
MAX_VALUE_BYTES: Final = 48 * 1024
"""Longer values are cut: a datagram must fit the socket's send buffer (about 200 KiB)."""

_FIELD_NAME: Final = re.compile(r"[A-Z0-9][A-Z0-9_]{0,63}")
_LEVEL_NAMES: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_identifier = "hypernet"


def identifier() -> str:
    """Return the SYSLOG_IDENTIFIER that setup() set; "hypernet" before that."""
    return _identifier


def send(message: str, *, priority: int = INFO, message_id: str | None = None, **fields: str | int) -> None:
    """Log one message; never raises for a missing or full journal.

    priority: EMERG to DEBUG. message_id: 32 lower-case hex digits. fields: journal fields, written in upper
    case (``slot="a"`` becomes SLOT=a). Raises ValueError for a field name that the journal would drop.
    """
    if not record(message, priority=priority, message_id=message_id, **fields):
        prefix = f"<{priority}>"
        print("\n".join(prefix + line for line in message.splitlines() or [""]), file=sys.stderr, flush=True)


def record(
    message: str, *, priority: int = INFO, message_id: str | None = None, **fields: str | int
) -> bool:
    """Log one message to the journal and nowhere else; return whether the journal took it."""
    values = {"SYSLOG_IDENTIFIER": _identifier}
    values.update({name.upper(): str(value) for name, value in fields.items()})
    values["MESSAGE"] = message
    values["PRIORITY"] = str(priority)
    if message_id is not None:
        values["MESSAGE_ID"] = message_id
    datagram = b"".join(_encode(name, value) for name, value in values.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(1)
            channel.sendto(datagram, SOCKET)
    except OSError:
        return False
    return True


def _encode(name: str, value: str) -> bytes:
    if not _FIELD_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a journal field name (A-Z, 0-9 and _, not first)")
    data = value.encode("utf-8", "replace")[:MAX_VALUE_BYTES]
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"


def setup(program: str) -> None:
    """Set SYSLOG_IDENTIFIER for all messages and route the standard logging module into the journal.

    The lowest level that is logged comes from $SYSTEMD_LOG_LEVEL (name or number of syslog(3), or info).
    """
    global _identifier
    _identifier = program
    root = logging.getLogger()
    root.handlers[:] = [_Handler()]
    root.setLevel(_logging_level(os.environ.get("SYSTEMD_LOG_LEVEL", "info")))


def _logging_level(text: str) -> int:
    name = text.strip().lower()
    priority = int(name) if name.isascii() and name.isdigit() else INFO
    if name in _LEVEL_NAMES:
        priority = _LEVEL_NAMES.index(name)
    if priority >= DEBUG:
        return logging.DEBUG
    if priority >= NOTICE:
        return logging.INFO
    if priority == WARNING:
        return logging.WARNING
    return logging.ERROR if priority == ERR else logging.CRITICAL


def _priority(level: int) -> int:
    if level >= logging.CRITICAL:
        return CRIT
    if level >= logging.ERROR:
        return ERR
    if level >= logging.WARNING:
        return WARNING
    return INFO if level >= logging.INFO else DEBUG


class _Handler(logging.Handler):
    """The traceback of a record goes to a field of its own, so that it never shows up on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, str | int] = {"logger": record.name}
        try:
            if record.exc_info:
                fields["traceback"] = logging.Formatter().formatException(record.exc_info)
            send(record.getMessage(), priority=_priority(record.levelno), **fields)  # type: ignore[arg-type]
        except Exception:
            self.handleError(record)
