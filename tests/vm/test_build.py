# SPDX-License-Identifier: Apache-2.0
"""What the image builder makes, apart from booting it."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.vm.releases import GOOD, Releases, build


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def test_same_inputs_give_the_same_bytes(releases: Releases, tmp_path: Path) -> None:
    """Built once more from nothing, without the cache of finished steps, in another folder."""
    again = build(releases, GOOD, output=tmp_path / "again", cache=None)

    assert sha256_of(again) == sha256_of(releases.image(GOOD))
    again.unlink()


@pytest.mark.parametrize("tool", ["sha256sum --check", "gpg --verify"])
def test_sidecars_are_what_the_usual_tools_understand(releases: Releases, tool: str) -> None:
    name = releases.image(GOOD).name
    argv = ["sha256sum", "--check", "--quiet", f"{name}.sha256"]
    if tool.startswith("gpg"):
        argv = [
            "gpg",
            "--batch",
            "--homedir",
            str(releases.keys["release"]),
            "--verify",
            f"{name}.asc",
            name,
        ]

    assert (
        subprocess.run(argv, cwd=releases.folder, capture_output=True, timeout=300, check=False).returncode
        == 0
    )
