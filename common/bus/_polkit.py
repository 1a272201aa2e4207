# SPDX-License-Identifier: Apache-2.0
"""Who may call a guarded method: root, and whom polkit lets, see org.freedesktop.PolicyKit1.Authority.

Everything fails closed: without polkit, or without its answer in time, only root is left.
"""

from __future__ import annotations

import logging
from typing import Final

from common.bus._connection import Connection
from common.bus._values import Variant
from common.errors import AgentError, NotPermitted

logger = logging.getLogger(__name__)

AUTHORITY: Final = "org.freedesktop.PolicyKit1"
AUTHORITY_PATH: Final = "/org/freedesktop/PolicyKit1/Authority"
AUTHORITY_INTERFACE: Final = "org.freedesktop.PolicyKit1.Authority"
TIMEOUT_SEC: Final = 10.0
INTERACTIVE_TIMEOUT_SEC: Final = 120.0
"""Time for a person to type a password."""

_ALLOW_USER_INTERACTION: Final = 1


async def authorize(connection: Connection, sender: str, action: str, *, interactive: bool) -> None:
    """Return if the caller with the unique name sender may do action, else raise NotPermitted."""
    try:
        (uid,) = await connection.call_bus("GetConnectionUnixUser", "s", sender)
    except AgentError as error:
        raise NotPermitted(f"Not authorized for {action}: the caller is gone.") from error
    if uid == 0:
        return
    timeout_sec = INTERACTIVE_TIMEOUT_SEC if interactive else TIMEOUT_SEC
    try:
        ((allowed, challenge, _details),) = await connection.call(
            AUTHORITY,
            AUTHORITY_PATH,
            AUTHORITY_INTERFACE,
            "CheckAuthorization",
            "(sa{sv})sa{ss}us",
            (
                # The bus name cannot be taken over by another process as a process id can.
                ("system-bus-name", {"name": Variant("s", sender)}),
                action,
                {},
                _ALLOW_USER_INTERACTION if interactive else 0,
                "",
            ),
            timeout_sec=timeout_sec,
        )
    except (AgentError, ValueError, TypeError) as error:
        logger.warning("polkit did not decide about %s: %s", action, error)
        raise NotPermitted(
            f"Not authorized for {action}: polkit did not answer; do this as root."
        ) from error
    if allowed is True:
        return
    if challenge and not interactive:
        raise NotPermitted(f"Not authorized for {action}: a password is needed; do this as root.")
    raise NotPermitted(f"Not authorized for {action}; do this as root or ask an administrator.")
