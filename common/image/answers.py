# SPDX-License-Identifier: Apache-2.0
"""Whether a server's answer to a request for a range is that range, of the file that it was before."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPResponse
from typing import Final, NoReturn

from common.image.errors import ChecksumMismatch, DownloadFailed, NoSuchFile
from common.image.httpwire import Transient

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_STRONG_TAG: Final = re.compile(r'"[!#-~]{0,256}"')
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_REASONS: Final = {
    401: "asks for a login",
    403: "denies access",
    404: "has no such file",
    410: "has no such file",
    416: "has an empty file",
}


@dataclass(frozen=True, slots=True)
class State:
    """A file on a server: its size, 0 if not known yet, and its strong entity tag, "" if there is none."""

    size_bytes: int = 0
    etag: str = ""


def judge(response: HTTPResponse, start: int, end: int, known: State, *, name: str, host: str) -> State:
    """What is known after the answer to a request for the bytes from `start` up to `end`; RFC 9110, 14.

    Raises Transient, ChecksumMismatch if the file is another one than before, NoSuchFile, DownloadFailed.
    """
    status = response.status
    if status >= 500 or status in (408, 425, 429):
        raise Transient(f"{host} answers with status {status}", pause_sec=retry_after_sec(response))
    etag = response.getheader("ETag", "")
    if status in (200, 206) and known.etag and etag and etag != known.etag:
        _changed(name)
    if status == 200:
        raise DownloadFailed(
            f"The server of {name} ignores ranges; use a server that supports them or download the image "
            "first."
        )
    if status == 416 and known.size_bytes:
        _changed(name)
    if status != 206:
        reason = _REASONS.get(status, f"answers with status {status}")
        kind = NoSuchFile if status in (404, 410) else DownloadFailed
        raise kind(f"{name} cannot be downloaded: {host} {reason}; check the address.")
    match = _CONTENT_RANGE.fullmatch(response.getheader("Content-Range", ""))
    if match is None:
        _lied(name, "sent no valid Content-Range")
    first, last, total = (int(text) for text in match.groups())
    if (first, last) != (start, end - 1) or last >= total:
        _lied(name, "sent another range than it was asked for")
    if response.length != end - start:
        _lied(name, "sent another number of bytes than its range has")
    if response.getheader("Content-Encoding", "identity").lower() != "identity":
        _lied(name, "sent an encoded range")
    if known.size_bytes:
        if total != known.size_bytes:
            _changed(name)
        return known
    return State(total, etag if _STRONG_TAG.fullmatch(etag) else "")


def retry_after_sec(response: HTTPResponse) -> float:
    """The pause that a server asks for (RFC 9110, 10.2.3); 0 if it asks for none, or not understandably."""
    text = response.getheader("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _changed(name: str) -> NoReturn:
    raise ChecksumMismatch(f"{name} was changed on the server during the download; try again.")


def _lied(name: str, what: str) -> NoReturn:
    raise DownloadFailed(f"The server of {name} {what}; its ranges cannot be used, tell its operator.")
