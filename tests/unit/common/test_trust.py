# SPDX-License-Identifier: Apache-2.0
"""Verdicts of the real gpgv under the rules of the trusted keys: each rule refuses, and each lets pass."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from common import armor, process, trust
from tests.fakes.slot_images import Key, make_key
from tests.fakes.slot_images import trust as trust_folder

DATA = b"an image" * 10_000
DAY = 86400


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpg")


@pytest.fixture(scope="module")
def vendor(homes: Path) -> Key:
    return make_key(homes / "vendor", "vendor")


@pytest.fixture(scope="module")
def second(homes: Path) -> Key:
    return make_key(homes / "second", "second")


@pytest.fixture(scope="module")
def data(homes: Path) -> Path:
    path = homes / "image"
    path.write_bytes(DATA)
    return path


@pytest.fixture(scope="module")
def signed(vendor: Key, data: Path) -> bytes:
    return vendor.sign(data).read_bytes()


@pytest.fixture(scope="module")
def signed_by_both(vendor: Key, second: Key, data: Path) -> bytes:
    texts = [key.sign(data).read_bytes() for key in (vendor, second)]
    return b"".join(armor.decode(text, kind="PGP SIGNATURE", name="x") for text in texts)


@pytest.fixture(scope="module")
def store(homes: Path, vendor: Key, second: Key) -> trust.TrustStore:
    trust_folder(homes / "keys", vendor, second)
    return trust.load(homes / "keys")


def verify(
    store: trust.TrustStore,
    signature: bytes,
    *,
    purpose: str = "release",
    channel: str = "",
    now_sec: float | None = None,
) -> trust.Accepted:
    return trust.verify_bytes(
        store, DATA, signature, name="image.asc", purpose=purpose, channel=channel, now_sec=now_sec
    )


def changed(store: trust.TrustStore, **changes: object) -> trust.TrustStore:
    """The store with all its keys changed."""
    return replace(store, keys=tuple(replace(key, **changes) for key in store.keys))  # type: ignore[arg-type]


def test_data_may_come_in_pieces(store: trust.TrustStore, vendor: Key, signed: bytes) -> None:
    with trust.Verifier(store, signed, name="image.asc") as verifier:
        for start in range(0, len(DATA), 999):
            verifier.write(memoryview(DATA)[start : start + 999])
        accepted = verifier.finish()

    assert accepted.fingerprints == (vendor.fingerprint,)
    assert accepted.created_sec > 0


def test_data_that_is_longer_than_what_was_signed_is_refused(store: trust.TrustStore, signed: bytes) -> None:
    with pytest.raises(trust.BadSignature, match=r"image\.asc does not fit image: "):
        trust.verify_bytes(store, DATA + b"x", signed, name="image.asc")


def test_two_keys_reach_a_threshold_of_two(
    store: trust.TrustStore, vendor: Key, second: Key, signed_by_both: bytes
) -> None:
    accepted = verify(replace(store, threshold=2), signed_by_both)

    assert set(accepted.fingerprints) == {vendor.fingerprint, second.fingerprint}


def test_one_key_does_not_reach_a_threshold_of_two(store: trust.TrustStore, signed: bytes) -> None:
    with pytest.raises(trust.TooFewSignatures):
        verify(replace(store, threshold=2), signed)


def test_one_key_that_signs_twice_does_not_reach_a_threshold_of_two(
    store: trust.TrustStore, signed: bytes
) -> None:
    packets = armor.decode(signed, kind="PGP SIGNATURE", name="x")
    with pytest.raises(trust.TooFewSignatures):
        verify(replace(store, threshold=2), packets + packets)


def test_a_revoked_key_does_not_count_towards_the_threshold(
    store: trust.TrustStore, second: Key, signed_by_both: bytes
) -> None:
    with pytest.raises(trust.TooFewSignatures):
        verify(replace(store, threshold=2, revoked=frozenset({second.fingerprint})), signed_by_both)


def test_the_threshold_is_for_releases_only(store: trust.TrustStore, signed: bytes) -> None:
    online = changed(replace(store, threshold=2), purpose="channel")

    assert len(verify(online, signed, purpose="channel").fingerprints) == 1


def test_a_key_that_is_listed_as_revoked_is_refused(
    store: trust.TrustStore, vendor: Key, signed: bytes
) -> None:
    with pytest.raises(trust.KeyRevoked, match=f"{vendor.fingerprint}, which is listed as revoked"):
        verify(replace(store, revoked=frozenset({vendor.fingerprint})), signed)


def test_the_revocation_of_another_key_does_no_harm(
    store: trust.TrustStore, second: Key, signed: bytes
) -> None:
    assert verify(replace(store, revoked=frozenset({second.fingerprint})), signed)


def test_a_key_for_another_purpose_is_refused(store: trust.TrustStore, signed: bytes) -> None:
    with pytest.raises(trust.UntrustedKey, match="another purpose than 'channel'"):
        verify(store, signed, purpose="channel")


def test_a_key_may_have_two_purposes(store: trust.TrustStore, signed: bytes) -> None:
    both = replace(store, keys=store.keys + changed(store, purpose="channel").keys)

    assert verify(both, signed, purpose="channel")
    assert verify(both, signed, purpose="release")


def test_a_key_for_another_channel_is_refused(store: trust.TrustStore, signed: bytes) -> None:
    with pytest.raises(trust.UntrustedKey, match="not trusted for the channel 'beta'"):
        verify(store, signed, channel="beta")


@pytest.mark.parametrize("channels", [("stable",), ("beta", "stable"), ()])
def test_a_key_for_the_channel_or_for_all_is_accepted(
    store: trust.TrustStore, signed: bytes, channels: tuple[str, ...]
) -> None:
    assert verify(changed(store, channels=channels), signed, channel="stable")


def test_a_key_is_trusted_from_not_before_on(store: trust.TrustStore, signed: bytes) -> None:
    created = verify(store, signed).created_sec

    assert verify(changed(store, not_before_sec=created), signed)
    with pytest.raises(trust.KeyExpired, match="is trusted only from 2"):
        verify(changed(store, not_before_sec=created + 1), signed, now_sec=created + DAY)


def test_a_key_is_trusted_until_not_after(store: trust.TrustStore, signed: bytes) -> None:
    created = verify(store, signed).created_sec
    limited = changed(store, not_after_sec=created + DAY)

    assert verify(limited, signed, now_sec=created + DAY)
    with pytest.raises(trust.KeyExpired, match="is trusted only until 2"):
        verify(limited, signed, now_sec=created + DAY + 1)


def test_a_key_that_is_over_by_its_own_signature_is_refused_whatever_the_clock_says(
    store: trust.TrustStore, signed: bytes
) -> None:
    created = verify(store, signed).created_sec
    with pytest.raises(trust.KeyExpired):
        verify(changed(store, not_after_sec=created - 1), signed, now_sec=created - 10)


def test_a_key_expires_by_the_time_of_the_caller_even_if_the_clock_is_behind(
    tmp_path: Path, data: Path
) -> None:
    key = make_key(tmp_path / "gpg", "brief", expire="1d")
    trust_folder(tmp_path / "keys", key)
    store, signature = trust.load(tmp_path / "keys"), key.sign(data).read_bytes()
    created = verify(store, signature).created_sec

    assert verify(store, signature, now_sec=created + DAY / 2)
    with pytest.raises(trust.KeyExpired, match=f"{key.fingerprint}, which has expired"):
        verify(store, signature, now_sec=created + 2 * DAY)


def test_a_clock_that_is_an_hour_behind_is_no_reason_to_refuse(
    store: trust.TrustStore, signed: bytes
) -> None:
    created = verify(store, signed).created_sec

    assert verify(changed(store, not_before_sec=created), signed, now_sec=created - 3600)
    with pytest.raises(trust.BadSignature, match="set this machine's clock"):
        verify(store, signed, now_sec=created - 2 * DAY)


@pytest.mark.parametrize("signature", [b"", b" \n", b"hello", b"\0" * 100])
def test_something_that_holds_no_signature_has_its_own_error(
    store: trust.TrustStore, signature: bytes
) -> None:
    with pytest.raises(trust.NoSignature):
        verify(store, signature)


def test_an_overlong_signature_is_not_looked_at(store: trust.TrustStore) -> None:
    with pytest.raises(trust.BadSignature, match="at most"):
        verify(store, b"x" * (trust.MAX_SIGNATURE_BYTES + 1))


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("kill -9 $$", "died of signal 9"),
        ("exit 0", "no signature that gpgv can judge"),
        ("cat >&2", "no signature that gpgv can judge"),
        ("exec sleep 60", "took longer than 0.5 s"),
    ],
)
def test_a_gpgv_that_gives_no_answer_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    store: trust.TrustStore,
    signed: bytes,
    script: str,
    complaint: str,
) -> None:
    gpgv = tmp_path / "gpgv"
    gpgv.write_text(f"#!/bin/sh\n{script}\n")
    gpgv.chmod(0o755)
    path = f"{tmp_path}:{process.BASE_ENVIRONMENT['PATH']}"
    monkeypatch.setattr(process, "BASE_ENVIRONMENT", {**process.BASE_ENVIRONMENT, "PATH": path})
    assert shutil.which("gpgv", path=path) == str(gpgv)
    monkeypatch.setattr(trust, "_BYTES_TIMEOUT_SEC", 0.5)

    with pytest.raises(trust.BadSignature, match=complaint):
        verify(store, signed)
