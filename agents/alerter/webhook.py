# SPDX-License-Identifier: Apache-2.0
"""An alert as a signed HTTP request, see "WEBHOOKS" in alerts.yaml(5)."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import ssl
import stat
import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final
from urllib.parse import urlsplit

from agents.alerter.config import Webhook
from agents.alerter.errors import DeliveryFailed
from agents.alerter.spool import Entry
from common import duration, files

LIMIT_SEC: Final = 15.0
"""For all of it: finding the host, connecting, sending, the answer."""
MIN_SECRET_BYTES: Final = 16

_MAX_SECRET_BYTES: Final = 4096


def send(hook: Webhook, entry: Entry, *, host: str, now_sec: int, limit_sec: float = LIMIT_SEC) -> None:
    """POST the alert. Raises DeliveryFailed; an answer of 200 to 299 is success, redirections are not."""
    body, headers = request(entry, read_secret(hook.secret_file), host=host, now_sec=now_sec)
    answer: SimpleQueue[int | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answer.put(_post(hook, body, headers, limit_sec))
        except Exception as error:
            answer.put(error)

    # Resolving a name cannot be interrupted, and a server may send byte by byte: the thread is left then.
    threading.Thread(target=ask, name="webhook", daemon=True).start()
    try:
        status = answer.get(timeout=limit_sec)
    except Empty:
        raise DeliveryFailed(f"The {hook.name} did not answer within {limit_sec:g} s.") from None
    if isinstance(status, Exception):
        raise DeliveryFailed(f"The {hook.name} cannot be reached: {_reason(status)}.") from None
    if not 200 <= status <= 299:
        raise DeliveryFailed(f"The {hook.name} answered with status {status}.")


def request(entry: Entry, secret: bytes, *, host: str, now_sec: int) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the request. The signature covers the time, so that no request can be replayed."""
    alert = entry.alert
    content = {
        "id": alert.id,
        "kind": str(alert.kind),
        "summary": alert.summary,
        "details": dict(alert.details),
        "host": host,
        "time": duration.format_time(alert.usec // 1_000_000),
        "repeats": entry.repeats,
    }
    body = json.dumps(content).encode()
    timestamp = str(now_sec)
    signature = hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "hypernet-alerter",
        "X-Hypernet-Timestamp": timestamp,
        "X-Hypernet-Signature": f"sha256={signature}",
    }
    return body, headers


def read_secret(name: str) -> bytes:
    """The secret in a file that only its owner can read, or in a credential. Raises DeliveryFailed."""
    path = Path(name)
    if not path.is_absolute():
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if folder is None:
            raise DeliveryFailed(
                f"There is no credential {name}; give it to hypernet-alerter.service with LoadCredential=."
            )
        path = Path(folder) / name
    try:
        secret = files.read_bounded(path, _MAX_SECRET_BYTES).strip()
        mode = path.stat().st_mode
    except (files.FileError, OSError) as error:
        raise DeliveryFailed(f"The secret of a webhook is missing: {error}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO) and Path(name).is_absolute():
        raise DeliveryFailed(f"The secret in {path} is open to other users; run 'chmod 600 {path}'.")
    if len(secret) < MIN_SECRET_BYTES:
        raise DeliveryFailed(
            f"The secret in {path} is shorter than {MIN_SECRET_BYTES} bytes; make a new one."
        )
    return secret


def _post(hook: Webhook, body: bytes, headers: dict[str, str], limit_sec: float) -> int:
    parts = urlsplit(hook.url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=hook.ca_file or None)
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=limit_sec, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=limit_sec)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def _reason(error: Exception) -> str:
    """Why, without the address, which may be a secret."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message})"
    if isinstance(error, http.client.HTTPException):
        return f"its answer is not HTTP ({type(error).__name__})"
    text = (error.strerror or "") if isinstance(error, OSError) else ""
    return text or type(error).__name__
