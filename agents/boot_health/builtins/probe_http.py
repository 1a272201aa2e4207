# SPDX-License-Identifier: Apache-2.0
"""``boot-health probe-http``: the program behind the built-in check ``http``.

Only the status is looked at: no redirect is followed, no proxy is asked, no body is read. The time is
limited by the unit of the check.
"""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from common.errors import AgentError
from common.text import clean

_HEADERS: Final = {"User-Agent": "hypernet-boot-health", "Connection": "close"}
_MAX_REASON: Final = 60


def run(url: str, status: int, ca_file: Path | None) -> int:
    """Print what the server answered; return 0 if that is `status`, else 1. Raises AgentError.

    ca_file: PEM file in place of the system's certificate authorities.
    """
    found, reason = _ask(url, ca_file)
    if found == status:
        print(f"{url} answered {found} {reason}.")
        return 0
    print(f"{url} answered {found} {reason}, wanted is {status}.")
    return 1


def _ask(url: str, ca_file: Path | None) -> tuple[int, str]:
    try:
        connection = _connection(url, ca_file)
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("GET", target, headers=_HEADERS)
            answer = connection.getresponse()
            return answer.status, clean(answer.reason[:_MAX_REASON])
        finally:
            connection.close()
    except ssl.SSLCertVerificationError as error:
        raise AgentError(
            f"The certificate of {url} cannot be trusted: {error.verify_message}; set 'ca_file' if its"
            " authority is your own."
        ) from error
    except OSError as error:
        raise AgentError(f"No answer from {url}: {error.strerror or error}.") from error
    except (http.client.HTTPException, ValueError) as error:
        raise AgentError(f"{url} gives an answer that is not HTTP ({type(error).__name__}).") from error


def _connection(url: str, ca_file: Path | None) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise AgentError(
            f"'{url}' is no URL of http or https; write one such as http://127.0.0.1:8000/health."
        )
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, parts.port)
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise AgentError(
            f"The certificates in {ca_file} cannot be read: {error.strerror or error}."
        ) from error
    return http.client.HTTPSConnection(parts.hostname, parts.port, context=context)
