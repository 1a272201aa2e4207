# SPDX-License-Identifier: Apache-2.0
"""What gpgv's status lines say about a detached signature: accepted, or which reason to refuse fits best.

gpgv's exit status passes expired and revoked keys, so it is not used. A signature counts only if its block
of status lines holds exactly one GOODSIG and one VALIDSIG, nothing that speaks against it, a digest of
SHA-256 or stronger, and a primary key that the caller allows. Lines: GnuPG's doc/DETAILS, "Format of the
--status-fd output".
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from common.errors import AgentError

CLOCK_TOLERANCE_SEC = 86400.0

_DIGESTS = frozenset({"8", "9", "10"})  # SHA-256, SHA-384, SHA-512 (RFC 4880, 9.4)
_PUBLIC_KEY_ALGORITHMS = frozenset({"1", "19", "22"})  # RSA, ECDSA, EdDSA (RFC 4880, 9.1)
_FATAL = frozenset({"BADSIG", "FAILURE", "UNEXPECTED"})
_AGAINST = frozenset({"BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "NO_PUBKEY"})


class BadSignature(AgentError):
    """The signature was not made over these bytes, or cannot be read."""

    dbus_name = "io.hypernet.Error.BadSignature"
    exit_status = 12


class NoSignature(BadSignature):
    """There is no signature at all."""


class WeakDigest(BadSignature):
    """The signature uses a digest or key algorithm that no longer protects."""


class UntrustedKey(AgentError):
    """The key is unknown, or not listed for this purpose."""

    dbus_name = "io.hypernet.Error.UntrustedKey"
    exit_status = 13


class KeyExpired(AgentError):
    """The signing key has expired."""

    dbus_name = "io.hypernet.Error.KeyExpired"
    exit_status = 14


class KeyRevoked(AgentError):
    """The signing key was revoked by its owner."""

    dbus_name = "io.hypernet.Error.KeyRevoked"
    exit_status = 14


class SignatureExpired(AgentError):
    """The signature itself carries an expiry date that has passed."""

    dbus_name = "io.hypernet.Error.SignatureExpired"
    exit_status = 14


@dataclass(frozen=True, slots=True)
class Signature:
    """An accepted signature: primary key fingerprint and time of signing (seconds since 1970)."""

    fingerprint: str
    created_sec: int


def judge(status: str, *, allowed: Collection[str], name: str, now_sec: float | None = None) -> Signature:
    """The accepted signature among gpgv's status lines, else the error that fits best.

    `allowed` holds primary fingerprints, `name` is the signature file in errors, `now_sec` the time
    (default: the clock's). Raises NoSignature, BadSignature, WeakDigest, UntrustedKey, KeyExpired,
    KeyRevoked, SignatureExpired.
    """
    latest_sec = (time.time() if now_sec is None else now_sec) + CLOCK_TOLERANCE_SEC
    lines = [line.split(" ") for line in _status_lines(status)]
    words = {line[0] for line in lines}
    if not lines or ("NODATA" in words and "NEWSIG" not in words):
        raise NoSignature(
            f"{name} holds no signature; get the image and its signature again from the vendor."
        )
    if "NODATA" in words or words & _FATAL:
        raise BadSignature(
            f"{name} does not fit the image: one of them was changed; get both again from the vendor."
        )
    accepted: list[Signature] = []
    refusals: list[AgentError] = []
    for block in _blocks(lines):
        verdict = _judge_block(block, allowed, name, latest_sec)
        if isinstance(verdict, Signature):
            accepted.append(verdict)
        else:
            refusals.append(verdict)
    if accepted:
        return accepted[0]
    known = [refusal for refusal in refusals if not isinstance(refusal, UntrustedKey)]
    if known or refusals:
        raise (known or refusals)[0]
    raise NoSignature(f"{name} holds no signature; get the image and its signature again from the vendor.")


def _status_lines(status: str) -> list[str]:
    prefix = "[GNUPG:] "
    return [line[len(prefix) :] for line in status.split("\n") if line.startswith(prefix)]


def _blocks(lines: Sequence[list[str]]) -> list[list[list[str]]]:
    blocks: list[list[list[str]]] = []
    for line in lines:
        if line[0] == "NEWSIG":
            blocks.append([])
        elif blocks:
            blocks[-1].append(line)
    return blocks


def _judge_block(
    block: list[list[str]], allowed: Collection[str], name: str, latest_sec: float
) -> Signature | AgentError:
    """One signature: the Signature if it counts, else the error that says why not."""
    words = [line[0] for line in block]
    against = [line for line in block if line[0] in _AGAINST]
    if against:
        return _reason(against, name)
    good = [line for line in block if line[0] == "GOODSIG"]
    valid = [line for line in block if line[0] == "VALIDSIG"]
    if (
        words.count("GOODSIG") != 1
        or words.count("VALIDSIG") != 1
        or len(valid[0]) != 11
        or len(good[0]) < 2
    ):
        return BadSignature(f"{name} cannot be judged: gpgv's answer about it is incomplete.")
    _, signer, _, created, _, _, _, algorithm, digest, kind, primary = valid[0]
    if algorithm not in _PUBLIC_KEY_ALGORITHMS or digest not in _DIGESTS:
        return WeakDigest(f"{name} uses a weak algorithm; the vendor has to sign with SHA-256 or stronger.")
    if kind != "00" or not good[0][1] or not signer.endswith(good[0][1]) or not created.isdecimal():
        return BadSignature(f"{name} is not a plain signature of a file; get it again from the vendor.")
    if len(primary) != 40 or primary not in allowed:
        return _untrusted(name, primary)
    if int(created) > latest_sec:
        return _from_the_future(name)
    return Signature(primary, int(created))


def _reason(against: list[list[str]], name: str) -> AgentError:
    for word, *fields in against:
        key = fields[0] if fields else "unknown"
        if word == "REVKEYSIG":
            return KeyRevoked(
                f"{name} was made with key {key}, which is revoked; the vendor has to sign again."
            )
        if word == "EXPKEYSIG":
            return KeyExpired(
                f"{name} was made with key {key}, which has expired; install the vendor's renewed public "
                "key."
            )
        if word == "EXPSIG":
            return SignatureExpired(
                f"The signature {name} has expired; get a newer release from the vendor."
            )
        if word == "ERRSIG":
            code = fields[5] if len(fields) > 5 else ""
            if code == "9":
                return _untrusted(name, fields[6] if len(fields) > 6 and len(fields[6]) == 40 else key)
            if code in ("4", "5"):
                return WeakDigest(
                    f"{name} uses a weak algorithm; the vendor has to sign with SHA-256 or stronger."
                )
            if code == "6":
                return _from_the_future(name)
    if against[0][0] == "NO_PUBKEY":
        return _untrusted(name, against[0][1] if len(against[0]) > 1 else "unknown")
    return BadSignature(
        f"{name} does not fit the image: one of them was changed; get both again from the vendor."
    )


def _from_the_future(name: str) -> BadSignature:
    return BadSignature(f"{name} seems to come from the future; set this machine's clock and try again.")


def _untrusted(name: str, key: str) -> UntrustedKey:
    return UntrustedKey(
        f"{name} was made with key {key}, which is not trusted here; see the trusted-keys folder."
    )
