# SPDX-License-Identifier: Apache-2.0
"""Until when can an OpenPGP key sign? Reads what its self-signatures say; verifies nothing.

gpgv decides about signatures, and knows about a key only when it has one to check. The lint asks earlier:
whether keys that a system trusts will still be good for the next release. Self-signatures are believed,
since the file that holds them is signed as a whole. Format: RFC 4880, chapters 5.2 and 5.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from common import openpgp

_SIGNATURE, _PUBLIC_KEY, _SUBKEY = 2, 6, 14
_CERTIFICATIONS = (0x10, 0x11, 0x12, 0x13, 0x1F)
_BINDING, _KEY_REVOCATION, _SUBKEY_REVOCATION = 0x18, 0x20, 0x28
_CREATED, _KEY_EXPIRES, _ISSUER_ID, _KEY_FLAGS, _ISSUER_FINGERPRINT = 2, 9, 16, 27, 33
_MAY_SIGN = 0x02
_KEY_ID_BYTES = 8


@dataclass(slots=True)
class _Key:
    """A primary key or subkey; times in seconds since 1970, expires_sec 0 for never.

    stated_sec: time of the newest signature that the other fields come from.
    """

    created_sec: int
    stated_sec: int = -1
    expires_sec: int = 0
    may_sign: bool = False
    revoked: bool = False

    def alive(self, at_sec: int) -> bool:
        return not self.revoked and self.created_sec <= at_sec and not 0 < self.expires_sec <= at_sec


def signing_keys(keyring: bytes, *, at_sec: int, name: str) -> frozenset[str]:
    """Fingerprints (40 upper-case hex digits) of the primary keys that can sign at that time (seconds since
    1970), by themselves or by a subkey. `name` is the keyring in errors. Raises ConfigError.
    """
    return frozenset(key.fingerprint for key in openpgp.keys(keyring, name=name) if _can_sign(key, at_sec))


def _can_sign(key: openpgp.PublicKey, at_sec: int) -> bool:
    parts: list[_Key] = []
    for packet in key.packets:
        if packet.tag in (_PUBLIC_KEY, _SUBKEY):
            parts.append(_Key(int.from_bytes(packet.body[1:5], "big")))
        elif packet.tag == _SIGNATURE:
            _apply(packet.body, key.fingerprint, parts[-1], primary=len(parts) == 1)
    return parts[0].alive(at_sec) and any(part.may_sign and part.alive(at_sec) for part in parts)


def _apply(body: bytes, fingerprint: str, key: _Key, *, primary: bool) -> None:
    """What a signature packet behind a key says about it, if its primary key made it."""
    if len(body) < 6 or body[0] != 4:
        return
    kind = body[1]
    hashed_end = 6 + int.from_bytes(body[4:6], "big")
    beside_end = hashed_end + 2 + int.from_bytes(body[hashed_end : hashed_end + 2], "big")
    facts = dict(_subpackets(body[6:hashed_end]))
    beside = dict(_subpackets(body[hashed_end + 2 : beside_end]))
    issuer = facts.get(_ISSUER_FINGERPRINT) or facts.get(_ISSUER_ID) or beside.get(_ISSUER_ID, b"")
    # A key ID is the end of a fingerprint.
    if issuer and issuer[-_KEY_ID_BYTES:].hex().upper() != fingerprint[-2 * _KEY_ID_BYTES :]:
        return
    if kind == (_KEY_REVOCATION if primary else _SUBKEY_REVOCATION):
        key.revoked = True
    stated = int.from_bytes(facts.get(_CREATED, b""), "big")
    if kind not in (_CERTIFICATIONS if primary else (_BINDING,)) or stated < key.stated_sec:
        return
    lifetime = int.from_bytes(facts.get(_KEY_EXPIRES, b""), "big")
    key.stated_sec = stated
    key.expires_sec = key.created_sec + lifetime if lifetime else 0
    # Without flags the algorithm alone decides, and keys that cannot sign at all have no self-signature.
    key.may_sign = bool((facts.get(_KEY_FLAGS) or bytes([_MAY_SIGN]))[0] & _MAY_SIGN)


def _subpackets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, content) of each subpacket (RFC 4880, 5.2.3.1), up to the first that is not whole."""
    place = 0
    while place < len(data):
        head = data[place]
        if head < 192:
            size, width = head, 1
        elif head < 255:
            size, width = (head - 192 << 8) + int.from_bytes(data[place + 1 : place + 2], "big") + 192, 2
        else:
            size, width = int.from_bytes(data[place + 1 : place + 5], "big"), 5
        place += width
        if size < 1 or place + size > len(data):
            return
        yield data[place] & 0x7F, data[place + 1 : place + size]
        place += size
