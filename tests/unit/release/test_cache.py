# SPDX-License-Identifier: Apache-2.0
"""Results of build steps are kept, and only whole ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypernet_release.cache import Cache, file_digest, tree_digest


class Step:
    """Writes a file and counts how often."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, target: Path) -> None:
        self.runs += 1
        target.write_text(f"run {self.runs}")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_a_step_with_the_same_inputs_is_not_run_again(cache: Cache) -> None:
    step = Step()
    first = cache.get("base", ["a", "b"], step)
    second = cache.get("base", ["a", "b"], step)

    assert (first, step.runs) == (second, 1)


@pytest.mark.parametrize("inputs", [["a", "c"], ["ab"], ["b", "a"], ["a"], ["a", "b", ""]])
def test_a_step_with_other_inputs_is_run(cache: Cache, inputs: list[str]) -> None:
    step = Step()
    cache.get("base", ["a", "b"], step)
    cache.get("base", inputs, step)

    assert step.runs == 2


def test_two_steps_with_the_same_inputs_are_two_files(cache: Cache) -> None:
    step = Step()

    assert cache.get("base", ["a"], step) != cache.get("initrd", ["a"], step)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_step_that_fails_leaves_nothing(cache: Cache, error: type[BaseException]) -> None:
    def fail(target: Path) -> None:
        target.write_text("half")
        raise error

    with pytest.raises(error):
        cache.get("base", ["a"], fail)

    assert list(cache.folder.iterdir()) == []


def test_a_step_that_failed_is_run_again(cache: Cache) -> None:
    def fail(_target: Path) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.get("base", ["a"], fail)

    assert cache.get("base", ["a"], Step()).read_text() == "run 1"


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")

    assert file_digest(tmp_path / "file").startswith("ba7816bf8f01cfea414140de5dae2223")


def make(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/file").write_text("x")
    (folder / "link").symlink_to("sub/file")
    return folder


def test_equal_folders_have_equal_digests(tmp_path: Path) -> None:
    assert tree_digest(make(tmp_path / "one")) == tree_digest(make(tmp_path / "two"))


def test_bytecode_does_not_count_for_the_digest(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    (two / "__pycache__").mkdir()
    (two / "__pycache__/x.pyc").write_text("x")

    assert tree_digest(one) == tree_digest(two)


@pytest.mark.parametrize("change", ["content", "mode", "name", "link"])
def test_every_change_of_a_folder_changes_its_digest(tmp_path: Path, change: str) -> None:
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    if change == "content":
        (two / "sub/file").write_text("y")
    elif change == "mode":
        (two / "sub/file").chmod(0o755)
    elif change == "name":
        (two / "sub/file").rename(two / "sub/other")
    else:
        (two / "link").unlink()
        (two / "link").symlink_to("sub")

    assert tree_digest(one) != tree_digest(two)
