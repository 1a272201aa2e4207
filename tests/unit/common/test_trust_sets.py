# SPDX-License-Identifier: Apache-2.0
"""Which of two sets of trusted keys counts, what is taken from each, and how the vendor's is taken over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common import trust
from common.errors import AgentError, ConfigError
from tests.fakes.key_sets import Keys, Sets, make_keys
from tests.fakes.slot_images import make_key

DATA = b"a manifest"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("gpg") / "home")


@pytest.fixture
def sets(keys: Keys, tmp_path: Path) -> Sets:
    return Sets(keys, tmp_path)


def test_the_set_of_the_higher_epoch_counts(sets: Sets) -> None:
    sets.write(sets.machine, "old", epoch=1)
    sets.write(sets.vendor, "new", epoch=2, threshold=2)
    store = sets.load()

    assert sets.trusted(store) == {"new"}
    assert (store.directory, store.epoch, store.threshold) == (sets.vendor, 2, 2)


def test_an_old_image_does_not_bring_an_old_key_back(sets: Sets) -> None:
    sets.write(sets.machine, "new", epoch=2)
    sets.write(sets.vendor, "old", epoch=1)
    store = sets.load()

    assert sets.trusted(store) == {"new"}
    assert (store.directory, store.epoch) == (sets.machine, 2)


def test_of_two_sets_of_the_same_epoch_the_machines_counts(sets: Sets) -> None:
    sets.write(sets.machine, "old", epoch=3)
    sets.write(sets.vendor, "new", epoch=3)

    assert sets.trusted() == {"old"}


def test_a_set_without_epoch_and_threshold_has_one_of_each(sets: Sets) -> None:
    sets.write(sets.machine, "old")
    listing = sets.machine / "fingerprints.yaml"
    listing.write_text(listing.read_text().replace("epoch: 1\nthreshold: 1\n", ""))
    store = trust.load(sets.machine)

    assert (store.epoch, store.threshold, store.revoked) == (1, 1, frozenset())


@pytest.mark.parametrize("there", ["nothing", "folder", "keys without a list"])
def test_the_vendors_set_counts_where_the_machine_has_none(sets: Sets, there: str) -> None:
    sets.write(sets.vendor, "new")
    if there != "nothing":
        sets.write(sets.machine, *(["old"] if there != "folder" else []))
        (sets.machine / "fingerprints.yaml").unlink()

    assert sets.trusted() == {"new"}


def test_the_machines_set_counts_where_the_image_has_none(sets: Sets) -> None:
    sets.write(sets.machine, "old")

    assert sets.trusted() == {"old"}


def test_without_any_set_the_missing_list_is_named(sets: Sets) -> None:
    with pytest.raises(ConfigError, match=r"machine/fingerprints\.yaml: there is no such file"):
        sets.load()


def test_a_damaged_list_of_the_machine_is_not_passed_over(sets: Sets) -> None:
    sets.write(sets.vendor, "new", epoch=2)
    sets.write(sets.machine, "old")
    (sets.machine / "fingerprints.yaml").write_text("fingerprints: [")

    with pytest.raises(ConfigError, match=r"machine/fingerprints\.yaml:1"):
        sets.load()


@pytest.mark.parametrize("which", ["machine", "vendor"])
def test_a_folder_that_cannot_be_examined_is_not_passed_over(sets: Sets, which: str) -> None:
    sets.write(sets.machine, "old")
    sets.write(sets.vendor, "new")
    folders = {"machine": sets.machine, "vendor": sets.vendor, which: Path("/" + "x" * 300)}

    with pytest.raises(ConfigError, match="xxx cannot be examined: File name too long; "):
        trust.load(folders["machine"], vendor=folders["vendor"])
    with pytest.raises(ConfigError, match="cannot be examined"):
        trust.adopt(folders["vendor"], folders["machine"])


def test_a_set_of_an_epoch_below_the_known_one_is_refused(sets: Sets) -> None:
    sets.write(sets.machine, "old", epoch=1)
    sets.write(sets.vendor, "old", epoch=2)

    assert sets.load(min_epoch=2).epoch == 2
    with pytest.raises(trust.KeySetTooOld, match="are of epoch 2, but this machine has relied on epoch 3"):
        sets.load(min_epoch=3)


def test_local_keys_stay_trusted_beside_a_newer_set_of_the_vendor(sets: Sets) -> None:
    sets.write(sets.machine, "old", "local:own", epoch=1)
    sets.write(sets.vendor, "new", epoch=2)

    assert sets.trusted() == {"new", "own"}


def test_a_local_key_that_the_vendor_revoked_is_not_trusted(sets: Sets) -> None:
    sets.write(sets.machine, "old", "local:own", epoch=1)
    sets.write(sets.vendor, "new", epoch=2, revoked=("own",))

    assert sets.trusted() == {"new"}


@pytest.mark.parametrize(("machine", "vendor"), [(1, 2), (2, 1), (1, 1)])
def test_a_revocation_of_either_set_counts(sets: Sets, machine: int, vendor: int) -> None:
    sets.write(sets.machine, "old", "new", "lost", epoch=machine, revoked=("lost",))
    sets.write(sets.vendor, "old", "new", "lost", epoch=vendor, revoked=("old",))

    assert sets.trusted() == {"new"}


def test_a_signature_by_a_key_that_only_the_list_of_revoked_ones_names_says_so(
    sets: Sets, tmp_path: Path
) -> None:
    sets.write(sets.machine, "new", revoked=("lost",))
    (tmp_path / "data").write_bytes(DATA)
    signature = sets.keys["lost"].sign(tmp_path / "data").read_bytes()

    with pytest.raises(trust.KeyRevoked):
        trust.verify_bytes(sets.load(), DATA, signature, name="x.asc")


def test_a_listed_key_without_its_public_key_is_not_counted_among_the_trusted(sets: Sets) -> None:
    sets.write(sets.machine, "old", "new")
    (sets.machine / "old.asc").unlink()

    assert sets.trusted() == {"new"}


def test_a_set_without_any_public_key_trusts_nobody(sets: Sets) -> None:
    sets.write(sets.machine, "old")
    (sets.machine / "old.asc").unlink()

    with pytest.raises(trust.UntrustedKey, match="No key is trusted yet"):
        sets.load()


def test_an_empty_list_trusts_nobody(sets: Sets) -> None:
    sets.write(sets.machine)

    with pytest.raises(trust.UntrustedKey, match="No key is trusted yet"):
        sets.load()


def test_keys_are_asked_for_by_purpose_channel_and_time(sets: Sets) -> None:
    sets.write(sets.machine, "old", "new", "own", "lost")
    entries = {
        "old": "purpose: release, channels: [stable], not_after: 2026-06-30",
        "new": "purpose: release, channels: [stable, beta], not_before: '2026-06-01T12:00:00Z'",
        "own": "purpose: release",
        "lost": "purpose: channel",
    }
    lines = [f"  - {{fingerprint: '{sets.fingerprint(name)}', {text}}}" for name, text in entries.items()]
    (sets.machine / "fingerprints.yaml").write_text("\n".join(["fingerprints:", *lines]))
    store = sets.load()

    def names(purpose: str, channel: str = "", at_sec: float | None = None) -> set[str]:
        found = store.fingerprints(purpose, channel, at_sec)
        return {name for name in sets.keys if sets.fingerprint(name) in found}

    assert names("release") == {"old", "new", "own"}
    assert names("channel") == {"lost"}
    assert names("release", "stable") == {"old", "new", "own"}
    assert names("release", "beta") == {"new", "own"}
    assert names("release", "dev") == {"own"}
    assert names("release", "stable", 1780315199) == {"old", "own"}  # 2026-06-01T11:59:59Z
    assert names("release", "stable", 1780315200) == {"old", "new", "own"}
    assert names("release", "stable", 1782863999.9) == {"old", "new", "own"}  # 2026-06-30T23:59:59.9Z
    assert names("release", "stable", 1782864000) == {"new", "own"}


FPR = "1234567890" * 4


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("fingerprints: 3", "must be a list"),
        ("fingerprints: [{fingerprint: abc, purpose: release}]", "not a fingerprint"),
        (f"fingerprints: [{{fingerprint: '{FPR}'}}]", "purpose: is missing"),
        (f"fingerprints: [{{fingerprint: {FPR}, purpose: release}}]", "in quotes"),
        (f"fingerprints: [{{fingerprint: '{FPR}', purpose: all}}]", "allowed are release, channel"),
        (f"fingerprints: [{{fingerprint: '{FPR}', purpose: release, until: 1}}]", "unknown key"),
        (f"fingerprints: [{{fingerprint: '{FPR}', purpose: release, not_after: soon}}]", "UTC date"),
        (f"fingerprints: [{{fingerprint: '{FPR}', purpose: release, not_before: 2026-13-01}}]", "UTC date"),
        (
            f"fingerprints: [{{fingerprint: '{FPR}', purpose: release, not_before: 2026-01-02, "
            "not_after: 2026-01-01}]",
            "must not lie before not_before",
        ),
        ("revoked: [abc]", "not a fingerprint"),
        ("epoch: 0", "too small"),
        ("epoch: x", "whole number"),
        ("threshold: 0", "too small"),
        ("threshold: 99", "too large"),
        ("other: 1", "unknown key"),
    ],
)
def test_a_wrong_list_is_refused_with_its_line(sets: Sets, text: str, complaint: str) -> None:
    sets.write(sets.machine, "old")
    (sets.machine / "fingerprints.yaml").write_text(text + "\n")

    with pytest.raises(ConfigError, match=rf"machine/fingerprints\.yaml:1: .*{complaint}"):
        sets.load()


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda text: text[: len(text) // 2], "holds no whole"),
        (lambda text: text.replace("BEGIN PGP PUBLIC", "BEGIN PGP PRIVATE"), "another kind of block"),
        (lambda text: text.replace("=", "=A", 1)[:-1], "damaged|checksum|whole"),
        (lambda text: "", "holds no whole"),
        (
            lambda _: "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n",
            "holds no whole public key",
        ),
    ],
)
def test_a_damaged_key_file_is_named_and_nothing_is_trusted(
    sets: Sets, damage: Callable[[str], str], error: str
) -> None:
    sets.write(sets.machine, "old", "new")
    path = sets.machine / "old.asc"
    path.write_text(damage(path.read_text()))

    with pytest.raises(ConfigError, match=error) as caught:
        sets.load()
    assert "old.asc" in str(caught.value)


def test_too_many_key_files_are_refused(sets: Sets) -> None:
    sets.write(sets.machine, "old")
    for number in range(trust.MAX_KEY_FILES):
        (sets.machine / f"{number}.asc").touch()

    with pytest.raises(ConfigError, match="65 key files, at most 64"):
        sets.load()


def test_a_key_file_that_is_too_large_is_refused(sets: Sets) -> None:
    sets.write(sets.machine, "old")
    (sets.machine / "old.asc").write_bytes(b" " * (trust.MAX_KEY_FILE_BYTES + 1))

    with pytest.raises(AgentError, match=r"old\.asc: it is larger"):
        sets.load()


def test_a_renewed_public_key_in_the_image_counts_at_once(sets: Sets, tmp_path: Path) -> None:
    key = make_key(tmp_path / "gpg", "brief", "--faked-system-time", "20200101T000000", expire="1d")
    short = key.public()
    key.gpg("--faked-system-time", "20200101T120000", "--quick-set-expire", key.fingerprint, "50y")
    long = key.public()
    (tmp_path / "data").write_bytes(DATA)
    signature = key.sign(tmp_path / "data").read_bytes()
    for folder, text in ((sets.machine, short), (sets.vendor, long)):
        folder.mkdir()
        (folder / "key.asc").write_bytes(text)
        (folder / "fingerprints.yaml").write_text(
            f'fingerprints: [{{fingerprint: "{key.fingerprint}", purpose: release}}]\n'
        )

    with pytest.raises(trust.KeyExpired):
        trust.verify_bytes(trust.load(sets.machine), DATA, signature, name="x.asc")
    assert trust.verify_bytes(sets.load(), DATA, signature, name="x.asc")


def test_a_revocation_in_either_copy_of_a_public_key_counts(sets: Sets, tmp_path: Path) -> None:
    key = make_key(tmp_path / "gpg", "gone")
    sound = key.public()
    (tmp_path / "data").write_bytes(DATA)
    signature = key.sign(tmp_path / "data").read_bytes()
    certificate = key.home / "openpgp-revocs.d" / f"{key.fingerprint}.rev"
    key.gpg("--import", stdin=certificate.read_bytes().replace(b":-----BEGIN", b"-----BEGIN"))
    revoked = key.public()
    listing = f'fingerprints: [{{fingerprint: "{key.fingerprint}", purpose: release}}]\n'
    sets.machine.mkdir()
    (sets.machine / "fingerprints.yaml").write_text(listing)
    (sets.machine / "1.asc").write_bytes(sound)
    assert trust.verify_bytes(trust.load(sets.machine), DATA, signature, name="x.asc")

    (sets.machine / "2.asc").write_bytes(revoked)
    with pytest.raises(trust.KeyRevoked):
        trust.verify_bytes(trust.load(sets.machine), DATA, signature, name="x.asc")
