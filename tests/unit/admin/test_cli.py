# SPDX-License-Identifier: Apache-2.0
"""The command line of hypernet-admin."""

from pathlib import Path

import pytest

from agents.admin import VERSION, cli
from agents.admin.cli import Json, Options
from common.errors import InvalidArgument


def test_status_is_for_people_unless_json_is_asked_for() -> None:
    assert cli.parse(["status"]) == Options("status", image=Path.cwd())


@pytest.mark.parametrize(
    "argv", [["--json", "status"], ["status", "--json"], ["--json=pretty", "status"]], ids=" ".join
)
def test_bare_json_means_pretty_and_never_takes_the_verb_as_its_value(argv: list[str]) -> None:
    assert cli.parse(argv).json is Json.PRETTY


def test_json_mode_before_the_verb_is_kept() -> None:
    assert cli.parse(["--json=short", "health"]).json is Json.SHORT


def test_relative_image_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert cli.parse(["update", "--image", "new.img"]).image == tmp_path / "new.img"


def test_image_of_an_absolute_path_is_passed_on_as_it_is() -> None:
    assert cli.parse(["update", "--image=/media/new.img"]).image == Path("/media/new.img")


def test_rollback_takes_a_reason_and_reboot() -> None:
    options = cli.parse(["rollback", "--reason", " too slow ", "--reboot"])

    assert (options.reason, options.reboot) == ("too slow", True)


def test_rollback_does_not_reboot_unless_asked() -> None:
    assert cli.parse(["rollback"]).reboot is False


@pytest.mark.parametrize("slot", ["a", "b", "booted", "other"])
def test_mark_accepts_each_way_to_name_a_slot(slot: str) -> None:
    options = cli.parse(["mark", "bad", slot, "--reason", "no network"])

    assert (options.mark, options.slot, options.reason) == ("bad", slot, "no network")


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ([], "VERB"),
        (["reboot"], "reboot"),
        (["update"], "--image"),
        (["update", "--image"], "--image"),
        (["mark", "good"], "SLOT"),
        (["mark", "fine", "a"], "fine"),
        (["mark", "good", "c"], "'c'"),
        (["mark", "good", "a", "--reason", "x"], "--reason"),
        (["rollback", "--reason", ""], "--reason"),
        (["rollback", "--reason", "two\nlines"], "--reason"),
        (["rollback", "--reason", "x" * 201], "--reason"),
        (["rollback", "--reb"], "--reb"),
        (["status", "--json=yaml"], "yaml"),
        (["status", "surplus"], "surplus"),
        (["status", "--json", "short"], "short"),
    ],
)
def test_usage_error_is_one_sentence_that_names_the_problem(argv: list[str], problem: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        cli.parse(argv)

    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse(["--version"])

    assert caught.value.code == 0
    assert capsys.readouterr().out == f"hypernet-admin {VERSION}\n"


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse(["--help"])

    text = capsys.readouterr().out
    for verb in ("status", "update", "rollback", "mark", "health"):
        assert f"\n    {verb} " in text
