# SPDX-License-Identifier: Apache-2.0
"""What gpgv's status lines say about a detached signature: accepted, or which reason to refuse fits best.

gpgv's exit status passes expired and revoked keys, so it is not used. A signature counts only if its block
of status lines holds exactly one GOODSIG and one VALIDSIG, nothing that speaks against it, a digest of
SHA-256 or stronger, and a primary key to which the caller has no objection. The order of the signatures in
the file decides nothing. Lines: GnuPG's doc/DETAILS, "Format of the --status-fd output".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.errors import ERROR_PREFIX, AgentError

CLOCK_TOLERANCE_SEC = 86400
"""How far behind this machine's clock may be."""

_DIGESTS = frozenset({"8", "9", "10"})  # SHA-256, SHA-384, SHA-512 (RFC 4880, 9.4)
_PUBLIC_KEY_ALGORITHMS = frozenset({"1", "19", "22"})  # RSA, ECDSA, EdDSA (RFC 4880, 9.1)
_FATAL = frozenset({"BADSIG", "FAILURE", "NODATA", "UNEXPECTED"})
_AGAINST = frozenset({"BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "NO_PUBKEY"})
_TIME = re.compile(r"[0-9]{1,12}")
_FINGERPRINT = re.compile(r"[0-9A-F]{40}")
_KEY = re.compile(r"[0-9A-F]{8,64}")

# Codes of libgpg-error in ERRSIG.
_UNKNOWN_ALGORITHM = frozenset({"4", "5"})
_BAD_PUBLIC_KEY = "6"  # gpgv says so of a key that was made later than now
_NO_PUBLIC_KEY = "9"
_TIME_CONFLICT = "39"  # the signature is older than its key


class BadSignature(AgentError):
    """The signature was not made over these bytes, or cannot be read."""

    dbus_name = ERROR_PREFIX + "BadSignature"
    exit_status = 12


class NoSignature(BadSignature):
    """There is no signature at all."""


class WeakDigest(BadSignature):
    """The signature uses a digest or key algorithm that no longer protects."""


class UntrustedKey(AgentError):
    """The key is unknown, or not listed for this purpose."""

    dbus_name = ERROR_PREFIX + "UntrustedKey"
    exit_status = 13


class TooFewSignatures(AgentError):
    """The signatures are good, but fewer keys made them than have to."""

    dbus_name = ERROR_PREFIX + "TooFewSignatures"
    exit_status = 13


class KeyExpired(AgentError):
    """The signing key has expired, or was used outside the time it is trusted for."""

    dbus_name = ERROR_PREFIX + "KeyExpired"
    exit_status = 14


class KeyRevoked(AgentError):
    """The signing key was revoked by its owner, or is listed as revoked."""

    dbus_name = ERROR_PREFIX + "KeyRevoked"
    exit_status = 14


class SignatureExpired(AgentError):
    """The signature itself carries an expiry date that has passed."""

    dbus_name = ERROR_PREFIX + "SignatureExpired"
    exit_status = 14


# Of several reasons the one that tells most is shown; a stranger's signature beside others tells least.
_RANK: tuple[type[AgentError], ...] = (
    KeyRevoked,
    KeyExpired,
    SignatureExpired,
    WeakDigest,
    BadSignature,
    UntrustedKey,
)


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature that holds: fingerprint of its primary key and time of signing (seconds since 1970)."""

    fingerprint: str
    created_sec: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """Enough signatures: the primary keys that made them, sorted, and the newest time of signing."""

    fingerprints: tuple[str, ...]
    created_sec: int


Objection = Callable[[Signature], AgentError | None]
"""Why the key of a signature may not vouch for the data, None if it may."""


def judge(status: str, *, objection: Objection, name: str, now_sec: float, threshold: int = 1) -> Accepted:
    """The verdict on gpgv's status lines: accepted, else the error that fits best.

    `threshold` is the number of different primary keys that are needed, `name` the signature file in errors.
    Raises NoSignature, BadSignature, WeakDigest, UntrustedKey, TooFewSignatures, KeyExpired, KeyRevoked,
    SignatureExpired.
    """
    lines = [line.split(" ") for line in _status_lines(status)]
    words = {line[0] for line in lines}
    if not lines:
        raise BadSignature(f"{name} is no signature that gpgv can judge; get it again from the vendor.")
    if "NEWSIG" not in words and words <= {"NODATA", "UNEXPECTED"}:
        raise _no_signature(name)
    blocks = _blocks(lines)
    if blocks is None or words & _FATAL:
        raise _does_not_fit(name)
    accepted: dict[str, int] = {}
    refusals: list[AgentError] = []
    for block in blocks:
        verdict = _judge_block(block, objection, name, now_sec)
        if isinstance(verdict, Signature):
            accepted[verdict.fingerprint] = max(verdict.created_sec, accepted.get(verdict.fingerprint, 0))
        else:
            refusals.append(verdict)
    if len(accepted) >= max(threshold, 1):
        return Accepted(tuple(sorted(accepted)), max(accepted.values()))
    if accepted:
        raise TooFewSignatures(
            f"{name} holds signatures of {len(accepted)} of the trusted keys, {threshold} are needed; get "
            "it with all its signatures from the vendor."
        )
    raise min(refusals, key=_rank, default=_no_signature(name))


def key_expired(name: str, key: str) -> KeyExpired:
    """The error for a signature `name` by a key that is over, as far as this machine knows the time."""
    return KeyExpired(
        f"{name} was made with key {key}, which has expired; install the vendor's renewed public key, or "
        "set this machine's clock if it is wrong."
    )


def _status_lines(status: str) -> list[str]:
    prefix = "[GNUPG:] "
    return [line[len(prefix) :] for line in status.split("\n") if line.startswith(prefix)]


def _blocks(lines: Sequence[list[str]]) -> list[list[list[str]]] | None:
    """The lines of each signature; None if one claims to be good outside of any."""
    blocks: list[list[list[str]]] = []
    for line in lines:
        if line[0] == "NEWSIG":
            blocks.append([])
        elif blocks:
            blocks[-1].append(line)
        elif line[0] in ("GOODSIG", "VALIDSIG"):
            return None
    return blocks


def _judge_block(
    block: list[list[str]], objection: Objection, name: str, now_sec: float
) -> Signature | AgentError:
    """One signature: the Signature if it counts, else the error that says why not."""
    against = [line for line in block if line[0] in _AGAINST]
    if against:
        return _reason(against, objection, name)
    good = [line for line in block if line[0] == "GOODSIG"]
    valid = [line for line in block if line[0] == "VALIDSIG"]
    if len(good) != 1 or len(valid) != 1 or len(good[0]) < 2 or len(valid[0]) != 11:
        return BadSignature(f"{name} cannot be judged: gpgv's answer about it is incomplete; try again.")
    _, signer, _, created, expires, _, _, algorithm, digest, kind, primary = valid[0]
    if algorithm not in _PUBLIC_KEY_ALGORITHMS or digest not in _DIGESTS:
        return _weak(name)
    if (
        kind != "00"
        or not (_FINGERPRINT.fullmatch(signer) and _FINGERPRINT.fullmatch(primary))
        or len(good[0][1]) not in (16, 40)
        or not signer.endswith(good[0][1])
        or not (_TIME.fullmatch(created) and _TIME.fullmatch(expires))
    ):
        return BadSignature(f"{name} is not a plain signature of a file; get it again from the vendor.")
    signature = Signature(primary, int(created))
    refusal = objection(signature)
    if refusal is not None:
        return refusal
    if signature.created_sec > now_sec + CLOCK_TOLERANCE_SEC:
        return _from_the_future(name)
    if 0 < int(expires) <= now_sec:  # by the caller's time, which may know better than the clock
        return _expired(name)
    return signature


def _reason(against: list[list[str]], objection: Objection, name: str) -> AgentError:
    """The error for a block with lines that speak against its signature."""
    words = {line[0]: line[1:] for line in reversed(against)}
    if "REVKEYSIG" in words:
        key = _first(words["REVKEYSIG"]) or "unknown"
        return KeyRevoked(f"{name} was made with key {key}, which is revoked; the vendor has to sign again.")
    if "EXPKEYSIG" in words:
        return key_expired(name, _first(words["EXPKEYSIG"]) or "unknown")
    if "EXPSIG" in words:
        return _expired(name)
    # ERRSIG KEYID ALGORITHM DIGEST CLASS TIME CODE FINGERPRINT
    fields = words.get("ERRSIG", [])
    code = fields[5] if len(fields) > 5 else ""
    if code == _NO_PUBLIC_KEY or (not fields and "NO_PUBKEY" in words):
        return _unknown(fields, words, objection, name)
    if code in _UNKNOWN_ALGORITHM:
        return _weak(name)
    if code == _BAD_PUBLIC_KEY:
        return _from_the_future(name)
    if code == _TIME_CONFLICT:
        return BadSignature(
            f"{name} claims to be older than the key that made it; get it again from the vendor."
        )
    return _does_not_fit(name)


def _unknown(fields: list[str], words: dict[str, list[str]], objection: Objection, name: str) -> AgentError:
    """A key that is not in the keyring; the list may still say something about it, such as revoked."""
    key = fields[6] if len(fields) > 6 and _FINGERPRINT.fullmatch(fields[6]) else ""
    if key:
        created = fields[4]
        refusal = objection(Signature(key, int(created) if _TIME.fullmatch(created) else 0))
        if refusal is not None:
            return refusal
    key = key or _first(fields) or _first(words.get("NO_PUBKEY", [])) or "unknown"
    return UntrustedKey(
        f"{name} was made with key {key}, which is not trusted here; see the trusted-keys folder."
    )


def _first(fields: Sequence[str]) -> str:
    """The key that a line begins with, empty if it is none."""
    return fields[0] if fields and _KEY.fullmatch(fields[0]) else ""


def _rank(error: AgentError) -> tuple[int, str]:
    rank = next((rank for rank, kind in enumerate(_RANK) if isinstance(error, kind)), len(_RANK))
    return rank, str(error)


def _no_signature(name: str) -> NoSignature:
    return NoSignature(
        f"{name} holds no signature; get the release and its signature again from the vendor."
    )


def _does_not_fit(name: str) -> BadSignature:
    signed = name.removesuffix(".asc")
    return BadSignature(
        f"{name} does not fit {signed}: one of them was changed; get both again from the vendor."
    )


def _weak(name: str) -> WeakDigest:
    return WeakDigest(f"{name} uses a weak algorithm; the vendor has to sign with SHA-256 or stronger.")


def _expired(name: str) -> SignatureExpired:
    return SignatureExpired(f"The signature {name} has expired; get a newer release from the vendor.")


def _from_the_future(name: str) -> BadSignature:
    return BadSignature(f"{name} seems to come from the future; set this machine's clock and try again.")
