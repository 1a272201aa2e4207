# SPDX-License-Identifier: Apache-2.0
"""`hypernet-image info` and `verify`: images of each kind, and their compressed forms, without root."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common import manifest
from hypernet_release import __main__ as program
from hypernet_release import signing, statement
from hypernet_release.config import Statement
from tests.fakes import compressed, slot_images
from tests.fakes.slot_images import Key
from tests.unit.release.conftest import VERSION, Built, make_image

Run = Callable[..., tuple[int, str, str]]
ISSUED_SEC = 1_800_000_000


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    def run_program(*argv: object) -> tuple[int, str, str]:
        status = program.main([str(argument) for argument in argv])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run_program


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Built:
    """An image without hash tree; do not change it."""
    return make_image(tmp_path_factory.mktemp("plain") / "out", tree, filesystem="ext4", verity=False)


@pytest.fixture
def trusted(tmp_path: Path, key: Key) -> Path:
    slot_images.trust(tmp_path / "trusted", key)
    return tmp_path / "trusted"


def copy(built: Built, folder: Path) -> Path:
    folder.mkdir()
    shutil.copyfile(
        built.root.with_name(built.image.name + ".sha256"), folder / f"{built.image.name}.sha256"
    )
    return Path(shutil.copyfile(built.image, folder / built.image.name))


def state(image: Path, key: Key) -> Path:
    """Put a signed manifest beside an image; returns its path."""
    path = statement.write_manifest(image, Statement(), issued_sec=ISSUED_SEC)
    signing.Signer(key.home, key.fingerprint).sign(path)
    return path


@pytest.fixture
def image(built: Built, tmp_path: Path, key: Key) -> Path:
    """With a signed manifest."""
    path = copy(built, tmp_path / "release")
    state(path, key)
    return path


@pytest.fixture
def packed(image: Path, key: Key) -> Path:
    """The compressed form of it, without the image."""
    form = compressed.compress(image.read_bytes(), _sizes(image.stat().st_size))
    path = image.with_name(image.name + ".zst")
    path.write_bytes(form.raw)
    stated = image.with_name(f"hypernet-{VERSION}.manifest.json")
    release = manifest.parse(stated.read_bytes(), name=stated.name)
    stated.write_bytes(manifest.render(replace(release, transport=form.transport)))
    signing.Signer(key.home, key.fingerprint).sign(stated)
    image.unlink()
    return path


def _sizes(image_bytes: int) -> list[int]:
    whole, rest = divmod(image_bytes, 1 << 20)
    return [1 << 20] * whole + ([rest] if rest else [])


def test_info_tells_what_an_image_holds(run: Run, image: Path, built: Built) -> None:
    status, out, err = run("info", image)

    assert (status, err) == (0, "")
    assert f"        Version: {VERSION}\n" in out
    assert f"      Root hash: {built.root_hash}\n" in out
    assert "           Root: erofs, dm-verity\n" in out
    assert out.endswith("      Signature: not checked; 'hypernet-image verify' checks it\n")


def test_verify_tells_who_signed_an_image(run: Run, image: Path, key: Key, trusted: Path) -> None:
    status, out, err = run("verify", "--keys", trusted, image)

    assert (status, err) == (0, "")
    assert out.endswith(f"      Signature: good, by {key.fingerprint}; every byte is as signed\n")


def test_facts_can_be_had_as_json(run: Run, image: Path, key: Key, trusted: Path) -> None:
    facts = json.loads(run("verify", image, "--json", "--keys", trusted)[1])

    assert (facts["format"], facts["path"], facts["signers"]) == (1, str(image), [key.fingerprint])
    assert (facts["filesystem"], facts["verity"], facts["compressed_bytes"]) == ("erofs", True, 0)
    assert [part["role"] for part in facts["partitions"]] == ["esp", "root", "root-verity"]


def test_an_image_without_hash_tree_is_told(
    run: Run, plain: Built, tmp_path: Path, key: Key, trusted: Path
) -> None:
    image = copy(plain, tmp_path / "release")
    state(image, key)
    status, out, err = run("verify", "--keys", trusted, image)

    assert (status, err) == (0, "")
    assert "           Root: ext4, no dm-verity\n" in out
    assert f"      Root hash: {plain.root_hash}\n" in out
    assert run("lint", image)[:2] == (0, "")


def test_an_image_without_hash_tree_whose_root_is_another_is_not_verified(
    run: Run, plain: Built, tmp_path: Path, key: Key, trusted: Path
) -> None:
    """Signed as it is, so that only the hash on the kernel command line tells."""
    image = copy(plain, tmp_path / "release")
    with image.open("r+b") as stream:
        stream.seek(-(3 << 20), os.SEEK_END)
        stream.write(b"changed")
    signing.write_checksum(image)
    signing.Signer(key.home, key.fingerprint).sign(image)
    status, out, err = run("verify", "--keys", trusted, image)

    assert (status, out) == (17, "")
    assert "another root" in err


def test_the_compressed_form_is_looked_at_through_its_manifest(run: Run, packed: Path, built: Built) -> None:
    status, out, err = run("info", packed)

    assert (status, err) == (0, "")
    assert f"          Image: {packed} (" in out
    assert f"      Root hash: {built.root_hash}\n" in out
    assert "     Compressed: " in out
    assert "           Root: erofs, dm-verity\n" in out


def test_the_compressed_form_is_verified_to_the_last_byte(
    run: Run, packed: Path, key: Key, trusted: Path
) -> None:
    facts = json.loads(run("verify", packed, "--json", "--keys", trusted)[1])

    assert (facts["bytes"], facts["compressed_bytes"]) == (packed.stat().st_size,) * 2
    assert facts["signers"] == [key.fingerprint]


@pytest.mark.parametrize("place", [100_000, -5, -60])
def test_a_damaged_compressed_form_is_not_verified(
    run: Run, packed: Path, trusted: Path, place: int
) -> None:
    with packed.open("r+b") as stream:
        stream.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))
    status, out, err = run("verify", "--keys", trusted, packed)

    assert (status, out, err.count("\n")) == (15, "", 1)


def test_a_compressed_form_that_was_cut_short_is_told(run: Run, packed: Path) -> None:
    os.truncate(packed, packed.stat().st_size - 1)

    assert run("info", packed)[0] == 16


def test_a_compressed_form_without_manifest_is_told(run: Run, packed: Path) -> None:
    packed.with_name(f"hypernet-{VERSION}.manifest.json").unlink()
    status, _, err = run("info", packed)

    assert (status, err) == (
        2,
        f"hypernet-image: There is no manifest beside {packed.name}, which tells what is in it; copy it "
        "there.\n",
    )


def test_lint_wants_the_image_itself(run: Run, packed: Path) -> None:
    status, _, err = run("lint", packed)

    assert status == 2
    assert err.startswith(f"hypernet-image: {packed.name} is compressed")


def test_an_image_of_a_stranger_is_not_verified(run: Run, image: Path, tmp_path: Path) -> None:
    stranger = slot_images.make_key(tmp_path / "gpg", "stranger")
    slot_images.trust(tmp_path / "trusted", stranger)

    assert run("verify", "--keys", tmp_path / "trusted", image)[:2] == (13, "")


@pytest.mark.parametrize("argv", [["info"], ["verify", "--keys={trusted}"], ["lint"]])
def test_a_file_that_is_no_image_is_one_sentence(
    run: Run, tmp_path: Path, trusted: Path, argv: list[str]
) -> None:
    (tmp_path / "x.img").write_bytes(b"x" * 100_000)
    status, out, err = run(*(word.format(trusted=trusted) for word in argv), tmp_path / "x.img")

    assert (status, out, err.count("\n")) == (17, "", 1)


def test_verify_needs_keys(capsys: pytest.CaptureFixture[str], image: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(["verify", str(image)])

    assert caught.value.code == 2
    assert "--keys" in capsys.readouterr().err
