# SPDX-License-Identifier: Apache-2.0
"""Every signature file of the corpus, judged by the real gpgv."""

from __future__ import annotations

import pytest

from common import trust
from tests.fakes import signature_corpus
from tests.fakes.signature_corpus import CASES, DATA, Corpus

ACCEPTED = [case for case, error in CASES.items() if error is None]
REFUSED = [(case, error) for case, error in CASES.items() if error is not None]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return signature_corpus.build(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def store(corpus: Corpus) -> trust.TrustStore:
    return trust.load(corpus.trusted_keys)


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_sound_signature_by_a_trusted_key_is_accepted(
    corpus: Corpus, store: trust.TrustStore, case: str
) -> None:
    accepted = trust.verify_bytes(store, DATA, corpus.signatures[case], name=f"{case}.asc")

    assert accepted.fingerprints == (corpus.signers[case],)


@pytest.mark.parametrize(("case", "error"), REFUSED)
def test_any_other_signature_is_refused_for_its_own_reason(
    corpus: Corpus, store: trust.TrustStore, case: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        trust.verify_bytes(store, DATA, corpus.signatures[case], name=f"{case}.asc")

    assert type(caught.value) is error
    assert str(caught.value).count("\n") == 0
    assert f"{case}.asc" in str(caught.value)


@pytest.mark.parametrize("case", ACCEPTED)
def test_no_signature_is_accepted_for_other_data(corpus: Corpus, store: trust.TrustStore, case: str) -> None:
    with pytest.raises(trust.BadSignature, match="does not fit"):
        trust.verify_bytes(store, DATA[:-1], corpus.signatures[case], name=f"{case}.asc")


@pytest.mark.parametrize("case", ACCEPTED)
def test_every_signature_is_refused_once_all_keys_are_revoked_here(
    corpus: Corpus, store: trust.TrustStore, case: str
) -> None:
    revoked = trust.TrustStore(
        store.directory, store.keys, store.keyring, revoked=frozenset(key.fingerprint for key in store.keys)
    )

    with pytest.raises(trust.KeyRevoked):
        trust.verify_bytes(revoked, DATA, corpus.signatures[case], name=f"{case}.asc")
