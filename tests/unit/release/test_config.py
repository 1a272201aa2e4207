# SPDX-License-Identifier: Apache-2.0
"""build-config.yaml: what is read, and what is said about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ConfigError
from hypernet_release import config

TOP = Path(__file__).parents[3]

GOOD = """\
base_os: debian-12
hypernet_version: 1.2.3
python_version: "3.11"
packages:
  - systemd
  - nano=7.2-1+deb12u1
hypernet_dependencies:
  - h11==0.14.0
exclude:
  - /usr/share/doc/*
kernel_command_line:
  - console=ttyS0,115200
overlay:
  - files
keys:
  signing: "0123 4567 89ab cdef 0123  4567 89ab cdef 0123 4567"
  trusted: keys
channel: beta
serial: 17
expires: 90d
min_version: 1.0.0
min_from_version: 0.9.0~rc1
notes_url: https://hypernet.test/notes
filesystem: squashfs
verity: false
compression_level: 3
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    (tmp_path / "keys").mkdir()
    file = tmp_path / "build-config.yaml"
    file.write_text(GOOD)
    return file


def test_all_keys_of_a_configuration_are_read(path: Path) -> None:
    definition = config.load(path)

    assert definition == config.BuildConfig(
        base_os=config.BASE_OS["debian-12"],
        version="1.2.3",
        python_version="3.11",
        mirror="",
        packages=("systemd", "nano=7.2-1+deb12u1"),
        dependencies=("h11==0.14.0",),
        exclude=("/usr/share/doc/*",),
        overlay=(path.parent / "files",),
        kernel_args=("console=ttyS0,115200",),
        signing_key="0123456789ABCDEF0123456789ABCDEF01234567",
        trusted_keys=path.parent / "keys",
        statement=config.Statement(
            channel="beta",
            serial=17,
            valid_sec=90 * 86400.0,
            min_version="1.0.0",
            min_from_version="0.9.0~rc1",
            notes_url="https://hypernet.test/notes",
        ),
        filesystem="squashfs",
        verity=False,
        compression_level=3,
    )


def test_the_configuration_of_this_repository_is_valid() -> None:
    assert config.load(TOP / "packaging/image/build-config.yaml").base_os.suite == "bookworm"


def test_only_three_keys_are_required(path: Path) -> None:
    path.write_text('base_os: debian-12\nhypernet_version: 1.2.3\npython_version: "3.11"\n')

    definition = config.load(path)

    assert definition.trusted_keys is None
    assert (definition.filesystem, definition.verity) == ("erofs", True)
    assert definition.compression_level == 19
    assert definition.statement == config.Statement(
        channel="stable",
        serial=None,
        valid_sec=365 * 86400.0,
        min_version="0.0.0",
        min_from_version="0.0.0",
        notes_url="",
    )


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("base_os: debian-12", "base_os: debian-99", "1: base_os: "),
        ("base_os: debian-12\n", "", "1: base_os: is missing"),
        ("base_os: debian-12", "base_os: ubuntu-24.04-server", "1: mirror: noble has no default mirror"),
        ("1.2.3", "'1.2'", "2: hypernet_version: '1.2' is not of the form X.Y.Z"),
        ("1.2.3", "1.2.3-rc1", "2: hypernet_version: '1.2.3-rc1' is not of the form X.Y.Z or X.Y.Z~rc1"),
        ('"3.11"', "3.11", "3: python_version: must be a string, write it in quotes"),
        ('"3.11"', '"3"', "3: python_version: '3' is not of the form 3.N"),
        ("- systemd", "- system d", "4: packages: 'system d' is not of the form NAME"),
        ("- systemd", "- -oAPT::X=1", "4: packages: '-oAPT::X=1' is not of the form NAME"),
        ("h11==0.14.0", "h11", "7: hypernet_dependencies: 'h11' is not of the form NAME==VERSION"),
        ("h11==0.14.0", "--index-url=x", "7: hypernet_dependencies: '--index-url=x' is not of the form"),
        ("- /usr/share/doc/*", "- doc", "9: exclude: 'doc' is not of the form a path pattern"),
        ("console=ttyS0,115200", "a b", "11: kernel_command_line: 'a b' is not of the form one word"),
        ("console=ttyS0,115200", "root=/dev/sda1", "11: kernel_command_line: 'root=/dev/sda1' is not of"),
        ("console=ttyS0,115200", "roothash=0", "11: kernel_command_line: 'roothash=0' is not of the form"),
        ("- files", "- nowhere", "13: overlay: {folder}/nowhere is not a folder; create it"),
        ("0123 4567 89ab", "0123", "16: keys.signing: '0123CDEF0123456789ABCDEF01234567' is not a finger"),
        ("trusted: keys", "trusted: nokeys", "17: keys.trusted: {folder}/nokeys is not a folder"),
        ("trusted: keys", "private: x", "17: keys.private: unknown key, allowed here are: signing, trusted"),
        ("packages:", "package:", "4: package: unknown key, allowed here are: "),
        (
            "filesystem: squashfs",
            "filesystem: xfs",
            "24: filesystem: 'xfs' is not allowed, allowed are erofs",
        ),
        ("verity: false", "verity: maybe", "25: verity: "),
        ("compression_level: 3", "compression_level: 22", "26: compression_level: "),
        ("keys:", "mirror: bookworm\nkeys:", "15: mirror: 'bookworm' is not of the form URL"),
        ("channel: beta", "channel: Be ta", "18: channel: 'Be ta' is not of the form a word of lower-case"),
        ("serial: 17", "serial: -1", "19: serial: "),
        ("serial: 17", f"serial: {1 << 53}", "19: serial: "),
        ("expires: 90d", "expires: 1h", "20: expires: "),
        ("expires: 90d", "expires: 99999d", "20: expires: "),
        ("1.0.0", "1.x", "21: min_version: '1.x' is not of the form X.Y.Z"),
        ("0.9.0~rc1", "old", "22: min_from_version: 'old' is not of the form X.Y.Z"),
        ("https:", "http:", "23: notes_url: 'http://hypernet.test/notes' is not of the form https://"),
        ("keys:", "exclude: []\nkeys:", "15: exclude: is here twice, first in line 9"),
    ],
)
def test_a_mistake_is_reported_with_file_line_and_key(
    path: Path, old: str, new: str, complaint: str
) -> None:
    path.write_text(GOOD.replace(old, new, 1))

    with pytest.raises(ConfigError) as caught:
        config.load(path)

    assert str(caught.value).startswith(f"{path}:{complaint.format(folder=path.parent)}")


@pytest.mark.parametrize("version", ["0.1.0", "1.2.3", "10.20.30", "1.2.3~rc1"])
def test_a_version_is_three_numbers_and_a_part_that_comes_before_them(version: str) -> None:
    assert config.is_version(version)


@pytest.mark.parametrize(
    "version", ["1", "1.2", "1.2.3.4", "1.2.3-rc1", "1.2.3+3", "v1.2.3", "1.2.3\n", "1.2.3/x"]
)
def test_another_version_is_refused(version: str) -> None:
    assert not config.is_version(version)


@pytest.mark.parametrize("arg", ["quiet", "console=ttyS0,115200n8", "a.b=c"])
def test_a_kernel_argument_is_one_word(arg: str) -> None:
    assert config.is_kernel_arg(arg)


@pytest.mark.parametrize(
    "arg", ["", "a b", "a\n", "ä", "roothash=00", "root=x", "hypernet.rootsha256=0", "tab\t"]
)
def test_another_kernel_argument_is_refused(arg: str) -> None:
    assert not config.is_kernel_arg(arg)
