# SPDX-License-Identifier: Apache-2.0
"""JSON that outsiders wrote, read without guessing.

Members are taken out one by one by type; a key that is there twice, a number that is no whole one, a missing
or misshapen member raises Refused, whose text is the complaint: "image.size is missing".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NoReturn

from common import duration

LIMIT: Final = 1 << 53
"""First whole number that readers with floating point cannot tell from its neighbour (RFC 8259, 6)."""

_MAX_DIGITS: Final = 16
_MAX_SHOWN: Final = 64
_TIME: Final = re.compile(r"[0-9-]{10}T[0-9:]{8}Z")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_ANY: Final = re.compile(r".*", re.DOTALL)


class Refused(Exception):
    """The text is no JSON, or something in it is not as asked for."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A member that nobody asked for; `place` is safe to print and bounded."""

    key: str
    place: str


class Object:
    """A JSON object; `prefix` is its place in complaints ("image.", "" for the whole). Raises Refused."""

    def __init__(self, value: object, prefix: str = "") -> None:
        if not isinstance(value, dict):
            raise Refused(f"{prefix.rstrip('.') or 'the file'} has to be a JSON object")
        self._members: dict[str, object] = value
        self._prefix = prefix
        self._known: set[str] = set()

    def text(
        self, key: str, form: re.Pattern[str] = _ANY, what: str = "a string", *, default: str | None = None
    ) -> str:
        """A string that matches `form` as a whole; `what` says so in words."""
        value = self._take(key, default)
        if not isinstance(value, str) or not form.fullmatch(value):
            self.refuse(key, f"has to be {what}")
        return value

    def sha256(self, key: str) -> str:
        """64 lower-case hex digits."""
        return self.text(key, _SHA256, "64 lower-case hexadecimal digits")

    def number(self, key: str, *, minimum: int = 0) -> int:
        """A whole number from `minimum` to LIMIT - 1."""
        value = self._take(key)
        if type(value) is not int or not minimum <= value < LIMIT:
            self.refuse(key, f"has to be a whole number from {minimum} to {LIMIT - 1}")
        return value

    def time_sec(self, key: str) -> int:
        """A time of RFC 3339 in UTC, to the second, as seconds since 1970."""
        what = "a time in UTC such as 2026-11-23T12:00:00Z"
        text = self.text(key, _TIME, what)
        try:
            return duration.parse_time_sec(text)
        except ValueError:
            self.refuse(key, f"has to be {what}")

    def has(self, key: str) -> bool:
        return key in self._members

    def member(self, key: str) -> Object:
        return Object(self._take(key), f"{self._prefix}{key}.")

    def members(self, key: str) -> tuple[Object, ...]:
        """A list of objects."""
        value = self._take(key)
        if not isinstance(value, list):
            self.refuse(key, "has to be a list")
        return tuple(Object(item, f"{self._prefix}{key}[{number}].") for number, item in enumerate(value))

    def unknown(self) -> list[Unknown]:
        """The members that nobody asked for so far."""
        keys = (key for key in self._members if key not in self._known)
        return [Unknown(key, self._prefix + shown(key)) for key in keys]

    def refuse(self, key: str, complaint: str) -> NoReturn:
        raise Refused(f"{self._prefix}{key} {complaint}")

    def _take(self, key: str, default: str | None = None) -> object:
        self._known.add(key)
        value = self._members.get(key, default)
        if value is None:
            self.refuse(key, "is missing")
        return value


def parse(raw: bytes) -> Object:
    """The object that is the whole text. The caller bounds its length. Raises Refused."""
    try:
        value: object = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_bounded,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except UnicodeDecodeError:
        raise Refused("it is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise Refused(f"it is not JSON (line {error.lineno}: {error.msg})") from None
    except RecursionError:
        raise Refused("it is nested too deeply") from None
    return Object(value)


def shown(key: str) -> str:
    """Somebody's word, made safe for one line of text."""
    return ascii(key[:_MAX_SHOWN])


def _unique(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for key, value in pairs:
        if key in members:
            raise Refused(f"the key {shown(key)} is there twice")
        members[key] = value
    return members


def _bounded(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise Refused(f"a number has more than {_MAX_DIGITS} digits")
    return int(digits)


def _no_number(_text: str) -> NoReturn:
    raise Refused("a number is not a whole one")
