# SPDX-License-Identifier: Apache-2.0
"""The command line of hypernet-admin."""

from pathlib import Path

import pytest

from agents.admin import VERSION, cli
from agents.admin.cli import Json, Options
from common.errors import InvalidArgument
from tests.unit.admin.lab import VERBS


def test_status_is_for_people_unless_json_is_asked_for() -> None:
    assert cli.parse(["status"]) == Options("status")


@pytest.mark.parametrize(
    "argv", [["--json", "status"], ["status", "--json"], ["--json=pretty", "status"]], ids=" ".join
)
def test_bare_json_means_pretty_and_never_takes_the_verb_as_its_value(argv: list[str]) -> None:
    assert cli.parse(argv).json is Json.PRETTY


def test_json_mode_before_the_verb_is_kept() -> None:
    assert cli.parse(["--json=short", "health"]).json is Json.SHORT


def test_relative_image_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert cli.parse(["update", "--image", "new.img"]).source == str(tmp_path / "new.img")


def test_image_of_an_absolute_path_is_passed_on_as_it_is() -> None:
    assert cli.parse(["update", "--image=/media/new.img"]).source == "/media/new.img"


def test_url_of_an_update_is_passed_on_as_it_is() -> None:
    url = "HTTPS://updates.test/hypernet-0.2.0.img"
    assert cli.parse(["update", f"--image={url}"]).source == url


def test_update_from_a_strange_scheme_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="give one of http or https"):
        cli.parse(["update", "--image=ftp://updates.test/hypernet-0.2.0.img"])


@pytest.mark.parametrize("argv", [["verify"], ["info"]], ids=" ".join)
@pytest.mark.parametrize("url", ["http://x.test/a.img", "https://x.test/a.img", "file:///a.img"])
def test_url_is_refused_with_the_advice_to_download_it(argv: list[str], url: str) -> None:
    with pytest.raises(
        InvalidArgument, match="is a URL, but only a file can be used here: download the image"
    ):
        cli.parse([*argv, url])


def test_update_takes_each_of_its_options() -> None:
    options = cli.parse(
        ["update", "--image=/x", "--dry-run", "--allow-downgrade", "--stage-only", "--slot=b"]
    )

    assert options == Options(
        "update",
        source="/x",
        dry_run=True,
        allow_downgrade=True,
        stage_only=True,
        slot="b",
    )


@pytest.mark.parametrize("argv", [["update", "--image=/x"], ["arm"], ["rollback"]], ids=" ".join)
def test_nothing_reboots_unless_asked(argv: list[str]) -> None:
    assert (cli.parse(argv).reboot, cli.parse([*argv, "--reboot"]).reboot) == (False, True)


@pytest.mark.parametrize(
    ("argv", "release"),
    [(["denied"], ""), (["denied", "clear", "1.0.0"], "1.0.0"), (["denied", "clear", "--all"], "all")],
)
def test_denied_lists_or_clears_one_or_all(argv: list[str], release: str) -> None:
    assert cli.parse(argv).release == release


def test_json_is_understood_behind_denied_clear() -> None:
    assert cli.parse(["denied", "clear", "--all", "--json=short"]).json is Json.SHORT


def test_folder_of_keys_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert cli.parse(["verify", "x.img", "--keys", "keys"]).keys == tmp_path / "keys"


def test_rollback_takes_a_reason_and_reboot() -> None:
    options = cli.parse(["rollback", "--reason", " too slow ", "--reboot"])

    assert (options.reason, options.reboot) == ("too slow", True)


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
        (["update", "--image="], "--image"),
        (["update", "--image=x", "--slot=c"], "--slot"),
        (["update", "--image=x", "--dry-run", "--reboot"], "--dry-run"),
        (["update", "--image=x", "--stage-only", "--reboot"], "--stage-only"),
        (["denied", "clear"], "--all"),
        (["denied", "clear", "1.0.0", "--all"], "--all"),
        (["denied", "clear", "all"], "--all"),
        (["denied", "forget"], "forget"),
        (["verify"], "IMG"),
        (["verify", "x", "--keys="], "--keys"),
        (["info", ""], "image"),
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
    for verb in VERBS:
        assert f"\n    {verb} " in text


def test_health_is_watched_or_a_check_is_run_but_not_both() -> None:
    assert cli.parse(["health", "--watch"]) == Options("health", watch=True)
    assert cli.parse(["health", "--run=mounts"]) == Options("health", run="mounts")
    with pytest.raises(InvalidArgument, match="not allowed with"):
        cli.parse(["health", "--watch", "--run=mounts"])


@pytest.mark.parametrize("name", ["", " ", "a\nb"])
def test_name_of_a_check_is_a_printable_word(name: str) -> None:
    with pytest.raises(InvalidArgument, match="name of the check"):
        cli.parse(["health", f"--run={name}"])
