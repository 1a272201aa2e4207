# SPDX-License-Identifier: Apache-2.0
"""The command line of hypernet-image: options, messages and exit statuses."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypernet_release import __main__ as program
from hypernet_release import build, config, install
from tests.fakes.slot_images import Key

TOP = Path(__file__).parents[3]
CONFIG = str(TOP / "packaging/image/build-config.yaml")


@pytest.fixture(autouse=True)
def same_process() -> Iterator[None]:
    """main() changes the umask and a signal handler, for a program of its own."""
    umask, handler = os.umask(0o022), signal.getsignal(signal.SIGTERM)
    yield
    os.umask(umask)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[build.Request]:
    """The builds that were asked for; none is made."""
    asked: list[build.Request] = []

    def record(request: build.Request) -> Path:
        asked.append(request)
        return request.output / "image"

    monkeypatch.setattr(build, "build", record)
    return asked


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[install.Request]:
    """The installs that were asked for; none is made."""
    asked: list[install.Request] = []

    def record(request: install.Request) -> str:
        asked.append(request)
        return "1.2.3"

    monkeypatch.setattr(install, "install", record)
    return asked


def test_a_build_takes_the_version_of_its_configuration(builds: list[build.Request]) -> None:
    assert program.main(["build", CONFIG, "--output=out"]) == 0

    assert [(request.version, request.output) for request in builds] == [("0.1.0", Path("out"))]


def test_options_go_on_top_of_the_configuration(builds: list[build.Request], tmp_path: Path) -> None:
    argv = ["build", CONFIG, "--output=out", "--version=9.9.9", "--package=vim", "--package=htop"]
    program.main([*argv, "--kernel-arg=quiet", f"--overlay={tmp_path}"])
    (request,) = builds

    assert request.version == "9.9.9"
    assert request.config.packages[-2:] == ("vim", "htop")
    assert (request.kernel_args, request.overlays) == (("quiet",), (tmp_path,))


def test_options_state_what_the_manifest_says(builds: list[build.Request]) -> None:
    argv = ["build", CONFIG, "--output=out", "--channel=beta", "--serial=17", "--expires=90d"]
    program.main([*argv, "--min-version=1.0.0", "--min-from-version=1.1.0", "--issued=2026-11-23T12:00:00Z"])
    (request,) = builds

    assert request.config.statement == config.Statement(
        channel="beta", serial=17, valid_sec=90 * 86400.0, min_version="1.0.0", min_from_version="1.1.0"
    )
    assert request.issued_sec == 1_795_435_200


def test_without_options_the_configuration_states_what_the_manifest_says(
    builds: list[build.Request],
) -> None:
    program.main(["build", CONFIG, "--output=out"])
    (request,) = builds

    assert (request.config.statement, request.issued_sec) == (config.Statement(), None)


def test_a_build_prints_the_path_of_the_image(
    builds: list[build.Request], capsys: pytest.CaptureFixture[str]
) -> None:
    program.main(["build", CONFIG, "--output=out"])

    assert capsys.readouterr().out == "out/image\n"


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--version=1.2", "--version: '1.2' is not of the form X.Y.Z or X.Y.Z~rc1."),
        ("--package=-x", "--package: '-x' is not of the form NAME or NAME=VERSION."),
        ("--kernel-arg=a b", "--kernel-arg: 'a b' is not of the form one word of printable ASCII"),
        ("--overlay=/nowhere", "--overlay: /nowhere is not a folder."),
        ("--agents=/nowhere.deb", "--agents: /nowhere.deb is not a file; name the .deb of hypernet-agents."),
        ("--channel=Stable", "--channel: 'Stable' is not of the form a word of lower-case letters"),
        ("--serial=x", "--serial: 'x' is no number up to 9007199254740991."),
        ("--serial=9007199254740992", "--serial: '9007199254740992' is no number up to"),
        ("--expires=1h", "--expires: '1h' is not a time span from 1d to 3650d, such as 180d."),
        ("--expires=soon", "--expires: 'soon' is not a time span from 1d to 3650d, such as 180d."),
        ("--min-version=1", "--min-version: '1' is not of the form X.Y.Z"),
        ("--min-from-version=1", "--min-from-version: '1' is not of the form X.Y.Z"),
        ("--issued=now", "--issued: 'now' is not a UTC time such as 2026-11-23T12:00:00Z."),
    ],
)
def test_a_wrong_option_of_build_is_one_sentence(
    builds: list[build.Request], capsys: pytest.CaptureFixture[str], option: str, complaint: str
) -> None:
    status = program.main(["build", CONFIG, "--output=out", option])

    assert (status, builds) == (2, [])
    assert capsys.readouterr().err.startswith(f"hypernet-image: {complaint}")


@pytest.mark.parametrize(("text", "size"), [("500M", 500 << 20), ("4G", 4 << 30), ("2T", 2 << 40)])
def test_a_size_is_a_number_and_a_unit(installs: list[install.Request], text: str, size: int) -> None:
    program.main(["install", "x.img", "disk", f"--size={text}"])

    assert [request.size_bytes for request in installs] == [size]


@pytest.mark.parametrize("text", ["4", "4g", "G", "-1G", "4.5G", "4GB", "4 G", "9999999G"])
def test_another_size_is_refused(
    installs: list[install.Request], capsys: pytest.CaptureFixture[str], text: str
) -> None:
    status = program.main(["install", "x.img", "disk", f"--size={text}"])

    assert (status, installs) == (2, [])
    assert capsys.readouterr().err == f"hypernet-image: --size: '{text}' is not a size such as 4G or 500M.\n"


def test_an_install_uses_the_layout_of_the_product(installs: list[install.Request]) -> None:
    program.main(["install", "x.img", "/dev/sdx"])
    (request,) = installs

    assert (request.definitions, request.wipe) == (TOP / "packaging/image/repart.d", False)


def test_an_install_says_what_the_disk_holds(
    installs: list[install.Request], capsys: pytest.CaptureFixture[str]
) -> None:
    program.main(["install", "x.img", "/dev/sdx"])

    assert capsys.readouterr().out == "/dev/sdx: slot A holds 1.2.3; it boots with 3 tries\n"


def test_source_date_epoch_is_honoured(
    builds: list[build.Request], installs: list[install.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    program.main(["build", CONFIG, "--output=out"])
    program.main(["install", "x.img", "disk"])

    assert (builds[0].epoch, installs[0].epoch) == (1234567890, 1234567890)


def test_without_source_date_epoch_a_build_has_a_fixed_time(
    builds: list[build.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    program.main(["build", CONFIG, "--output=out"])

    assert [request.epoch for request in builds] == [build.DEFAULT_EPOCH]


def test_a_source_date_epoch_that_is_no_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")

    assert program.main(["install", "x.img", "disk"]) == 2
    assert capsys.readouterr().err == (
        "hypernet-image: SOURCE_DATE_EPOCH: 'yesterday' is not a number of seconds since 1970.\n"
    )


def test_a_configuration_error_has_its_own_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["build", "/nowhere.yaml", "--output=out"]) == 6
    assert capsys.readouterr().err == "hypernet-image: /nowhere.yaml: there is no such file; create it.\n"


def test_only_root_can_build_and_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert program.main(["build", CONFIG, "--output=out"]) == 4
    assert capsys.readouterr().err.endswith("build needs root for file owners and loop devices; use sudo.\n")


def test_a_full_disk_is_one_sentence_and_has_its_own_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_request: install.Request) -> str:
        raise OSError(28, "No space left on device", "/out/disk.img")

    monkeypatch.setattr(install, "install", full)

    assert program.main(["install", "x.img", "disk"]) == 18
    assert capsys.readouterr().err == "hypernet-image: Cannot use /out/disk.img: No space left on device.\n"


def test_an_output_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: Key
) -> None:
    (tmp_path / "file").touch()
    status = program.main(["build", CONFIG, f"--output={tmp_path}/file/out", f"--gnupg-home={key.home}"])

    assert status == 1
    assert capsys.readouterr().err == f"hypernet-image: Cannot use {tmp_path}/file/out: Not a directory.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_program_as_ctrl_c_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def wait(_request: install.Request) -> str:
        signal.raise_signal(number)
        return "not reached"

    monkeypatch.setattr(install, "install", wait)

    assert program.main(["install", "x.img", "disk"]) == 130
    assert capsys.readouterr().err == "hypernet-image: Interrupted.\n"


def test_files_are_written_with_the_usual_umask(installs: list[install.Request]) -> None:
    os.umask(0)
    program.main(["install", "x.img", "disk"])

    assert os.umask(0o022) == 0o022


@pytest.mark.parametrize("argv", [[], ["destroy"], ["build"], ["install", "x.img"]])
def test_a_wrong_command_line_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(argv)

    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: hypernet-image")
