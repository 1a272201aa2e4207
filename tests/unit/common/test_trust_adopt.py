# SPDX-License-Identifier: Apache-2.0
"""How the vendor's set of trusted keys becomes the machine's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common import files, trust
from common.errors import ConfigError
from tests.fakes.key_sets import Keys, Sets, make_keys


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("gpg") / "home")


@pytest.fixture
def sets(keys: Keys, tmp_path: Path) -> Sets:
    return Sets(keys, tmp_path)


def test_a_newer_set_of_the_vendor_is_taken_over(sets: Sets) -> None:
    sets.write(sets.machine, "old", "local:own", epoch=1, revoked=("lost",))
    sets.write(sets.vendor, "new", epoch=2, threshold=1, revoked=("old",))

    assert trust.adopt(sets.vendor, sets.machine)

    store = trust.load(sets.machine)
    assert sets.trusted(store) == {"new", "own"}
    assert store.epoch == 2
    assert store.revoked == {sets.fingerprint("old"), sets.fingerprint("lost")}
    assert {path.name for path in sets.machine.iterdir()} == {
        "epoch2-new.asc",
        "own.asc",
        "fingerprints.yaml",
    }


def test_what_is_taken_over_says_the_same_as_the_vendor(sets: Sets) -> None:
    sets.write(sets.vendor, "new", epoch=7, threshold=2)
    listing = sets.vendor / "fingerprints.yaml"
    listing.write_text(
        listing.read_text().replace(
            "local: no",
            'local: no\n    channels: ["it\'s: beta", stable]\n    not_before: 2026-01-01\n'
            "    not_after: 2027-12-31",
        )
    )

    assert trust.adopt(sets.vendor, sets.machine)
    ours, theirs = trust.load(sets.machine), trust.load(sets.vendor)
    assert (ours.keys, ours.keyring, ours.epoch, ours.threshold) == (
        theirs.keys,
        theirs.keyring,
        theirs.epoch,
        theirs.threshold,
    )


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_set_that_is_no_newer_is_not_taken_over(sets: Sets, epoch: int) -> None:
    sets.write(sets.machine, "old", epoch=2)
    sets.write(sets.vendor, "new", epoch=epoch)
    before = {path.name: path.read_bytes() for path in sets.machine.iterdir()}

    assert not trust.adopt(sets.vendor, sets.machine)
    assert {path.name: path.read_bytes() for path in sets.machine.iterdir()} == before


def test_taking_over_twice_changes_nothing(sets: Sets) -> None:
    sets.write(sets.vendor, "new")

    assert trust.adopt(sets.vendor, sets.machine)
    assert not trust.adopt(sets.vendor, sets.machine)
    assert sets.trusted(trust.load(sets.machine)) == {"new"}


def test_an_image_without_a_set_has_nothing_to_take_over(sets: Sets) -> None:
    sets.write(sets.machine, "old")

    assert not trust.adopt(sets.vendor, sets.machine)


def test_a_local_key_in_a_file_of_the_name_that_the_vendor_uses_is_not_overwritten(sets: Sets) -> None:
    sets.write(sets.machine, "local:own")
    (sets.machine / "own.asc").rename(sets.machine / "epoch2-new.asc")
    sets.write(sets.vendor, "new", epoch=2)

    with pytest.raises(ConfigError, match=r"epoch2-new\.asc holds a local key"):
        trust.adopt(sets.vendor, sets.machine)
    assert sets.trusted(trust.load(sets.machine)) == {"own"}


def test_files_with_keys_that_nobody_listed_are_left_alone(sets: Sets) -> None:
    sets.write(sets.machine, "old", "lost")
    sets.write(sets.machine, "old")
    sets.write(sets.vendor, "new", epoch=2)
    trust.adopt(sets.vendor, sets.machine)

    assert (sets.machine / "lost.asc").exists()
    assert not (sets.machine / "old.asc").exists()


class PowerCut(Exception):
    """Nothing is written after this."""


@pytest.mark.parametrize("same_names", [False, True])
def test_a_power_cut_leaves_the_old_set_or_the_new_one_each_whole(
    sets: Sets, monkeypatch: pytest.MonkeyPatch, same_names: bool
) -> None:
    """The folder is also good by itself, for an image whose own set is older."""
    write, remove = files.write_atomic, files.remove_durable
    writes_left = 0

    def step(change: Callable[[], None]) -> None:
        nonlocal writes_left
        if not writes_left:
            raise PowerCut
        writes_left -= 1
        change()

    monkeypatch.setattr(files, "write_atomic", lambda path, data: step(lambda: write(path, data)))
    monkeypatch.setattr(files, "remove_durable", lambda path: step(lambda: remove(path)))
    outcomes = []
    for survived in range(20):
        shutil.rmtree(sets.machine, ignore_errors=True)
        sets.write(sets.machine, "old", "lost", "local:own", epoch=1)
        sets.write(sets.vendor, "old", "new", epoch=2, revoked=("lost",))
        if same_names:
            for name in ("old", "new"):
                (sets.vendor / f"{name}.asc").replace(sets.vendor / f"epoch1-{name}.asc")
        writes_left = survived
        try:
            trust.adopt(sets.vendor, sets.machine)
        except PowerCut:
            alone = trust.load(sets.machine)
            outcomes.append((alone.epoch, frozenset(sets.trusted(alone))))
            assert sets.trusted() == {"old", "new", "own"}
            writes_left = -1
            trust.adopt(sets.vendor, sets.machine)
            assert sets.trusted(trust.load(sets.machine)) == {"old", "new", "own"}
        else:
            break

    assert set(outcomes) == {(1, frozenset({"old", "lost", "own"})), (2, frozenset({"old", "new", "own"}))}
    assert outcomes == sorted(outcomes, key=lambda outcome: outcome[0])


def test_a_folder_that_cannot_be_made_is_a_complaint(sets: Sets) -> None:
    sets.write(sets.vendor, "new")
    sets.machine.touch()

    with pytest.raises(ConfigError, match="machine cannot be made"):
        trust.adopt(sets.vendor, sets.machine)


def test_what_an_interrupted_removal_left_goes_with_the_next_set(sets: Sets) -> None:
    sets.write(sets.machine, "new", epoch=2)
    (sets.machine / "epoch1-old.asc").write_bytes(sets.public("old"))
    sets.write(sets.vendor, "new", epoch=3)
    trust.adopt(sets.vendor, sets.machine)

    assert {path.name for path in sets.machine.iterdir()} == {"epoch3-new.asc", "fingerprints.yaml"}
