# SPDX-License-Identifier: Apache-2.0
"""When keys that gpg made can sign."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import armor, keylife
from common.errors import ConfigError
from tests.fakes import slot_images
from tests.fakes.slot_images import Key

DAY_SEC = 86400
NOW_SEC = int(time.time())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def ring(*keys: Key) -> bytes:
    return b"".join(armor.decode(key.public(), kind="PGP PUBLIC KEY BLOCK", name="key.asc") for key in keys)


def signing(*keys: Key, days: float = 1) -> frozenset[str]:
    return keylife.signing_keys(ring(*keys), at_sec=int(NOW_SEC + days * DAY_SEC), name="keyring")


def test_a_key_signs_from_its_making_to_its_expiry(home: Path) -> None:
    key = slot_images.make_key(home, "key", expire="10d")

    assert [bool(signing(key, days=days)) for days in (-1, 1, 9, 11)] == [False, True, True, False]


def test_a_key_without_expiry_signs_for_ever(home: Path) -> None:
    key = slot_images.make_key(home, "key")

    assert signing(key, days=20_000) == {key.fingerprint}


def test_each_key_of_a_ring_is_judged_by_itself(home: Path) -> None:
    brief = slot_images.make_key(home, "brief", expire="10d")
    long = slot_images.make_key(home, "long", expire="100d")

    assert signing(brief, long, days=1) == {brief.fingerprint, long.fingerprint}
    assert signing(brief, long, days=50) == {long.fingerprint}


def test_the_newest_self_signature_tells_the_expiry(home: Path) -> None:
    key = slot_images.make_key(home, "key", expire="10d")
    key.gpg(f"--faked-system-time={NOW_SEC + DAY_SEC}!", "--quick-set-expire", key.fingerprint, "100d")

    assert signing(key, days=50) == {key.fingerprint}


def test_a_revoked_key_signs_no_more(home: Path) -> None:
    key = slot_images.make_key(home, "key")
    revocation = (home / f"openpgp-revocs.d/{key.fingerprint}.rev").read_bytes()
    key.gpg("--import", stdin=revocation.replace(b":-----BEGIN", b"-----BEGIN"))

    assert signing(key) == frozenset()


def test_a_primary_key_signs_by_its_subkey(home: Path) -> None:
    key = slot_images.make_key(home, "key")
    main = Key(home, key.fingerprint)
    main.gpg("--quick-add-key", main.fingerprint, "ed25519", "sign", "10d")

    assert signing(main, days=50) == {main.fingerprint}


def test_a_primary_key_that_only_certifies_signs_as_long_as_its_subkey(home: Path) -> None:
    key = slot_images.make_key(home, "other")
    key.gpg("--quick-gen-key", "cert <cert@test.invalid>", "ed25519", "cert", "never")
    listing = key.gpg("--with-colons", "--list-keys", "cert@test.invalid").decode()
    main = Key(home, next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:")))

    assert signing(main) == frozenset()
    main.gpg("--quick-add-key", main.fingerprint, "ed25519", "sign", "10d")
    assert [bool(signing(main, days=days)) for days in (1, 11)] == [True, False]


def test_an_encryption_subkey_does_not_sign(home: Path) -> None:
    key = slot_images.make_key(home, "key", expire="10d")
    key.gpg("--quick-add-key", key.fingerprint, "cv25519", "encr", "100d")

    assert signing(key, days=50) == frozenset()


@given(raw=st.binary(max_size=200), place=st.integers(0, 300))
def test_damage_gives_the_one_error_or_an_answer(public: bytes, raw: bytes, place: int) -> None:
    data = public[:place] + raw + public[place + len(raw) :]
    try:
        assert isinstance(keylife.signing_keys(data, at_sec=NOW_SEC, name="keyring"), frozenset)
    except ConfigError as error:
        complaint = str(error)
        assert complaint.startswith("keyring ")


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return ring(slot_images.make_key(tmp_path_factory.mktemp("gpg") / "home", "key", expire="10d"))
