# SPDX-License-Identifier: Apache-2.0
"""Versions, compared as the boot loader compares them (UAPI.10 version format, systemd's
strverscmp_improved).

Note what follows from that order: `1.0.0~rc1` is older than `1.0.0`, but `1.0.0-rc1` is newer than it.
"""

from __future__ import annotations

import re
from typing import TypeVar

_SANE = re.compile(r"\d{1,9}\.\d{1,9}\.\d{1,9}([-~.^][0-9A-Za-z.~^-]{1,40})?", re.ASCII)
_VALID = re.compile(r"[0-9A-Za-z~.^-]", re.ASCII)
_DIGITS = re.compile(r"[0-9]*", re.ASCII)
_LETTERS = re.compile(r"[A-Za-z]*", re.ASCII)
_NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)", re.ASCII)
_Ordered = TypeVar("_Ordered", bool, str, tuple[int, str])


def is_sane(version: str) -> bool:
    """Whether `version` may name a release: X.Y.Z with an optional suffix, safe in a file name on FAT."""
    return bool(_SANE.fullmatch(version))


def numbers(version: str) -> tuple[int, int, int] | None:
    """X, Y and Z of a version that begins with X.Y.Z; None for any other."""
    found = _NUMBERS.match(version)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def compare(left: str, right: str) -> int:
    """-1, 0 or 1: is `left` older than, equal to or newer than `right`?"""
    a, b = left, right
    while True:
        while a and not _VALID.match(a):
            a = a[1:]
        while b and not _VALID.match(b):
            b = b[1:]
        # A segment behind '~' is older than the end of the text, which is older than all others.
        if a[:1] == "~" or b[:1] == "~":
            if a[:1] != b[:1]:
                return -1 if a[:1] == "~" else 1
            a, b = a[1:], b[1:]
            continue
        if not a or not b:
            return _sign(bool(a), bool(b))
        separator = next((mark for mark in "-^." if mark in (a[0], b[0])), "")
        if separator:
            if a[0] != b[0]:
                return -1 if a[0] == separator else 1
            a, b = a[1:], b[1:]
            continue
        numeric = a[0].isdigit() or b[0].isdigit()
        pattern = _DIGITS if numeric else _LETTERS
        head_a, head_b = _head(pattern, a), _head(pattern, b)
        a, b = a[len(head_a) :], b[len(head_b) :]
        order = _compare_numbers(head_a, head_b) if numeric else _sign(head_a, head_b)
        if order:
            return order


def _head(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.match(text)
    return found.group() if found else ""


def _compare_numbers(a: str, b: str) -> int:
    """Segments of digits, of any length; an empty one (against a letter) is older."""
    if not a or not b:
        return _sign(bool(a), bool(b))
    short_a, short_b = a.lstrip("0"), b.lstrip("0")
    return _sign((len(short_a), short_a), (len(short_b), short_b))


def _sign(a: _Ordered, b: _Ordered) -> int:
    return int(a > b) - int(a < b)
