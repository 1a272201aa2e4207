# SPDX-License-Identifier: Apache-2.0
"""ASCII armour of OpenPGP (RFC 4880, chapter 6): from armoured text to binary packets, checksum verified."""

from __future__ import annotations

import base64
import binascii

from common.errors import ConfigError


def decode(text: bytes, *, kind: str, name: str) -> bytes:
    """Packets of all armoured blocks of `kind` in `text`, one after the other.

    Text between blocks is ignored; a block of another kind (such as a private key) is refused. `name` is the
    file in errors. Raises ConfigError.
    """
    packets = bytearray()
    body: list[str] = []
    state = "outside"
    blocks = 0
    for line in text.decode("utf-8", errors="replace").splitlines():
        stripped = line.strip()
        if state == "outside":
            if stripped.startswith("-----BEGIN PGP"):
                if stripped != f"-----BEGIN {kind}-----":
                    raise ConfigError(
                        f"{name} holds another kind of block than {kind}; only that is allowed there."
                    )
                state, body, blocks = "headers", [], blocks + 1
        elif stripped == f"-----END {kind}-----":
            packets += _packets(body, name)
            state = "outside"
        elif stripped.startswith("-----"):
            raise ConfigError(f"{name}: an armoured block does not end properly; export the key again.")
        elif state == "headers" and ": " in stripped:
            continue
        elif stripped:
            state = "body"
            body.append(stripped)
        else:
            state = "body"
    if state != "outside" or not blocks:
        raise ConfigError(
            f"{name} holds no whole armoured {kind}; export the key again with 'gpg --armor --export'."
        )
    return bytes(packets)


def _packets(lines: list[str], name: str) -> bytes:
    checksum = lines.pop()[1:] if lines and lines[-1].startswith("=") and len(lines[-1]) == 5 else ""
    try:
        data = base64.b64decode("".join(lines), validate=True)
        expected = base64.b64decode(checksum, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"{name}: the armoured text is damaged; export the key again.") from error
    if not data or (checksum and int.from_bytes(expected, "big") != _crc24(data)):
        raise ConfigError(f"{name}: the checksum of the armoured text is wrong; export the key again.")
    return data


def _crc24(data: bytes) -> int:
    """RFC 4880, 6.1."""
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc & 0xFFFFFF
