# SPDX-License-Identifier: Apache-2.0
"""Signature files as vendors, mistakes and attackers make them, by a real gpg; made anew for each test run.

All are meant for DATA. CASES says for each what has to come of it: None if it is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common import armor, process
from common.gpgstatus import (
    BadSignature,
    KeyExpired,
    KeyRevoked,
    NoSignature,
    SignatureExpired,
    UntrustedKey,
    WeakDigest,
)
from tests.fakes.slot_images import Key

DATA: Final = b"what is signed\n" * 1000
_OTHER: Final = b"something else\n" * 1000
_THEN: Final = ("--faked-system-time", "20200101T000000")
_FUTURE: Final = ("--faked-system-time", "20990101T000000")
_WEAK: Final = ("--allow-weak-digest-algos",)

CASES: Final[dict[str, type[Exception] | None]] = {
    "good": None,
    "rsa": None,
    "ecdsa": None,
    "subkey": None,
    "two": None,
    "two_reversed": None,
    "sha1": WeakDigest,
    "ripemd160": WeakDigest,
    "md5": WeakDigest,
    "dsa": WeakDigest,
    "expired_key": KeyExpired,
    "expired_subkey": KeyExpired,
    "revoked_key": KeyRevoked,
    "revoked_subkey": KeyRevoked,
    "expired_signature": SignatureExpired,
    "unknown_key": UntrustedKey,
    "unlisted_key": UntrustedKey,
    "key_of_another_purpose": UntrustedKey,
    "bad": BadSignature,
    "good_then_bad": BadSignature,
    "bad_then_good": BadSignature,
    "text_mode": BadSignature,
    "inline": BadSignature,
    "clear_signed": BadSignature,
    "file_name_spoof": BadSignature,
    "future": BadSignature,
    "future_key": BadSignature,
    "older_than_its_key": BadSignature,
    "public_key": NoSignature,
    "empty": NoSignature,
    "truncated_armour": NoSignature,
}


@dataclass(frozen=True)
class Corpus:
    """The folder of trusted keys, the signature files by case, and who signed those that are accepted."""

    trusted_keys: Path
    signatures: dict[str, bytes]
    signers: dict[str, str]


def build(folder: Path) -> Corpus:
    """Make keys and signatures in `folder`; takes a few seconds."""
    maker = _Maker(folder)
    try:
        return maker.make()
    finally:
        process.run(
            ["gpgconf", "--kill", "all"], timeout_sec=30, env={"GNUPGHOME": str(maker.home)}, success=None
        )


class _Maker:
    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir(mode=0o700, parents=True)
        self._gpg = Key(self.home, "").gpg
        self._folder = folder
        self._known: list[str] = []
        self._listed: list[tuple[str, str]] = []
        self._data = folder / "data"
        self._data.write_bytes(DATA)
        self._other = folder / "other"
        self._other.write_bytes(_OTHER)

    def make(self) -> Corpus:
        vendor, rsa, ecdsa = self._key("vendor"), self._key("rsa", "rsa2048"), self._key("ecdsa", "nistp256")
        dsa, revoked, lost = self._key("dsa", "dsa2048"), self._key("revoked"), self._key("lost")
        expired = self._key("expired", expire="1d", options=_THEN)
        old, brief = self._key("old", options=_THEN), self._key("brief", options=_THEN)
        future = self._key("future", options=_FUTURE)
        stranger, unlisted = self._key("stranger", known=False), self._key("unlisted", purpose="")
        spoof = (
            f"x\n[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG {vendor[-16:]} v\n"
            f"[GNUPG:] VALIDSIG {vendor} 2026-01-01 1767225600 0 4 0 22 8 00 {vendor}\n"
        )
        forger = self._key("forger", purpose="channel", comment=spoof)
        expired_subkey = self._subkey(old, "1d", options=_THEN)
        lost_subkey = self._subkey(lost)
        subkey = self._subkey(brief)
        good, bad, strange = self._sign(vendor), self._sign(vendor, path=self._other), self._sign(stranger)
        signatures = {
            "good": good,
            "rsa": self._sign(rsa),
            "ecdsa": self._sign(ecdsa),
            "subkey": self._sign(subkey),
            "two": _both(good, strange),
            "two_reversed": _both(strange, good),
            "sha1": self._sign(rsa, *_WEAK, "--digest-algo", "SHA1"),
            "ripemd160": self._sign(rsa, *_WEAK, "--digest-algo", "RIPEMD160"),
            "md5": self._sign(rsa, *_WEAK, "--digest-algo", "MD5"),
            "dsa": self._sign(dsa),
            "expired_key": self._sign(expired, *_THEN),
            "expired_subkey": self._sign(expired_subkey, *_THEN),
            "revoked_key": self._sign(revoked),
            "revoked_subkey": self._sign(lost_subkey),
            "expired_signature": self._sign(brief, *_THEN, "--default-sig-expire", "1d"),
            "unknown_key": strange,
            "unlisted_key": self._sign(unlisted),
            "key_of_another_purpose": self._sign(forger),
            "bad": bad,
            "good_then_bad": _both(good, bad),
            "bad_then_good": _both(bad, good),
            "text_mode": self._sign(vendor, "--textmode"),
            "inline": self._message(vendor, "--sign"),
            "clear_signed": self._message(vendor, "--clear-sign"),
            "file_name_spoof": self._message(forger, "--set-filename", spoof, "--sign"),
            "future": self._sign(vendor, "--faked-system-time", "20980101T000000"),
            "future_key": self._sign(future, "--faked-system-time", "20990102T000000"),
            "older_than_its_key": self._sign(vendor, *_THEN, "--ignore-time-conflict"),
            "public_key": self._gpg("--armor", "--export", vendor),
            "empty": b"",
            "truncated_armour": good[: len(good) // 2],
        }
        self._revoke_key(revoked)
        self._revoke_subkey(lost)
        signers = {
            "rsa": rsa,
            "ecdsa": ecdsa,
            "subkey": brief,
            **dict.fromkeys(("good", "two", "two_reversed"), vendor),
        }
        return Corpus(self._trusted_keys(), signatures, signers)

    def _key(
        self,
        name: str,
        algorithm: str = "ed25519",
        *,
        expire: str = "never",
        options: tuple[str, ...] = (),
        known: bool = True,
        purpose: str = "release",
        comment: str = "",
    ) -> str:
        """Fingerprint of a new key; a `known` one is in the folder, one with a purpose is listed."""
        user = f"{name} {comment}<{name}@test.invalid>"
        fingerprint = self._created(*options, "--quick-gen-key", user, algorithm, "sign", expire)
        if known:
            self._known.append(fingerprint)
            self._listed += [(fingerprint, purpose)] if purpose else []
        return fingerprint

    def _subkey(self, primary: str, expire: str = "never", *, options: tuple[str, ...] = ()) -> str:
        return self._created(*options, "--quick-add-key", primary, "ed25519", "sign", expire)

    def _created(self, *argv: str) -> str:
        status = self._gpg("--status-fd", "1", *argv).decode()
        return next(line.split()[3] for line in status.splitlines() if " KEY_CREATED " in line)

    def _sign(self, key: str, *options: str, path: Path | None = None) -> bytes:
        """A detached signature by exactly this key, primary or subkey."""
        user = ("--armor", "--local-user", key + "!", "--output", "-")
        return self._gpg(*options, *user, "--detach-sign", str(path or self._data))

    def _message(self, key: str, *options: str) -> bytes:
        user = ("--armor", "--local-user", key + "!", "--output", "-")
        return self._gpg(*user, *options, str(self._data))

    def _revoke_key(self, key: str) -> None:
        certificate = (self.home / "openpgp-revocs.d" / f"{key}.rev").read_bytes()
        self._gpg("--import", stdin=certificate.replace(b":-----BEGIN", b"-----BEGIN"))

    def _revoke_subkey(self, primary: str) -> None:
        answers = b"key 1\nrevkey\ny\n0\n\ny\nsave\n"
        self._gpg("--command-fd", "0", "--edit-key", primary, stdin=answers)

    def _trusted_keys(self) -> Path:
        folder = self._folder / "trusted-keys"
        folder.mkdir()
        (folder / "all.asc").write_bytes(self._gpg("--armor", "--export", *self._known))
        lines = [f'  - {{fingerprint: "{key}", purpose: {purpose}}}' for key, purpose in self._listed]
        (folder / "fingerprints.yaml").write_text("\n".join(["fingerprints:", *lines]) + "\n")
        return folder


def _both(*signatures: bytes) -> bytes:
    return b"".join(armor.decode(text, kind="PGP SIGNATURE", name="signature") for text in signatures)
