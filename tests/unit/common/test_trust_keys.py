# SPDX-License-Identifier: Apache-2.0
"""Key files: armour and packets, as gpg writes them and as nobody should."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import armor, openpgp, process
from common.errors import ConfigError
from tests.fakes.slot_images import Key, make_key

KIND = "PGP PUBLIC KEY BLOCK"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Key, Key]:
    home = tmp_path_factory.mktemp("gpg") / "home"
    return make_key(home, "one"), make_key(home, "two", algorithm="rsa2048")


def public(key: Key, *fingerprints: str) -> bytes:
    return key.gpg("--export", *(fingerprints or (key.fingerprint,)))


def test_the_keys_of_a_file_are_found_with_the_fingerprints_that_gpg_shows(pair: tuple[Key, Key]) -> None:
    one, two = pair
    data = public(one, one.fingerprint, two.fingerprint)
    found = openpgp.keys(data, name="x")

    assert {key.fingerprint for key in found} == {one.fingerprint, two.fingerprint}
    assert b"".join(packet.raw for key in found for packet in key.packets) == data


def test_armour_holds_the_same_packets(pair: tuple[Key, Key]) -> None:
    one = pair[0]

    assert armor.decode(one.public(), kind=KIND, name="x") == public(one)


def test_packets_with_headers_of_the_new_form_are_understood(pair: tuple[Key, Key]) -> None:
    one = pair[0]
    (key,) = openpgp.keys(public(one), name="x")
    for length in (
        lambda size: bytes([size]) if size < 192 else bytes([192 + ((size - 192) >> 8), (size - 192) & 255]),
        lambda size: b"\xff" + size.to_bytes(4, "big"),
    ):
        data = b"".join(
            bytes([0xC0 | packet.tag]) + length(len(packet.body)) + packet.body for packet in key.packets
        )
        (found,) = openpgp.keys(data, name="x")
        assert found.fingerprint == one.fingerprint
        assert [packet.body for packet in found.packets] == [packet.body for packet in key.packets]


def test_the_sum_of_copies_of_a_key_is_a_key_with_all_that_any_of_them_has(tmp_path: Path) -> None:
    key = make_key(tmp_path / "home", "key")
    first = public(key)
    key.gpg("--quick-add-uid", key.fingerprint, "other <other@test.invalid>")
    second = public(key)
    key.gpg("--quick-add-key", key.fingerprint, "ed25519", "sign", "never")
    third = public(key)
    copies = [openpgp.keys(data, name="x")[0] for data in (third, first, second, first)]
    merged = openpgp.merge(copies)

    (found,) = openpgp.keys(merged, name="x")
    (newest,) = openpgp.keys(third, name="x")
    assert {packet.body for packet in newest.packets} <= {packet.body for packet in found.packets}
    shown = process.run(
        ["gpg", "--show-keys", "--with-colons"], timeout_sec=30, stdin=merged
    ).stdout.decode()
    records = [line.split(":")[0] for line in shown.splitlines()]
    assert (records.count("pub"), records.count("uid"), records.count("sub")) == (1, 2, 1)


def test_one_copy_of_a_key_stays_as_it_is(pair: tuple[Key, Key]) -> None:
    for key in pair:
        data = public(key)
        assert openpgp.merge(openpgp.keys(data, name="x")) == data


def test_a_secret_key_is_refused(pair: tuple[Key, Key]) -> None:
    with pytest.raises(ConfigError, match="x holds a secret key"):
        openpgp.keys(pair[0].gpg("--export-secret-keys", pair[0].fingerprint), name="x")


def test_a_part_of_a_key_is_refused(pair: tuple[Key, Key]) -> None:
    data = public(pair[0])
    for length in range(1, len(data)):
        with contextlib.suppress(ConfigError):
            (key,) = openpgp.keys(data[:length], name="x")
            # Only what ends between two packets is read at all.
            assert b"".join(packet.raw for packet in key.packets) == data[:length]


def test_packets_before_the_first_key_are_refused(pair: tuple[Key, Key]) -> None:
    (key,) = openpgp.keys(public(pair[0]), name="x")
    with pytest.raises(ConfigError, match="x holds no whole public key"):
        openpgp.keys(key.packets[1].raw + public(pair[0]), name="x")


def test_keys_of_other_versions_are_passed_over(pair: tuple[Key, Key]) -> None:
    assert openpgp.keys(b"\x98\x02\x05\x00" + public(pair[0]), name="x") == openpgp.keys(
        public(pair[0]), name="x"
    )


@given(st.binary(max_size=200))
def test_no_packets_make_their_reader_fail_otherwise_than_with_its_own_error(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        for key in openpgp.keys(data, name="x"):
            openpgp.merge([key, key])


@given(
    st.binary(max_size=400)
    | st.text().map(lambda text: f"-----BEGIN K-----\n{text}\n-----END K-----".encode())
    | st.text("PGP-BEGIN \nK:=AAx").map(
        lambda text: f"-----BEGIN PGP K-----\n{text}\n-----END PGP K-----".encode()
    )
)
def test_no_armour_makes_its_reader_fail_otherwise_than_with_its_own_error(text: bytes) -> None:
    with contextlib.suppress(ConfigError):
        armor.decode(text, kind="PGP K", name="x")
