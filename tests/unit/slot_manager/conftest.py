# SPDX-License-Identifier: Apache-2.0
"""Images and keys are made once a session, machines once a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.slot_manager import install, lifecycle, motd
from common import alerts
from tests.fakes import slot_images, slot_lab
from tests.fakes.slot_images import BuiltImage, Key
from tests.fakes.slot_lab import Lab


@pytest.fixture(autouse=True)
def raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the alerts that a test raises, not that of the machine that runs it."""
    folder = tmp_path / "alerts"
    monkeypatch.setattr(alerts, "DIRECTORY", folder)
    return folder


@pytest.fixture(autouse=True)
def at_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a login would show after a rollback, not that of the machine that runs the test."""
    path = tmp_path / "motd-rollback"
    monkeypatch.setattr(motd, "PATH", path)
    return path


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    """The vendor's key, trusted by every lab."""
    return slot_images.make_key(tmp_path_factory.mktemp("gpg") / "home", "vendor")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, key: Key) -> dict[str, BuiltImage]:
    """Good images by version; do not change them, copy them."""
    folder = tmp_path_factory.mktemp("images")
    return {
        version: slot_images.build_image(folder, version, key=key) for version in ("1.0.0", "2.0.0", "3.0.0")
    }


@pytest.fixture(scope="session")
def releases(
    tmp_path_factory: pytest.TempPathFactory, images: dict[str, BuiltImage], key: Key
) -> dict[str, BuiltImage]:
    """The same images with signed manifests in place of their .sha256 and .asc; do not change them."""
    folder = tmp_path_factory.mktemp("releases")
    copies = {version: slot_images.copy_image(image, folder) for version, image in images.items()}
    for image in copies.values():
        slot_images.vouch(image, key)
    return copies


@pytest.fixture
def lab(tmp_path: Path, images: dict[str, BuiltImage], key: Key) -> Lab:
    """A machine that runs 1.0.0 in slot a and has nothing in slot b."""
    return slot_lab.make_lab(tmp_path / "lab", images["1.0.0"], key)


@pytest.fixture
def armed(lab: Lab, images: dict[str, BuiltImage]) -> Lab:
    """1.0.0 runs in slot a, 2.0.0 is armed in slot b."""
    install.install(lab.machine, str(images["2.0.0"].path))
    return lab


@pytest.fixture
def trying(armed: Lab) -> Lab:
    """2.0.0 runs in slot b for the first time, the old system is good."""
    armed.try_once("hypernet_2.0.0+3.efi", "b")
    return armed


@pytest.fixture
def both_good(trying: Lab) -> Lab:
    """2.0.0 runs in slot b and was blessed, 1.0.0 in slot a is good."""
    lifecycle.bless(trying.machine)
    return trying
