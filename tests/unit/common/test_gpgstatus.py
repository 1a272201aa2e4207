# SPDX-License-Identifier: Apache-2.0
"""The verdict on gpgv's status lines, whatever they are."""

from __future__ import annotations

import contextlib
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import gpgstatus
from common.errors import AgentError
from common.gpgstatus import Accepted, Signature

A, B = "A" * 40, "B" * 40
CREATED = 1767225600
NOW = CREATED + 1000


def good(key: str = A, *, created: int = CREATED, expires: int = 0) -> str:
    return (
        f"[GNUPG:] NEWSIG\n[GNUPG:] KEY_CONSIDERED {key} 0\n[GNUPG:] GOODSIG {key[:16]} v <v@x>\n"
        f"[GNUPG:] VALIDSIG {key} 2026-01-01 {created} {expires} 4 0 22 10 00 {key}\n"
    )


def unknown(key: str = B, code: str = "9") -> str:
    return f"[GNUPG:] NEWSIG\n[GNUPG:] ERRSIG {key[:16]} 22 10 00 {CREATED} {code} {key}\n"


def only(*allowed: str) -> gpgstatus.Objection:
    def objection(signature: Signature) -> AgentError | None:
        return None if signature.fingerprint in allowed else gpgstatus.UntrustedKey("not listed")

    return objection


def judge(status: str, *allowed: str, threshold: int = 1, now_sec: float = NOW) -> Accepted:
    return gpgstatus.judge(
        status, objection=only(*(allowed or (A,))), name="x.asc", now_sec=now_sec, threshold=threshold
    )


def test_the_plain_good_case_is_accepted() -> None:
    assert judge(good()) == Accepted((A,), CREATED)


@pytest.mark.parametrize(
    "status",
    [
        "",
        "GOODSIG\n",
        good().replace("[GNUPG:] NEWSIG\n", ""),
        "[GNUPG:] NEWSIG\n",
        good() + good().replace("[GNUPG:] NEWSIG\n", ""),
        good().replace("[GNUPG:] NEWSIG\n", "") + good(),
        good().replace(" 00 ", " 01 "),
        good().replace(" 22 10 ", " 22 2 "),
        good().replace(" 22 10 ", " 22 11 "),
        good().replace(" 22 10 ", " 17 10 "),
        good().replace("GOODSIG A", "GOODSIG B"),
        good().replace(f"GOODSIG {A[:16]}", "GOODSIG A"),
        good().replace("GOODSIG", "GOODSIGS"),
        good().replace("VALIDSIG", "VALIDSIGS"),
        good() + "[GNUPG:] EXPKEYSIG A v\n",
        good() + "[GNUPG:] EXPSIG A v\n",
        good() + "[GNUPG:] REVKEYSIG A v\n",
        good() + "[GNUPG:] NO_PUBKEY A\n",
        good() + "[GNUPG:] NEWSIG\n[GNUPG:] BADSIG B v\n",
        "[GNUPG:] NEWSIG\n[GNUPG:] BADSIG B v\n" + good(),
        good() + "[GNUPG:] FAILURE gpgv 1\n",
        good() + "[GNUPG:] NODATA 4\n",
        good() + "[GNUPG:] UNEXPECTED 0\n",
        good().replace("\n", " extra\n"),
        good().replace(str(CREATED), "²"),
        good().replace(str(CREATED), "9" * 5000),
        good().replace(f"00 {A}", f"00 {A.lower()}"),
        good().replace(f"00 {A}", "00 " + "é" * 40),
        good().replace(f"00 {A}", f"00 {B}"),
        good().replace("[GNUPG:] ", "gpgv: [GNUPG:] "),
        good().replace("[GNUPG:] ", "[GNUPG:]"),
    ],
)
def test_anything_but_the_plain_good_case_is_refused(status: str) -> None:
    with pytest.raises(AgentError):
        judge(status)


def test_a_signature_by_a_stranger_beside_a_good_one_does_no_harm() -> None:
    for order in permutations((good(), unknown(), unknown(B, "4"), good(B))):
        assert judge("".join(order)) == Accepted((A,), CREATED)


def test_two_keys_reach_a_threshold_of_two_in_any_order() -> None:
    for order in permutations((good(A), good(B, created=CREATED + 5), unknown("C" * 40))):
        assert judge("".join(order), A, B, threshold=2) == Accepted((A, B), CREATED + 5)


