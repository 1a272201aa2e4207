# SPDX-License-Identifier: Apache-2.0
"""Conversion between Python values and the bodies of D-Bus messages."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from dbus_next.signature import SignatureTree
from dbus_next.signature import Variant as WireVariant


@dataclass(frozen=True, slots=True)
class Variant:
    """A value for a "v" of another type than its Python type implies; signature: one D-Bus type."""

    signature: str
    value: Any


def types_of(signature: str) -> list[Any]:
    """Return the single complete types of a signature; raises ValueError if it is not valid."""
    types: list[Any] = _tree(signature).types
    return types


def to_body(signature: str, values: tuple[Any, ...]) -> list[Any]:
    """Return a message body; raises TypeError or ValueError if values do not fit the signature.

    In strings, what D-Bus cannot carry (NUL, lone surrogates) is replaced: the bus would drop the connection
    of a sender of such a message.
    """
    types = types_of(signature)
    if len(types) != len(values):
        raise ValueError(f"{len(values)} values do not fit signature {signature!r}")
    body = [_to_wire(type_, value) for type_, value in zip(types, values, strict=True)]
    _tree(signature).verify(body)
    return body


def taken_out(signature: str, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[int]]:
    """Values with positions in place of their file descriptors ("h"), and the descriptors."""
    found = list(values)
    descriptors = []
    for at, type_ in enumerate(types_of(signature)):
        if type_.token == "h":
            descriptors.append(found[at])
            found[at] = len(descriptors) - 1
    return tuple(found), descriptors


def put_in(signature: str, values: list[Any], descriptors: list[int]) -> list[Any]:
    """The reverse; raises IndexError if there are too few descriptors."""
    found = list(values)
    for at, type_ in enumerate(types_of(signature)):
        if type_.token == "h":
            found[at] = descriptors[found[at]]
    return found


def from_wire(value: Any) -> Any:
    """Return a received value with all variants replaced by what they hold."""
    if isinstance(value, WireVariant):
        return from_wire(value.value)
    if isinstance(value, list):
        return [from_wire(item) for item in value]
    if isinstance(value, dict):
        return {from_wire(key): from_wire(item) for key, item in value.items()}
    return value


def text(value: str) -> str:
    """Return value as D-Bus can carry it."""
    return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


@functools.lru_cache(maxsize=256)
def _tree(signature: str) -> Any:
    return SignatureTree(signature)


def _to_wire(type_: Any, value: Any) -> Any:
    match type_.token:
        case "v":
            return _wrap(value)
        case "s":
            return text(value) if isinstance(value, str) else value
        case "d":
            return float(value)
        case "(":
            return [_to_wire(child, item) for child, item in zip(type_.children, value, strict=True)]
        case "a" if type_.children[0].token == "{":
            key_type, value_type = type_.children[0].children
            return {_to_wire(key_type, key): _to_wire(value_type, item) for key, item in value.items()}
        case "a" if type_.children[0].token == "y":
            return bytes(value)
        case "a":
            return [_to_wire(type_.children[0], item) for item in value]
        case _:
            return value


def _wrap(value: Any) -> Any:
    variant = value if isinstance(value, Variant) else Variant(_implied_signature(value), value)
    types = types_of(variant.signature)
    if len(types) != 1:
        raise ValueError(f"{variant.signature!r} is not a single complete type")
    return WireVariant(variant.signature, _to_wire(types[0], variant.value))


def _implied_signature(value: Any) -> str:
    match value:
        case bool():
            return "b"
        case int():
            return "x"
        case float():
            return "d"
        case str():
            return "s"
        case bytes():
            return "ay"
        case dict():
            return "a{sv}"
        case list() | tuple() if all(isinstance(item, str) for item in value):
            return "as"
        case list() | tuple() if all(isinstance(item, dict) for item in value):
            return "aa{sv}"
        case _:
            raise TypeError(f"a {type(value).__name__} has no D-Bus type; use bus.Variant(signature, value)")
