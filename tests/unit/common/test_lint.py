# SPDX-License-Identifier: Apache-2.0
"""Each rule: what is left out of an image is found, and an image that has it all is fit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from common import files, lint, process
from common.errors import ConfigError
from tests.fakes import root_images, slot_images
from tests.fakes.root_images import UNITS
from tests.fakes.slot_images import Key

ROOT_HASH = "0123456789abcdef" * 4
CMDLINE = f"roothash={ROOT_HASH} ro {root_images.KERNEL_ARGS}"
NOW_SEC = int(time.time())
DAY_SEC = 86400
KEYS = root_images.TRUSTED_KEYS
AGENTS = [
    name for name in root_images.FILES if "hypernet" in name and not name.startswith((UNITS, "usr/share"))
]
ON_BOOT = [name for name in root_images.FILES if name.startswith(f"{UNITS}/")]
ENABLED = [name for name in root_images.LINKS if name.startswith("etc/systemd")]
Look = Callable[..., tuple[lint.Finding, ...]]


class Descriptor:
    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        os.close(self.number)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Key, Key]:
    """Two keys, the first of which expires in ten days."""
    home = tmp_path_factory.mktemp("gpg") / "home"
    return slot_images.make_key(home, "first", expire="10d"), slot_images.make_key(home, "second")


@pytest.fixture
def trusted(tmp_path: Path, keys: tuple[Key, Key]) -> Path:
    """A key set of the first key."""
    slot_images.trust(tmp_path / "trusted", keys[0])
    return tmp_path / "trusted"


@pytest.fixture
def look(tmp_path: Path, trusted: Path, keys: tuple[Key, Key]) -> Look:
    """Lint a root file system, complete but for the arguments."""

    def check(
        *,
        leave_out: Collection[str] = (),
        extra: Mapping[str, bytes] = {},
        cmdline: str = CMDLINE,
        channel: str = "stable",
        signers: Collection[str] = (keys[0].fingerprint,),
        schema: int = 1,
        now_sec: int = NOW_SEC + DAY_SEC,
    ) -> tuple[lint.Finding, ...]:
        image = tmp_path / "root"
        root_images.make_root(image, trusted=trusted, leave_out=leave_out, extra=extra)
        return check_file(image, cmdline, channel, signers, schema, now_sec)

    return check


def check_file(
    image: Path,
    cmdline: str = CMDLINE,
    channel: str = "stable",
    signers: Collection[str] = (),
    schema: int = 1,
    now_sec: int = NOW_SEC,
) -> tuple[lint.Finding, ...]:
    with closing(Descriptor(image)) as descriptor:
        return lint.check(
            lint.open_root(descriptor.number, 0, image.stat().st_size, "root of IMG"),
            cmdline=cmdline,
            root_hash=ROOT_HASH,
            channel=channel,
            signers=signers,
            config_schema_here=schema,
            now_sec=now_sec,
        )


def only(findings: tuple[lint.Finding, ...], rule: str) -> str:
    """The message of the only finding."""
    assert [finding.rule for finding in findings] == [rule]
    message = findings[0].message
    assert message.endswith(".")
    assert message.count(". ") == 0
    return message


def test_a_complete_image_is_fit(look: Look) -> None:
    assert look() == ()


def test_no_room_to_unpack_the_keys_is_no_fault_of_the_image(
    tmp_path: Path, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root_images.make_root(tmp_path / "root", trusted=trusted)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(files.FileUnwritable):
        check_file(tmp_path / "root")


@pytest.mark.parametrize("name", [*AGENTS, "usr/bin/python3", "usr/bin/python3.11", "usr/bin/gpgv"])
def test_an_image_without_a_program_of_the_agents_is_unfit(look: Look, name: str) -> None:
    message = only(look(leave_out=[name]), "agents")

    assert name.removesuffix(".11") in message
    assert "could not update itself again" in message


@pytest.mark.parametrize("name", ON_BOOT)
def test_an_image_without_a_unit_that_judges_boots_is_unfit(look: Look, name: str) -> None:
    assert f"no unit file {name.removeprefix(UNITS + '/')}, or masks it" in only(
        look(leave_out=[name]), "boot-complete"
    )


@pytest.mark.parametrize("name", ON_BOOT)
def test_an_image_that_masks_such_a_unit_is_unfit(look: Look, name: str) -> None:
    mask = name.replace(UNITS, "etc/systemd/system")

    assert "masks it" in only(look(extra={mask: b""}), "boot-complete")


@pytest.mark.parametrize("name", ENABLED)
def test_an_image_that_does_not_enable_such_a_unit_is_unfit(look: Look, name: str) -> None:
    folder, unit = name.split("/")[-2:]

    assert f"does not enable {unit} in {folder}" in only(look(leave_out=[name]), "boot-complete")


def test_a_unit_may_be_enabled_by_the_vendor(look: Look) -> None:
    name = ENABLED[0]
    moved = name.replace("etc/systemd/system", UNITS)

    assert look(leave_out=[name], extra={moved: b"[Unit]\n"}) == ()


def test_an_image_whose_boots_cannot_be_counted_is_unfit(look: Look) -> None:
    assert "package systemd-boot" in only(
        look(leave_out=["usr/lib/systemd/systemd-bless-boot"]), "boot-complete"
    )


PLAIN = f"root=PARTUUID=01234567-89ab-cdef-0123-456789abcdef hypernet.rootsha256={ROOT_HASH}"


def test_an_image_without_a_hash_tree_names_its_root_by_its_hash(look: Look) -> None:
    assert look(cmdline=CMDLINE.replace(f"roothash={ROOT_HASH}", PLAIN)) == ()


@pytest.mark.parametrize(
    "arguments",
    [
        PLAIN.split()[0],
        PLAIN.split()[1],
        PLAIN.replace("0123456789abcdef0", "1123456789abcdef0"),
        PLAIN.replace("PARTUUID=0", "PARTUUID=1"),
        f"{PLAIN} roothash={ROOT_HASH}",
        f"{PLAIN} root=/dev/sda1",
        f"roothash={ROOT_HASH} root=/dev/sda1",
        f"roothash={ROOT_HASH} {PLAIN.split()[1]}",
    ],
)
def test_a_root_that_is_named_otherwise_is_unfit(look: Look, arguments: str) -> None:
    cmdline = CMDLINE.replace(f"roothash={ROOT_HASH}", arguments)

    assert "so it would start another system" in only(look(cmdline=cmdline), "cmdline")


@pytest.mark.parametrize(
    "arguments", ["panic=10", "panic=0 panic=5", "panic=-1", "panic=10 rd.shell=1 rd.emergency=halt"]
)
def test_the_last_of_equal_kernel_arguments_counts(look: Look, arguments: str) -> None:
    cmdline = f"{arguments} roothash={ROOT_HASH} rd.shell=no rd.emergency=reboot"

    assert look(cmdline=cmdline) == ()


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("panic=10", "", "no panic= with a number of seconds"),
        ("panic=10", "panic=0", "no panic="),
        ("panic=10", "panic=ten", "no panic="),
        ("panic=10", "panic=10 panic=0", "no panic="),
        ("rd.emergency=reboot", "", "both rd.shell=0 and rd.emergency=reboot"),
        ("rd.emergency=reboot", "rd.emergency=halt", "both rd.shell=0 and rd.emergency=reboot"),
        ("rd.shell=0", "", "both rd.shell=0 and rd.emergency=reboot"),
        ("rd.shell=0", "rd.shell", "both rd.shell=0 and rd.emergency=reboot"),
        (f"roothash={ROOT_HASH}", "", "exactly one roothash="),
        (f"roothash={ROOT_HASH}", f"roothash={'f' * 64}", "exactly one roothash="),
        ("ro ", f"roothash={ROOT_HASH} ", "exactly one roothash="),
    ],
)
def test_a_kernel_command_line_that_could_stand_still_is_unfit(
    look: Look, old: str, new: str, part: str
) -> None:
    assert part in only(look(cmdline=CMDLINE.replace(old, new)), "cmdline")


def test_an_image_without_a_key_set_is_unfit(look: Look) -> None:
    message = only(look(leave_out=[KEYS]), "keys")

    assert message.startswith(f"The key set of the image cannot be used: /{KEYS}/fingerprints.yaml: ")


def test_a_key_set_that_cannot_be_read_is_named_by_its_place_in_the_image(look: Look) -> None:
    listing = {f"{KEYS}/fingerprints.yaml": b"epoch: 1\nfingerprints:\n  - fingerprint: ABCD\n"}

    assert f"/{KEYS}/fingerprints.yaml:3: fingerprints[0].fingerprint: 'ABCD'" in only(
        look(extra=listing), "keys"
    )


def test_a_key_set_whose_public_key_is_missing_is_unfit(look: Look) -> None:
    only(look(leave_out=[f"{KEYS}/key0.asc"]), "keys")


def test_a_key_set_for_another_channel_is_unfit(look: Look) -> None:
    message = only(look(channel="beta", signers=()), "keys")

    assert message.startswith(
        f"/{KEYS} of the image has 0 keys that can still sign a release of the channel beta"
    )


def test_a_key_that_expires_before_the_next_release_is_no_key(look: Look) -> None:
    assert look(now_sec=NOW_SEC + 9 * DAY_SEC) == ()
    assert "has 0 keys that can still sign" in only(look(now_sec=NOW_SEC + 11 * DAY_SEC, signers=()), "keys")


@pytest.mark.parametrize("limit", ["not_after: 2020-01-01", "not_before: 2100-01-01"])
def test_a_key_outside_its_time_of_trust_is_no_key(look: Look, trusted: Path, limit: str) -> None:
    listing = (trusted / "fingerprints.yaml").read_text().replace("purpose:", f"{limit}, purpose:")
    extra = {f"{KEYS}/fingerprints.yaml": listing.encode()}

    assert "has 0 keys that can still sign" in only(look(extra=extra, signers=()), "keys")


def test_fewer_keys_than_the_threshold_are_unfit(look: Look, trusted: Path, keys: tuple[Key, Key]) -> None:
    slot_images.trust(trusted, keys[0], threshold=2)

    assert "has 1 keys that can still sign" in only(look(), "keys")


def test_as_many_keys_as_the_threshold_are_fit(look: Look, trusted: Path, keys: tuple[Key, Key]) -> None:
    slot_images.trust(trusted, *keys, threshold=2)

    assert look() == ()


def test_a_key_that_the_set_itself_revokes_is_no_key(
    look: Look, trusted: Path, keys: tuple[Key, Key]
) -> None:
    slot_images.trust(trusted, *keys, revoked=keys[:1])

    assert "No key that signed this image" in only(look(), "keys")


def test_an_image_that_would_refuse_its_own_signer_is_unfit(look: Look, keys: tuple[Key, Key]) -> None:
    message = only(look(signers=[keys[1].fingerprint]), "keys")

    assert message.startswith("No key that signed this image is good for the channel stable in its own ")


def test_one_signer_of_several_is_enough(look: Look, keys: tuple[Key, Key]) -> None:
    assert look(signers=[key.fingerprint for key in keys]) == ()


def test_an_image_for_an_older_configuration_is_unfit(look: Look) -> None:
    version = {root_images.CONFIG_VERSION: b"2\n"}

    assert "version 2, the one here has version 3" in only(look(extra=version, schema=3), "config")
    assert look(extra=version, schema=2) == ()
    assert look(extra=version, schema=1) == ()


def test_an_image_that_names_no_configuration_version_is_for_the_first(look: Look) -> None:
    assert look(leave_out=[root_images.CONFIG_VERSION], schema=1) == ()
    assert "version 1, the one here has" in only(
        look(leave_out=[root_images.CONFIG_VERSION], schema=2), "config"
    )


@pytest.mark.parametrize("text", [b"", b"one", b"-1", b"1 2"])
def test_a_configuration_version_that_is_no_number_is_found(look: Look, text: bytes) -> None:
    assert "holds no number" in only(look(extra={root_images.CONFIG_VERSION: text}), "config")


@pytest.mark.parametrize("filesystem", ["erofs", "ext4", "squashfs"])
def test_an_image_with_each_kind_of_file_system_is_fit(
    tmp_path: Path, trusted: Path, filesystem: str
) -> None:
    root_images.make_root(tmp_path / "root", trusted=trusted, filesystem=filesystem)

    assert check_file(tmp_path / "root", now_sec=NOW_SEC + DAY_SEC) == ()


def test_another_file_system_is_a_finding(tmp_path: Path) -> None:
    process.run(["mkfs.vfat", "-C", str(tmp_path / "root"), "1024"], timeout_sec=60)

    assert only(check_file(tmp_path / "root"), "filesystem") == (
        "root of IMG holds neither an erofs nor an ext4 nor a squashfs file system."
    )


def test_a_partition_of_a_few_bytes_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(b"hsqs")

    assert "damaged file system" in only(check_file(tmp_path / "root"), "filesystem")


def test_a_damaged_file_system_is_a_finding(tmp_path: Path, trusted: Path) -> None:
    root_images.make_root(tmp_path / "root", trusted=trusted)
    data = (tmp_path / "root").read_bytes()
    (tmp_path / "root").write_bytes(data[:1200] + bytes(len(data) - 1200))

    assert only(check_file(tmp_path / "root"), "filesystem").startswith(
        "root of IMG has a damaged file system"
    )


def test_everything_that_is_missing_is_told_at_once(look: Look) -> None:
    findings = look(leave_out=["usr/bin/gpgv", KEYS, ENABLED[0]], cmdline="", schema=2)

    assert [finding.rule for finding in findings] == [
        "cmdline",
        "cmdline",
        "cmdline",
        "agents",
        "boot-complete",
        "keys",
        "config",
    ]


def test_the_configuration_version_of_an_image_is_read(tmp_path: Path) -> None:
    for content, expected in ((b"7\n", 7), (b"one", None)):
        root_images.make_root(tmp_path / "root", trusted=None, extra={root_images.CONFIG_VERSION: content})
        with closing(Descriptor(tmp_path / "root")) as descriptor:
            root = lint.open_root(descriptor.number, 0, (tmp_path / "root").stat().st_size, "IMG")
            if expected is None:
                with pytest.raises(ConfigError):
                    lint.config_version(root)
            else:
                assert lint.config_version(root) == expected
