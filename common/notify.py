# SPDX-License-Identifier: Apache-2.0
"""Messages to the service manager, see sd_notify(3). Without $NOTIFY_SOCKET all functions do nothing.

The library encodes text as Latin-1 and hides every failure, so a STATUS with other characters would be lost
together with whatever stands in the same datagram: status text is made ASCII, and READY travels alone.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sdnotify


def ready() -> None:
    """The service has started (or reloaded)."""
    _send("READY=1")


def status(text: str) -> None:
    """Show one line of text in "systemctl status"; characters outside ASCII become "?"."""
    line = " ".join(text.split())
    _send("STATUS=" + line.encode("ascii", "replace").decode("ascii"))


def stopping() -> None:
    """The service is about to end: the manager queues a new start instead of taking it for running."""
    _send("STOPPING=1")


def watchdog() -> None:
    """The service is alive."""
    _send("WATCHDOG=1")


def extend_timeout(usec: int) -> None:
    """Ask for usec microseconds more, from now, before a start, stop or run time limit strikes."""
    _send(f"EXTEND_TIMEOUT_USEC={usec}")


def watchdog_interval_sec() -> float | None:
    """Return how often watchdog() is to be called: half the time of WatchdogSec=, None if it is not set."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not usec.isdigit() or int(usec) == 0 or pid != str(os.getpid()):
        return None
    return int(usec) / 2_000_000


def _send(state: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        _notifier(address).notify(state)


@functools.lru_cache(maxsize=1)
def _notifier(_address: str) -> sdnotify.SystemdNotifier:
    # Imported here: most programs that log or configure are never started by a service manager.
    import sdnotify

    return sdnotify.SystemdNotifier()
