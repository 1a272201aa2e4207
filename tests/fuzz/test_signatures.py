# SPDX-License-Identifier: Apache-2.0
"""Damaged signatures, keys and key sets: nothing but a reason to refuse, and never a signature accepted that
its owner did not make.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import strategies as st

from common import armor, gpgstatus, openpgp, trust
from common.armor import _crc24
from tests.fakes import slot_images
from tests.fakes.slot_images import Key
from tests.fuzz.hostile import Sample, damaged, explore, survives

VENDOR = "A" * 24 + "0123456789ABCDEF"
STRANGER = "B" * 40
NOW = 1_800_000_000
GOOD_LINE = f"[GNUPG:] GOODSIG {VENDOR[-16:]} vendor <vendor@example.org>"
VALID_LINE = f"[GNUPG:] VALIDSIG {VENDOR} 2026-11-23 {NOW - 99} 0 4 0 22 8 00 {VENDOR}"
LINES = [
    "[GNUPG:] NEWSIG vendor@example.org",
    f"[GNUPG:] KEY_CONSIDERED {VENDOR} 0",
    "[GNUPG:] SIG_ID abc 2026-11-23 1800000000",
    GOOD_LINE,
    VALID_LINE,
    "[GNUPG:] NEWSIG",
    f"[GNUPG:] ERRSIG {STRANGER[-16:]} 22 8 00 {NOW} 9 {STRANGER}",
    f"[GNUPG:] NO_PUBKEY {STRANGER[-16:]}",
]
OTHERS = [
    "[GNUPG:] NEWSIG",
    f"[GNUPG:] BADSIG {VENDOR[-16:]} vendor",
    f"[GNUPG:] EXPSIG {VENDOR[-16:]} vendor",
    f"[GNUPG:] EXPKEYSIG {VENDOR[-16:]} vendor",
    f"[GNUPG:] REVKEYSIG {VENDOR[-16:]} vendor",
    f"[GNUPG:] GOODSIG {STRANGER[-16:]} stranger",
    f"[GNUPG:] VALIDSIG {STRANGER} 2026-11-23 {NOW} 0 4 0 22 8 00 {STRANGER}",
    f"[GNUPG:] ERRSIG {VENDOR[-16:]} 22 8 00 {NOW} 4 {VENDOR}",
    "[GNUPG:] ERRSIG",
    "[GNUPG:] NODATA 4",
    "[GNUPG:] UNEXPECTED 0",
    "[GNUPG:] FAILURE gpgv 33554433",
    "[GNUPG:]",
    "[GNUPG:] ",
    "gpgv: Good signature",
    "\0",
]
AGAINST = re.compile(r"^\[GNUPG:\] (BADSIG|NODATA|FAILURE|UNEXPECTED)\b", re.MULTILINE)


@st.composite
def statuses(draw: st.DrawFn) -> bytes:
    """What gpgv says, with lines and words moved, removed, doubled or replaced."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(lines)))
        kind = draw(st.integers(0, 5))
        if kind == 0:
            del lines[at : at + draw(st.integers(1, 3))]
        elif kind == 1:
            lines.insert(at, draw(st.sampled_from(OTHERS)))
        elif kind == 2:
            lines.insert(at, draw(st.sampled_from(LINES)))
        elif at < len(lines):
            words = lines[at].split(" ")
            word = draw(st.integers(0, len(words) - 1))
            if kind == 3:
                del words[word]
            else:
                words[word] = draw(
                    st.sampled_from(
                        ["", "0", "-1", "1", "01", "9" * 30, "²", VENDOR, STRANGER, VENDOR[-16:]]
                    )
                    | st.text(max_size=8)
                )
            lines[at] = " ".join(words)
    return draw(st.sampled_from(["\n", "\n", "\r\n", "\n\n"])).join(lines).encode("utf-8", "replace")


def _objection(signature: gpgstatus.Signature) -> trust.UntrustedKey | None:
    if signature.fingerprint == VENDOR:
        return None
    return trust.UntrustedKey("x.asc was made with a key that is not trusted here.")


