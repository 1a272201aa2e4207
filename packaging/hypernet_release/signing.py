# SPDX-License-Identifier: Apache-2.0
"""Checksums, signatures and the trusted key set that goes into an image (python-gnupg)."""

from __future__ import annotations

from pathlib import Path

import gnupg

from common import files
from hypernet_release import tools
from hypernet_release.cache import file_digest
from hypernet_release.errors import BuildError


class Signer:
    """A secret key in a GnuPG home."""

    def __init__(self, home: Path | None, fingerprint: str) -> None:
        """home: None for the user's own. fingerprint: 40 hex digits, or empty for the home's only key.

        Raises BuildError if there is no such key, ToolError without gpg.
        """
        tools.require(["gpg"])
        if home is not None and not home.is_dir():
            raise BuildError(f"--gnupg-home: {home} is not a folder; name the one with the signing key.")
        self._gpg = gnupg.GPG(gnupghome=str(home) if home else None)
        where = home or "your GnuPG home"
        keys = [str(key["fingerprint"]) for key in self._gpg.list_keys(secret=True)]
        if fingerprint and fingerprint.upper() not in keys:
            raise BuildError(
                f"There is no secret key {fingerprint} in {where}; import it or mend keys.signing."
            )
        if not keys:
            raise BuildError(f"There is no secret key in {where}; import the signing key, or --gnupg-home.")
        if not fingerprint and len(keys) > 1:
            raise BuildError(f"There are {len(keys)} secret keys in {where}; name one in keys.signing.")
        self.fingerprint = fingerprint.upper() or keys[0]

    def public_key(self) -> str:
        """The armoured public key."""
        return str(self._gpg.export_keys(self.fingerprint))

    def sign(self, path: Path) -> Path:
        """Write PATH.asc, a detached armoured signature with a SHA-512 digest; returns its path."""
        signature = path.with_name(path.name + ".asc")
        with path.open("rb") as stream:
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
            said = [line for line in str(result.stderr).splitlines() if line.startswith("gpg: ")]
            why = said[-1].removeprefix("gpg: ") if said else f"gpg says '{result.status}'"
            raise BuildError(f"{path.name} could not be signed by {self.fingerprint}: {why}.")
        return signature


def write_checksum(image: Path) -> Path:
    """Write IMAGE.sha256 in the format of sha256sum(1); returns its path."""
    checksum = image.with_name(image.name + ".sha256")
    files.write_atomic(checksum, f"{file_digest(image)}  {image.name}\n".encode())
    return checksum


def write_trusted_keys(signer: Signer, folder: Path, channel: str = "stable") -> None:
    """Make a trusted key set with one key, the signer's: release.asc and fingerprints.yaml."""
    folder.mkdir(parents=True)
    (folder / "release.asc").write_text(signer.public_key())
    (folder / "fingerprints.yaml").write_text(
        "# Primary keys whose signatures this machine accepts, see trusted-keys(5).\n"
        "epoch: 1\n"
        "threshold: 1\n"
        "fingerprints:\n"
        f'  - fingerprint: "{signer.fingerprint}"\n'
        "    purpose: release\n"
        f"    channels: [{channel}]\n"
    )
