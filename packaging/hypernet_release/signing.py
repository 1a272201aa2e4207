# SPDX-License-Identifier: Apache-2.0
"""Checksums, signatures and the trusted key set that goes into an image (python-gnupg)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import gnupg

from common import files
from hypernet_release.errors import BuildError

_CHUNK = 4 << 20


class Signer:
    """A secret key in a GnuPG home."""

    def __init__(self, home: Path | None, fingerprint: str) -> None:
        """fingerprint: 40 hex digits, or empty for the home's only secret key. Raises BuildError if there is no such key."""
        self._gpg = gnupg.GPG(gnupghome=str(home) if home else None)
        where = home or "the GnuPG home"
        keys = [key["fingerprint"] for key in self._gpg.list_keys(secret=True)]
        if fingerprint and fingerprint.upper() not in keys:
            raise BuildError(f"{where} has no secret key {fingerprint}; import it or mend keys.signing")
        if not fingerprint and len(keys) != 1:
            raise BuildError(f"{where} has {len(keys)} secret keys; name the signing key's fingerprint in keys.signing")
        self.fingerprint: str = fingerprint.upper() or keys[0]

    def public_key(self) -> str:
        """The armoured public key."""
        return str(self._gpg.export_keys(self.fingerprint))

    def sign(self, image: Path) -> Path:
        """Write IMAGE.asc, a detached armoured signature with a SHA-512 digest; returns its path."""
        signature = image.with_name(image.name + ".asc")
        with image.open("rb") as stream:
            result = self._gpg.sign_file(
                stream,
                keyid=self.fingerprint,
                detach=True,
                clearsign=False,
                binary=False,
                output=str(signature),
                extra_args=["--digest-algo", "SHA512", "--yes"],
            )
        if result.status != "signature created" or not signature.exists():
            raise BuildError(f"{image.name} could not be signed by {self.fingerprint}: gpg says {result.status!r}")
        return signature


def write_checksum(image: Path) -> Path:
    """Write IMAGE.sha256 in the format of sha256sum(1); returns its path."""
    digest = hashlib.sha256()
    with image.open("rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    checksum = image.with_name(image.name + ".sha256")
    files.write_atomic(checksum, f"{digest.hexdigest()}  {image.name}\n".encode())
    return checksum


def write_trusted_keys(signer: Signer, folder: Path) -> None:
    """Make a trusted key set with one key, the signer's: NAME.asc and fingerprints.yaml."""
    folder.mkdir(parents=True)
    (folder / "release.asc").write_text(signer.public_key())
    (folder / "fingerprints.yaml").write_text(
        "# Primary keys whose signatures this machine accepts, see trusted-keys(5).\n"
        f"fingerprints:\n  - fingerprint: {signer.fingerprint}\n    purpose: release\n    channels: [stable]\n"
    )
