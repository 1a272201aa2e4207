# SPDX-License-Identifier: Apache-2.0
"""`hypernet-image lint`: whole images, with the manifest that may lie beside them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import AgentError
from hypernet_release import __main__ as program
from hypernet_release import lint, signing, statement
from hypernet_release.config import Statement
from tests.fakes import slot_images
from tests.fakes.slot_images import Key
from tests.unit.release.conftest import VERSION, Built, make_image, make_tree

ISSUED_SEC = 1_800_000_000


@pytest.fixture
def image(built: Built, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(built.image, tmp_path / built.image.name))


@pytest.fixture(scope="session")
def unfit(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Path:
    """An image without hypernet-admin and gpgv."""
    folder = tmp_path_factory.mktemp("unfit")
    tree = make_tree(folder / "tree", key)
    (tree / "usr/bin/hypernet-admin").unlink()
    (tree / "usr/bin/gpgv").unlink()
    return make_image(folder / "out", tree).image


def state(image: Path, key: Key, channel: str = "stable") -> None:
    """Put a signed manifest beside an image."""
    path = statement.write_manifest(image, Statement(channel=channel), issued_sec=ISSUED_SEC)
    signing.Signer(key.home, key.fingerprint).sign(path)


def rules(image: Path) -> list[str]:
    return [finding.rule for finding in lint.lint_image(image).findings]


def test_a_complete_image_is_fit(image: Path) -> None:
    assert rules(image) == []


def test_a_complete_image_with_its_manifest_is_fit(image: Path, key: Key) -> None:
    state(image, key)

    assert rules(image) == []


def test_an_image_whose_own_keys_refuse_its_manifest_is_unfit(image: Path, tmp_path: Path) -> None:
    state(image, slot_images.make_key(tmp_path / "home", "stranger"))

    assert rules(image) == ["keys"]


def test_the_channel_of_the_manifest_is_what_the_keys_have_to_be_good_for(image: Path, key: Key) -> None:
    state(image, key, "beta")

    assert rules(image) == ["keys", "keys"]


def test_a_manifest_without_signature_is_an_error(image: Path, key: Key) -> None:
    state(image, key)
    image.with_name(f"hypernet-{VERSION}.manifest.json.asc").unlink()

    with pytest.raises(AgentError, match=r"^There is no hypernet-1\.2\.3\.manifest\.json\.asc"):
        lint.lint_image(image)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run_lint(*argv: str) -> tuple[int, str, str]:
        status = program.main(["lint", *argv])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run_lint


def test_a_fit_image_gives_status_0_and_no_word(
    run: Callable[..., tuple[int, str, str]], image: Path
) -> None:
    assert run(str(image)) == (0, "", "")


def test_each_finding_is_a_line_and_gives_status_17(
    run: Callable[..., tuple[int, str, str]], unfit: Path
) -> None:
    status, out, err = run(str(unfit))

    assert (status, err) == (17, "")
    assert [line.split(",")[0] for line in out.splitlines()] == [
        "The image has no /usr/bin/hypernet-admin",
        "The image has no /usr/bin/gpgv",
    ]


def test_findings_can_be_had_as_json(
    run: Callable[..., tuple[int, str, str]], unfit: Path, image: Path
) -> None:
    status, out, _ = run(str(unfit), "--json")
    shown = json.loads(out)

    assert (status, shown["image"], shown["version"]) == (17, str(unfit), VERSION)
    assert len(shown["root_hash"]) == 64
    assert [finding["rule"] for finding in shown["findings"]] == ["agents", "agents"]
    assert json.loads(run(str(image), "--json")[1])["findings"] == []


def test_what_is_no_image_is_one_sentence(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "x.img").write_bytes(b"x" * 100_000)
    status, out, err = run(str(tmp_path / "x.img"))

    assert (status, out) == (17, "")
    assert err.startswith("hypernet-image: x.img is not a system image: ")


def test_lint_needs_no_root(
    run: Callable[..., tuple[int, str, str]], image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert run(str(image))[0] == 0
