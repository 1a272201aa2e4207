# SPDX-License-Identifier: Apache-2.0
"""The packets of OpenPGP public keys: which keys a file holds, and one key out of several copies of it.

Only the framing is read (RFC 4880, chapters 4.2, 11.1 and 12.2); what the packets mean is left to gpgv.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from common.errors import ConfigError

_PUBLIC_KEY, _USER_ID, _SUBKEY, _ATTRIBUTE = 6, 13, 14, 17
_COMPONENTS = (_PUBLIC_KEY, _USER_ID, _ATTRIBUTE, _SUBKEY)
_SECRET = (5, 7)


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet: its tag, its body, and both as they were in the file."""

    tag: int
    body: bytes
    raw: bytes


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A primary key with all that belongs to it; `fingerprint` has 40 upper-case hex digits."""

    fingerprint: str
    packets: tuple[Packet, ...]


def keys(data: bytes, *, name: str) -> tuple[PublicKey, ...]:
    """The keys of a binary keyring; those of a version that gpgv does not know are left out.

    `name` is the file in errors. Raises ConfigError.
    """
    found: list[PublicKey] = []
    packets: list[Packet] = []
    for packet in _packets(data, name):
        if packet.tag in _SECRET:
            raise ConfigError(f"{name} holds a secret key; remove the file and change that key.")
        if packet.tag == _PUBLIC_KEY:
            found += _key(packets)
            packets = []
        elif not packets:
            raise _damaged(name)
        packets.append(packet)
    return (*found, *_key(packets))


def merge(copies: Iterable[PublicKey]) -> bytes:
    """Several copies of one key as one: a revocation or a later expiry that any of them has counts.

    gpgv takes the first key of a fingerprint that it finds, so two copies must not stay side by side.
    """
    signatures: dict[tuple[int, bytes], dict[bytes, bytes]] = {}
    component = (_PUBLIC_KEY, b"")
    for key in copies:
        for packet in key.packets:
            if packet.tag in _COMPONENTS:
                component = (packet.tag, packet.body)
                signatures.setdefault(component, {packet.body: packet.raw})
            else:
                signatures[component].setdefault(packet.body, packet.raw)
    order = sorted(signatures, key=lambda item: (item[0] != _PUBLIC_KEY, item[0] == _SUBKEY))
    return b"".join(raw for component in order for raw in signatures[component].values())


def _key(packets: list[Packet]) -> list[PublicKey]:
    if not packets or packets[0].body[:1] != b"\x04":
        return []
    body = packets[0].body
    framed = b"\x99" + len(body).to_bytes(2, "big") + body
    fingerprint = hashlib.sha1(framed, usedforsecurity=False).hexdigest().upper()  # RFC 4880, 12.2
    return [PublicKey(fingerprint, tuple(packets))]


def _packets(data: bytes, name: str) -> Iterator[Packet]:
    start = 0
    while start < len(data):
        tag, begin, length = _header(data, start, name)
        end = begin + length
        if end > len(data) or (tag == _PUBLIC_KEY and length > 0xFFFF):
            raise _damaged(name)
        yield Packet(tag, data[begin:end], data[start:end])
        start = end


def _header(data: bytes, start: int, name: str) -> tuple[int, int, int]:
    """(tag, offset of the body, its length); lengths that are left open are not allowed in keys."""
    first = data[start]
    head = data[start + 1 : start + 6]
    if first & 0x40:
        tag = first & 0x3F
        if head and head[0] < 192:
            width, length = 1, head[0]
        elif len(head) > 1 and head[0] < 224:
            width, length = 2, ((head[0] - 192) << 8) + head[1] + 192
        elif len(head) > 4 and head[0] == 255:
            width, length = 5, int.from_bytes(head[1:5], "big")
        else:
            raise _damaged(name)
    else:
        tag, kind = (first & 0x3C) >> 2, first & 3
        width = 1 << kind
        if kind == 3 or len(head) < width:
            raise _damaged(name)
        length = int.from_bytes(head[:width], "big")
    if not first & 0x80 or not tag:
        raise _damaged(name)
    return tag, start + 1 + width, length


def _damaged(name: str) -> ConfigError:
    return ConfigError(
        f"{name} holds no whole public key; export the key again with 'gpg --armor --export'."
    )
