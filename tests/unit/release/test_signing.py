# SPDX-License-Identifier: Apache-2.0
"""Signatures by a real gpg, accepted by what servers check them with."""

from __future__ import annotations

from pathlib import Path

import pytest

from common import process, trust
from hypernet_release import signing
from hypernet_release.errors import BuildError
from tests.fakes import slot_images
from tests.fakes.slot_images import Key


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "hypernet-1.2.3.img"
    path.write_bytes(b"image" * 1000)
    return path


@pytest.fixture(scope="session")
def two_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Key, Key]:
    """Two secret keys in one GnuPG home."""
    home = tmp_path_factory.mktemp("gpg2") / "home"
    return slot_images.make_key(home, "old"), slot_images.make_key(home, "new")


def verify(store: Path, image: Path, signature: Path) -> trust.Accepted:
    with trust.Verifier(trust.load(store), signature.read_bytes(), name=signature.name) as verifier:
        verifier.write(image.read_bytes())
        return verifier.finish()


def test_a_server_with_the_key_set_of_the_build_accepts_the_signature(
    key: Key, image: Path, tmp_path: Path
) -> None:
    signer = signing.Signer(key.home, "")
    signing.write_trusted_keys(signer, tmp_path / "keys")

    assert verify(tmp_path / "keys", image, signer.sign(image)).fingerprints == (key.fingerprint,)


def test_a_server_refuses_the_signature_of_a_changed_image(key: Key, image: Path, tmp_path: Path) -> None:
    signer = signing.Signer(key.home, "")
    signing.write_trusted_keys(signer, tmp_path / "keys")
    signature = signer.sign(image)
    image.write_bytes(b"other")

    with pytest.raises(trust.BadSignature):
        verify(tmp_path / "keys", image, signature)


def test_the_signature_is_armoured_text(key: Key, image: Path) -> None:
    signature = signing.Signer(key.home, "").sign(image)

    assert signature.read_text().startswith("-----BEGIN PGP SIGNATURE-----\n")


def test_signing_again_replaces_the_signature(key: Key, image: Path, tmp_path: Path) -> None:
    signer = signing.Signer(key.home, "")
    signing.write_trusted_keys(signer, tmp_path / "keys")
    signer.sign(image)
    image.write_bytes(b"other")

    assert verify(tmp_path / "keys", image, signer.sign(image)).fingerprints == (key.fingerprint,)


def test_the_named_key_of_two_is_used(two_keys: tuple[Key, Key]) -> None:
    new = two_keys[1].fingerprint

    assert signing.Signer(two_keys[1].home, new.lower()).fingerprint == new


def test_two_keys_need_a_name(two_keys: tuple[Key, Key]) -> None:
    with pytest.raises(BuildError, match=r"^There are 2 secret keys in .*; name one in keys\.signing\.$"):
        signing.Signer(two_keys[0].home, "")


def test_a_home_without_a_secret_key_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)

    with pytest.raises(BuildError, match=r"^There is no secret key in .*/home; import the signing key"):
        signing.Signer(home, "")


def test_a_named_key_that_is_not_there_is_refused(key: Key) -> None:
    with pytest.raises(
        BuildError, match=r"^There is no secret key 0{40} in .*; import it or mend keys\.signing"
    ):
        signing.Signer(key.home, "0" * 40)


def test_a_home_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"^--gnupg-home: .*/nowhere is not a folder"):
        signing.Signer(tmp_path / "nowhere", "")


def test_a_key_that_has_expired_is_refused_with_the_words_of_gpg(image: Path, tmp_path: Path) -> None:
    old = slot_images.make_key(tmp_path / "old", "old", "--faked-system-time=20200101T000000", expire="1d")

    with pytest.raises(BuildError, match=rf"could not be signed by {old.fingerprint}: .+"):
        signing.Signer(old.home, "").sign(image)


def test_sha256sum_accepts_the_checksum_file(image: Path) -> None:
    checksum = signing.write_checksum(image)
    said = process.run(["sha256sum", "--check", "--strict", checksum.name], timeout_sec=30, cwd=image.parent)

    assert said.stdout == b"hypernet-1.2.3.img: OK\n"