@pytest.mark.parametrize("status", [good(), good() + good(created=CREATED + 1), good() + good("C" * 40)])
def test_one_key_does_not_reach_a_threshold_of_two_however_often_it_signs(status: str) -> None:
    with pytest.raises(gpgstatus.TooFewSignatures, match=r"of 1 of the trusted keys, 2 are needed"):
        judge(status, A, B, threshold=2)


def test_the_same_key_twice_counts_as_one_with_the_newest_time() -> None:
    assert judge(good() + good(created=CREATED + 1)) == Accepted((A,), CREATED + 1)


def test_a_threshold_of_zero_still_needs_a_signature() -> None:
    with pytest.raises(gpgstatus.UntrustedKey):
        judge(good(B), threshold=0)


def test_a_signature_may_come_from_a_clock_that_is_a_day_ahead_but_no_more() -> None:
    assert judge(good(), now_sec=CREATED - gpgstatus.CLOCK_TOLERANCE_SEC).created_sec == CREATED
    with pytest.raises(gpgstatus.BadSignature, match="clock"):
        judge(good(), now_sec=CREATED - gpgstatus.CLOCK_TOLERANCE_SEC - 1)


def test_a_signature_expires_by_the_time_of_the_caller() -> None:
    assert judge(good(expires=NOW + 1)).created_sec == CREATED
    with pytest.raises(gpgstatus.SignatureExpired):
        judge(good(expires=NOW))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("[GNUPG:] NEWSIG\n[GNUPG:] REVKEYSIG A v\n", gpgstatus.KeyRevoked),
        ("[GNUPG:] NEWSIG\n[GNUPG:] EXPKEYSIG A v\n", gpgstatus.KeyExpired),
        ("[GNUPG:] NEWSIG\n[GNUPG:] EXPSIG A v\n", gpgstatus.SignatureExpired),
        (unknown(A, "5"), gpgstatus.WeakDigest),
        (unknown(A, "6"), gpgstatus.BadSignature),
        (unknown(A, "39"), gpgstatus.BadSignature),
        (unknown(A, "9"), gpgstatus.UntrustedKey),
        ("[GNUPG:] NEWSIG\n[GNUPG:] NO_PUBKEY AA\n", gpgstatus.UntrustedKey),
        ("[GNUPG:] NODATA 4\n", gpgstatus.NoSignature),
        ("[GNUPG:] NODATA 1\n[GNUPG:] NODATA 2\n", gpgstatus.NoSignature),
    ],
)
def test_each_reason_to_refuse_has_its_own_error_whatever_stands_beside_it(
    status: str, error: type[AgentError]
) -> None:
    beside = [""] if error is gpgstatus.NoSignature else ["", unknown()]
    for other in beside:
        for text in (status + other, other + status):
            with pytest.raises(error) as caught:
                judge(text)
            assert type(caught.value) is error


def test_a_key_that_is_missing_here_is_still_known_to_be_revoked() -> None:
    def revoked(signature: Signature) -> AgentError:
        return gpgstatus.KeyRevoked(signature.fingerprint)

    with pytest.raises(gpgstatus.KeyRevoked, match=B):
        gpgstatus.judge(unknown(), objection=revoked, name="x", now_sec=NOW)


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
    "KEY_CONSIDERED",
]
FIELDS = st.lists(
    st.sampled_from([A, A[:16], B, "0", "00", "01", "9", "10", "22", str(CREATED), "", "é"])
    | st.text("0129AF ", max_size=5),
    max_size=11,
)


@given(
    st.lists(st.tuples(st.sampled_from(WORDS), FIELDS) | st.just(("", [])), max_size=12),
    st.integers(0, 3),
)
def test_no_status_lines_make_the_judge_fail_otherwise_than_with_its_own_error(
    lines: list[tuple[str, list[str]]], threshold: int
) -> None:
    status = "\n".join(" ".join(["[GNUPG:]", word, *fields]) for word, fields in lines)
    with contextlib.suppress(AgentError):
        assert judge(status, threshold=threshold).fingerprints == (A,)


@given(st.lists(st.sampled_from([good(), good(B), unknown(), unknown(A), "[GNUPG:] NEWSIG\n"]), max_size=5))
def test_the_order_of_signatures_decides_nothing(blocks: list[str]) -> None:
    def verdict(status: str) -> object:
        try:
            return judge(status, A, B, threshold=2)
        except AgentError as error:
            return type(error), str(error)

    assert verdict("".join(blocks)) == verdict("".join(reversed(blocks)))


@given(st.text())
def test_no_text_makes_the_judge_fail_otherwise_than_with_its_own_error(text: str) -> None:
    with pytest.raises(AgentError):
        judge(text)
