# SPDX-License-Identifier: Apache-2.0
"""Valid samples, made once a session by the tools that make real ones."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.fakes import slot_images
from tests.fakes.slot_images import BuiltImage, Key


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    """The vendor's key."""
    return slot_images.make_key(tmp_path_factory.mktemp("gpg") / "home", "vendor")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, key: Key) -> dict[str, BuiltImage]:
    """Good images by version; do not change them, copy them."""
    folder = tmp_path_factory.mktemp("images")
    return {version: slot_images.build_image(folder, version, key=key) for version in ("1.0.0", "2.0.0")}


@pytest.fixture
def scratch_fd() -> Iterator[int]:
    """A file in memory, for inputs that are read from a descriptor."""
    fd = os.memfd_create("case", os.MFD_CLOEXEC)
    yield fd
    os.close(fd)