def test_changed_answers_of_gpgv_never_make_a_signature_of_a_stranger_count() -> None:
    def judge(case: bytes) -> None:
        status = case.decode("utf-8", "replace")
        found: list[gpgstatus.Accepted] = []
        survives(
            lambda: found.append(
                gpgstatus.judge(status, objection=_objection, name="x.asc", now_sec=NOW, threshold=1)
            )
        )
        for accepted in found:
            assert accepted.fingerprints == (VENDOR,)
            assert not AGAINST.search(status)
            assert "VALIDSIG" in status
            assert "GOODSIG" in status

    explore("status", statuses(), judge)


def _armoured(packets: bytes, kind: str) -> bytes:
    text = base64.encodebytes(packets).decode()
    crc = base64.b64encode(_crc24(packets).to_bytes(3, "big")).decode()
    return f"-----BEGIN {kind}-----\n\n{text}={crc}\n-----END {kind}-----\n".encode()


def _samples(texts: Sequence[bytes], kind: str) -> list[Sample]:
    """Armoured text as it is, and binary packets that are armoured again once they were damaged."""
    samples = [Sample(text) for text in texts]
    for text in texts:
        packets = armor.decode(text, kind=kind, name="sample")

        def again(data: bytearray) -> None:
            data[:] = _armoured(bytes(data), kind)

        # The heads of packets and the first bytes of their bodies, where lengths and algorithms are.
        samples.append(Sample(packets, [(at, 1) for at in range(min(12, len(packets)))], (), again))
    return samples


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return slot_images.make_key(tmp_path_factory.mktemp("gpg") / "home", "other", algorithm="rsa2048")


def test_damaged_public_keys_are_read_or_refused(key: Key, other: Key) -> None:
    def judge(case: bytes) -> None:
        def read() -> None:
            packets = armor.decode(case, kind="PGP PUBLIC KEY BLOCK", name="key.asc")
            keys = openpgp.keys(packets, name="key.asc")
            for found in keys:
                openpgp.merge([found, found])

        survives(read)

    explore("openpgp", damaged(_samples([key.public(), other.public()], "PGP PUBLIC KEY BLOCK")), judge)


def test_a_damaged_key_set_is_read_or_refused(key: Key, other: Key, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    slot_images.trust(folder, key, other, channels="stable, beta", threshold=2, revoked=(other,))
    listing = folder / "fingerprints.yaml"
    more = b", not_before: 2026-01-01, not_after: 2036-01-01, local: true}"
    good = listing.read_bytes().replace(b"}", more, 1)
    listing.write_bytes(good)
    assert trust.load(folder).threshold == 2
    odd: tuple[bytes, ...]
    odd = (b"&a [*a]", b"!!python/object:os.system {}", b"{" * 3000, b"- " * 3000, b"? ? ? :", b"<<: *a")
    odd += (
        b"epoch: 1e9",
        b"epoch: 0x7fffffffffffffffffff",
        b"epoch: 2026-13-45",
        b"\xff\xfe",
        b"a: " * 2000,
    )
    bombs = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [" % (97 + n, 97 + n) + b",".join([b"*%c" % (96 + n)] * 9) + b"]\n" for n in range(1, 12)
    )
    samples = [Sample(good), Sample(bombs), *(Sample(good + line + b"\n" + good) for line in odd)]

    def judge(case: bytes) -> None:
        listing.write_bytes(case)
        found: list[trust.TrustStore] = []
        survives(lambda: found.append(trust.load(folder)))
        for store in found:
            assert {entry.fingerprint for entry in store.keys} <= {key.fingerprint, other.fingerprint}

    explore("key-set", damaged(samples), judge)


def test_a_damaged_signature_is_accepted_only_for_its_own_key(key: Key, tmp_path: Path) -> None:
    folder, data = tmp_path / "keys", tmp_path / "data"
    slot_images.trust(folder, key)
    store = trust.load(folder)
    data.write_bytes(b"what was signed")
    signature = key.sign(data).read_bytes()

    def judge(case: bytes) -> None:
        found: list[trust.Accepted] = []
        survives(lambda: found.append(trust.verify_bytes(store, data.read_bytes(), case, name="data.asc")))
        for accepted in found:
            assert accepted.fingerprints == (key.fingerprint,)
            assert accepted.created_sec <= time.time() + gpgstatus.CLOCK_TOLERANCE_SEC
        refused = survives(lambda: trust.verify_bytes(store, b"something else", case, name="data.asc"))
        assert refused is not None

    explore("signature", damaged(_samples([signature], "PGP SIGNATURE")), judge)
