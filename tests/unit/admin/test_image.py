# SPDX-License-Identifier: Apache-2.0
"""The verbs that look at image files: no bus, no root, real images and real gpgv."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agents.admin import __main__ as admin
from common import paths
from common.image import Inspection, description
from tests.fakes import slot_images
from tests.fakes.slot_images import BuiltImage, Key

INSPECTION = Inspection(
    path=Path("/media/hypernet-1.2.3.img"),
    bytes=3 << 20,
    version="1.2.3",
    product="hypernet",
    arch="x86-64",
    channel="stable",
    root_hash="ab" * 32,
    serial=1_000_002_000_003,
    issued_sec=1_750_000_000,
    expires_sec=1_760_000_000,
    has_manifest=True,
    signers=(),
    kernel_cmdline="roothash=ab quiet",
    partitions=(("esp", 1 << 20), ("root", 2 << 20)),
)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return slot_images.make_key(tmp_path_factory.mktemp("gpg") / "home", "vendor")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, key: Key) -> BuiltImage:
    """A good image with a signed manifest; do not change it."""
    built = slot_images.build_image(tmp_path_factory.mktemp("image"), "1.2.3", key=key)
    slot_images.vouch(built, key)
    return built


@pytest.fixture(autouse=True)
def _no_bus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nothing")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that stands for the machine's: config/trusted-keys and share/trusted-keys are in it."""
    monkeypatch.setattr(paths, "CONFIG", tmp_path / "config")
    monkeypatch.setattr(paths, "SHARE", tmp_path / "share")
    return tmp_path


def test_info_needs_no_keys(release: BuiltImage, machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert admin.main(["info", str(release.path)]) == 0

    text = capsys.readouterr().out
    assert "        Version: 1.2.3\n" in text
    assert f"      Root hash: {release.root_hash}\n" in text
    assert "      Signature: not checked; 'hypernet-admin verify' checks it\n" in text


@pytest.mark.parametrize("folder", ["config", "share"])
def test_verify_trusts_the_keys_of_the_machine_and_of_the_vendor(
    folder: str, release: BuiltImage, key: Key, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slot_images.trust(machine / folder / "trusted-keys", key)

    assert admin.main(["verify", str(release.path)]) == 0
    assert f"Signature: good, by {key.fingerprint}" in capsys.readouterr().out


def test_verify_takes_other_keys(
    release: BuiltImage, key: Key, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slot_images.trust(machine / "mine", key)

    assert admin.main(["verify", "--keys", str(machine / "mine"), "--json=short", str(release.path)]) == 0

    values = json.loads(capsys.readouterr().out)
    assert (values["format"], values["version"], values["signers"]) == (1, "1.2.3", [key.fingerprint])
    assert values["partitions"][0]["role"] == "esp"


def test_image_of_a_stranger_is_not_verified(
    release: BuiltImage, machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = slot_images.make_key(tmp_path / "gpg", "stranger")
    slot_images.trust(machine / "config/trusted-keys", stranger)

    assert admin.main(["verify", str(release.path)]) == 13

    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)


def test_damaged_image_is_not_verified(
    release: BuiltImage, key: Key, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slot_images.trust(machine / "config/trusted-keys", key)
    copy = slot_images.copy_image(release, machine / "copy")
    with copy.path.open("r+b") as file:
        file.seek(10 << 20)
        file.write(b"damage")

    assert admin.main(["verify", str(copy.path)]) == 15
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("verb", ["info", "verify"])
def test_file_that_is_no_image_is_one_sentence(
    verb: str, key: Key, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slot_images.trust(machine / "config/trusted-keys", key)
    path = machine / "hypernet-1.2.3.img"
    path.write_bytes(b"no image" * 1000)

    assert admin.main([verb, str(path)]) == 17
    assert capsys.readouterr().err.count("\n") == 1


def test_machine_without_trusted_keys_is_one_sentence(
    release: BuiltImage, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert admin.main(["verify", str(release.path)]) in (6, 13)

    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert "trusted-keys" in output.err


def test_facts_about_an_image_are_one_line_each() -> None:
    text = description.describe(INSPECTION, "not checked", now_sec=1_755_000_000)

    assert text.count("\n") == len(text.splitlines()) == 12
    assert "          Image: /media/hypernet-1.2.3.img (3.0 MiB)\n" in text
    assert "     Partitions: esp 1.0 MiB, root 2.0 MiB\n" in text
    assert "       Manifest: channel stable, serial 1000002000003\n" in text
    assert "(expired)" not in text


def test_expired_image_is_marked_as_such() -> None:
    assert " (expired)\n" in description.describe(INSPECTION, "", now_sec=1_760_000_000)


def test_image_without_a_manifest_has_no_dates() -> None:
    text = description.describe(replace(INSPECTION, has_manifest=False), "", now_sec=0)

    assert "       Manifest: none\n" in text
    assert "Expires" not in text
