# SPDX-License-Identifier: Apache-2.0
"""Signatures: real keys and real gpgv; each reason to refuse has its own error."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import armor, trust
from common.errors import AgentError, ConfigError
from tests.fakes.slot_images import Key, make_key
from tests.fakes.slot_images import trust as trust_folder

DATA = b"an image" * 10_000
THEN = ("--faked-system-time", "20200101T000000")


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpg")


@pytest.fixture(scope="module")
def vendor(homes: Path) -> Key:
    return make_key(homes / "vendor", "vendor")


@pytest.fixture(scope="module")
def stranger(homes: Path) -> Key:
    return make_key(homes / "stranger", "stranger")


@pytest.fixture
def store(tmp_path: Path, vendor: Key) -> trust.TrustStore:
    trust_folder(tmp_path / "keys", vendor)
    return trust.load(tmp_path / "keys")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(DATA)
    return path


def verify(store: trust.TrustStore, signature: bytes, data: bytes = DATA) -> trust.Signature:
    with trust.Verifier(store, signature, name="image.asc") as verifier:
        for start in range(0, len(data), 1000):
            verifier.write(data[start : start + 1000])
        return verifier.finish()


def trusting(folder: Path, *keys: Key) -> trust.TrustStore:
    trust_folder(folder, *keys)
    return trust.load(folder)


def test_a_signature_by_a_trusted_key_is_accepted(store: trust.TrustStore, vendor: Key, data: Path) -> None:
    accepted = verify(store, vendor.sign(data).read_bytes())
    assert accepted.fingerprint == vendor.fingerprint
    assert accepted.created_sec > 0


@pytest.mark.parametrize("algorithm", ["rsa2048", "nistp256"])
def test_signatures_of_other_sound_algorithms_are_accepted(
    tmp_path: Path, homes: Path, data: Path, algorithm: str
) -> None:
    key = make_key(homes / algorithm, algorithm, algorithm=algorithm)
    assert verify(trusting(tmp_path / "k", key), key.sign(data).read_bytes()).fingerprint == key.fingerprint


def test_a_signature_by_a_subkey_counts_for_its_primary_key(tmp_path: Path, homes: Path, data: Path) -> None:
    key = make_key(homes / "sub", "sub")
    key.gpg("--quick-add-key", key.fingerprint, "ed25519", "sign", "never")
    accepted = verify(trusting(tmp_path / "k", key), key.sign(data).read_bytes())
    assert accepted.fingerprint == key.fingerprint


@pytest.mark.parametrize("order", ["vendor first", "stranger first"])
def test_a_second_signature_by_a_stranger_does_no_harm(
    store: trust.TrustStore, vendor: Key, stranger: Key, data: Path, order: str
) -> None:
    keys = (vendor, stranger) if order == "vendor first" else (stranger, vendor)
    raw = b"".join(armor.decode(key.sign(data).read_bytes(), kind="PGP SIGNATURE", name="x") for key in keys)
    assert verify(store, raw).fingerprint == vendor.fingerprint


def test_other_data_is_a_bad_signature(store: trust.TrustStore, vendor: Key, data: Path) -> None:
    with pytest.raises(trust.BadSignature, match="does not fit"):
        verify(store, vendor.sign(data).read_bytes(), DATA + b"x")


def test_a_good_and_a_bad_signature_together_are_refused(
    store: trust.TrustStore, vendor: Key, data: Path
) -> None:
    good = armor.decode(vendor.sign(data).read_bytes(), kind="PGP SIGNATURE", name="x")
    data.write_bytes(b"other")
    bad = armor.decode(vendor.sign(data).read_bytes(), kind="PGP SIGNATURE", name="x")
    for raw in (good + bad, bad + good):
        with pytest.raises(trust.BadSignature):
            verify(store, raw)


def test_a_key_that_is_not_here_is_untrusted(store: trust.TrustStore, stranger: Key, data: Path) -> None:
    with pytest.raises(trust.UntrustedKey, match=stranger.fingerprint):
        verify(store, stranger.sign(data).read_bytes())


def test_a_key_that_is_here_but_not_listed_is_untrusted(
    tmp_path: Path, vendor: Key, stranger: Key, data: Path
) -> None:
    trust_folder(tmp_path / "k", vendor, stranger, listed=(vendor,))
    with pytest.raises(trust.UntrustedKey, match=stranger.fingerprint):
        verify(trust.load(tmp_path / "k"), stranger.sign(data).read_bytes())


def test_a_key_for_another_purpose_is_untrusted(tmp_path: Path, vendor: Key, data: Path) -> None:
    trust_folder(tmp_path / "k", vendor)
    listing = tmp_path / "k" / "fingerprints.yaml"
    listing.write_text(listing.read_text().replace("release", "channel"))
    with pytest.raises(trust.UntrustedKey):
        verify(trust.load(tmp_path / "k"), vendor.sign(data).read_bytes())


def test_an_expired_key_has_its_own_error(tmp_path: Path, homes: Path, data: Path) -> None:
    key = make_key(homes / "expired", "expired", *THEN, expire="1d")
    signature = key.sign(data, *THEN).read_bytes()
    with pytest.raises(trust.KeyExpired):
        verify(trusting(tmp_path / "k", key), signature)


def test_a_revoked_key_has_its_own_error(tmp_path: Path, homes: Path, data: Path) -> None:
    key = make_key(homes / "revoked", "revoked")
    signature = key.sign(data).read_bytes()
    certificate = key.home / "openpgp-revocs.d" / f"{key.fingerprint}.rev"
    key.gpg("--import", stdin=certificate.read_bytes().replace(b":-----BEGIN", b"-----BEGIN"))
    with pytest.raises(trust.KeyRevoked):
        verify(trusting(tmp_path / "k", key), signature)


def test_an_expired_signature_has_its_own_error(
    store: trust.TrustStore, homes: Path, tmp_path: Path, data: Path
) -> None:
    key = make_key(homes / "brief", "brief", *THEN)
    signature = key.sign(data, *THEN, "--default-sig-expire", "1d").read_bytes()
    with pytest.raises(trust.SignatureExpired):
        verify(trusting(tmp_path / "k", key), signature)


def test_a_signature_from_the_future_points_to_the_clock(
    store: trust.TrustStore, vendor: Key, data: Path
) -> None:
    signature = vendor.sign(data, "--faked-system-time", "20990101T000000").read_bytes()
    with pytest.raises(trust.BadSignature, match="clock"):
        verify(store, signature)


@pytest.mark.parametrize("digest", ["SHA1", "RIPEMD160"])
def test_a_weak_digest_has_its_own_error(tmp_path: Path, homes: Path, data: Path, digest: str) -> None:
    key = make_key(homes / "weak", "weak" + digest.lower(), algorithm="rsa2048")
    signature = key.sign(data, "--digest-algo", digest).read_bytes()
    with pytest.raises(trust.WeakDigest):
        verify(trusting(tmp_path / "k", key), signature)


@pytest.mark.parametrize(
    "signature", [b"", b" \n", b"hello", b"-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n"]
)
def test_something_that_holds_no_signature_has_its_own_error(
    store: trust.TrustStore, signature: bytes
) -> None:
    with pytest.raises(trust.NoSignature):
        verify(store, signature)


@pytest.mark.parametrize("mode", ["--sign", "--clear-sign"])
def test_a_signed_message_in_place_of_a_detached_signature_is_refused(
    store: trust.TrustStore, vendor: Key, data: Path, mode: str
) -> None:
    message = vendor.gpg("--armor", "--local-user", vendor.fingerprint, mode, "--output", "-", str(data))
    with pytest.raises(trust.BadSignature):
        verify(store, message[: trust.MAX_SIGNATURE_BYTES])


def test_an_overlong_signature_is_not_looked_at(store: trust.TrustStore) -> None:
    with pytest.raises(trust.BadSignature, match="at most"):
        verify(store, b"x" * (trust.MAX_SIGNATURE_BYTES + 1))


def test_a_folder_without_keys_trusts_nobody(tmp_path: Path, vendor: Key) -> None:
    trust_folder(tmp_path / "k", vendor)
    (tmp_path / "k" / "key0.asc").unlink()
    with pytest.raises(trust.UntrustedKey, match="No key is trusted"):
        trust.load(tmp_path / "k")


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda text: text[: len(text) // 2], "holds no whole"),
        (lambda text: text.replace("BEGIN PGP PUBLIC", "BEGIN PGP PRIVATE"), "another kind of block"),
        (lambda text: text.replace("=", "=A", 1)[:-1], "damaged|checksum|whole"),
        (lambda text: "", "holds no whole"),
    ],
)
def test_a_damaged_key_file_is_named_and_nothing_is_trusted(
    tmp_path: Path, vendor: Key, damage: object, error: str
) -> None:
    trust_folder(tmp_path / "k", vendor)
    path = tmp_path / "k" / "key0.asc"
    path.write_text(damage(path.read_text()))  # type: ignore[operator]
    with pytest.raises(ConfigError, match=error) as caught:
        trust.load(tmp_path / "k")
    assert "key0.asc" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["fingerprints: 3", "fingerprints: [{fingerprint: abc, purpose: release}]", "other: 1"]
)
def test_a_wrong_list_of_fingerprints_is_named(tmp_path: Path, vendor: Key, text: str) -> None:
    trust_folder(tmp_path / "k", vendor)
    (tmp_path / "k" / "fingerprints.yaml").write_text(text + "\n")
    with pytest.raises(ConfigError, match=r"fingerprints\.yaml"):
        trust.load(tmp_path / "k")


FPR = "A" * 40
GOOD = f"[GNUPG:] GOODSIG {FPR[:16]} v\n[GNUPG:] VALIDSIG {FPR} 2026-01-01 1767225600 0 4 0 22 10 00 {FPR}\n"


def test_the_plain_good_case_is_accepted() -> None:
    assert trust.judge("[GNUPG:] NEWSIG\n" + GOOD, allowed={FPR}, name="x") == trust.Signature(
        FPR, 1767225600
    )


@pytest.mark.parametrize(
    "status",
    [
        "",
        "GOODSIG\n",
        GOOD,
        "[GNUPG:] NEWSIG\n",
        "[GNUPG:] NEWSIG\n" + GOOD + GOOD,
        "[GNUPG:] NEWSIG\n" + GOOD.replace(" 00 ", " 01 "),
        "[GNUPG:] NEWSIG\n" + GOOD.replace(" 22 10 ", " 22 2 "),
        "[GNUPG:] NEWSIG\n" + GOOD.replace(" 22 10 ", " 17 10 "),
        "[GNUPG:] NEWSIG\n" + GOOD.replace("GOODSIG A", "GOODSIG B"),
        "[GNUPG:] NEWSIG\n" + GOOD.replace("VALIDSIG", "VALIDSIGS"),
        "[GNUPG:] NEWSIG\n" + GOOD + "[GNUPG:] EXPKEYSIG A v\n",
        "[GNUPG:] NEWSIG\n" + GOOD + "[GNUPG:] NEWSIG\n[GNUPG:] BADSIG A v\n",
        "[GNUPG:] NEWSIG\n" + GOOD + "[GNUPG:] FAILURE gpgv 1\n",
        "[GNUPG:] NEWSIG\n" + GOOD.replace("\n", " extra\n"),
        "text [GNUPG:] NEWSIG\n" + GOOD,
    ],
)
def test_anything_but_the_plain_good_case_is_refused(status: str) -> None:
    with pytest.raises(AgentError):
        trust.judge(status, allowed={FPR}, name="x")


WORDS = [
    "NEWSIG",
    "GOODSIG",
    "VALIDSIG",
    "BADSIG",
    "ERRSIG",
    "EXPSIG",
    "EXPKEYSIG",
    "REVKEYSIG",
    "NO_PUBKEY",
    "NODATA",
]


@given(st.lists(st.tuples(st.sampled_from(WORDS), st.lists(st.text("0129AF ", max_size=5), max_size=11))))
def test_no_status_lines_make_the_judge_fail_otherwise_than_with_its_own_error(
    lines: list[tuple[str, list[str]]],
) -> None:
    status = "\n".join(" ".join(["[GNUPG:]", word, *fields]) for word, fields in lines)
    with contextlib.suppress(AgentError):
        assert trust.judge(status, allowed={FPR}, name="x").fingerprint == FPR


@given(
    st.binary(max_size=400)
    | st.text().map(lambda text: f"-----BEGIN K-----\n{text}\n-----END K-----".encode())
)
def test_no_armour_makes_its_reader_fail_otherwise_than_with_its_own_error(text: bytes) -> None:
    with contextlib.suppress(ConfigError):
        armor.decode(text, kind="K", name="x")
