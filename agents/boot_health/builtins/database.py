# SPDX-License-Identifier: Apache-2.0
"""Built-in check ``database``: PostgreSQL accepts connections, pg_isready(1)."""

from __future__ import annotations

from common import config


def build(section: config.Section) -> tuple[str, ...]:
    """Return the command of the check. Raises ConfigError."""
    host = section.get_str("host", "")
    port = section.get_int("port", None, minimum=1, maximum=65535)
    timeout_sec = section.get_duration_sec("timeout", default=10.0)
    if host.startswith("-") or "\0" in host:
        raise section.error("host", "must be the name of a host, or the folder of a socket")
    return (
        "pg_isready",
        *((f"--host={host}",) if host else ()),
        *((f"--port={port}",) if port is not None else ()),
        f"--timeout={max(1, int(timeout_sec))}",
    )
