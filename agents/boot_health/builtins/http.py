# SPDX-License-Identifier: Apache-2.0
"""Built-in check ``http``: a server answers with the right status."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from common import config, paths

PROGRAM: Final = str(paths.VENDOR / "boot-health")
_URL: Final = re.compile(r"https?://[!-~]{1,2000}", re.ASCII)


def build(section: config.Section) -> tuple[str, ...]:
    """Return the command of the check. Raises ConfigError."""
    url = section.get_str("url")
    if complaint := _complaint(url):
        raise section.error("url", f"{complaint}; write one such as http://127.0.0.1:8000/health")
    status = section.get_int("status", 200, minimum=100, maximum=599)
    ca_file = section.get_str("ca_file", "")
    if ca_file and (not Path(ca_file).is_absolute() or not url.startswith("https:")):
        raise section.error("ca_file", "must be an absolute path, and goes with an https URL")
    return (PROGRAM, "probe-http", *((f"--ca-file={ca_file}",) if ca_file else ()), url, str(status))


def _complaint(url: str) -> str:
    try:
        parts = urlsplit(url)
        known = bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or not _URL.fullmatch(url):
        return "is no URL of http or https"
    # Arguments of programs are seen by every user.
    return "must not hold a user or password" if "@" in parts.netloc else ""
