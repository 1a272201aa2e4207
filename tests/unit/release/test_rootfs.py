# SPDX-License-Identifier: Apache-2.0
"""The root tree: what mmdebstrap is asked for, overlays, and what makes a tree a slot."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from common import process
from hypernet_release import config, rootfs
from hypernet_release.errors import BuildError

MIRROR = "https://mirror.test/ubuntu"
PRESET = "usr/lib/systemd/system-preset/50-hypernet-image.preset"


@pytest.fixture
def ubuntu(tmp_path: Path) -> config.BuildConfig:
    path = tmp_path / "build-config.yaml"
    path.write_text(
        "base_os: ubuntu-24.04-server\n"
        "hypernet_version: 1.2.3\n"
        'python_version: "3.12"\n'
        f"mirror: {MIRROR}\n"
        "packages: [linux-image-generic, systemd]\n"
        "exclude: [/usr/share/doc/*]\n"
    )
    return config.load(path)


def test_ubuntu_is_bootstrapped_from_the_configured_mirror_with_its_keyring(
    ubuntu: config.BuildConfig,
) -> None:
    argv = rootfs.bootstrap_argv(ubuntu, ["dbus", "systemd"], Path("/out/base.tar"))

    assert argv[-5:] == [
        "noble",
        "/out/base.tar",
        MIRROR,
        f"deb {MIRROR} noble-updates main universe",
        f"deb {MIRROR} noble-security main universe",
    ]
    assert "--keyring=/usr/share/keyrings/ubuntu-archive-keyring.gpg" in argv
    assert "--components=main,universe" in argv


def test_packages_are_asked_for_once(ubuntu: config.BuildConfig) -> None:
    argv = rootfs.bootstrap_argv(ubuntu, ["dbus", "systemd"], Path("/out/base.tar"))

    assert "--include=linux-image-generic,systemd,dbus,usr-is-merged,python3-minimal,dracut" in argv


def test_excluded_paths_are_left_out_by_dpkg(ubuntu: config.BuildConfig) -> None:
    argv = rootfs.bootstrap_argv(ubuntu, [], Path("/out/base.tar"))

    assert "--dpkgopt=path-exclude=/usr/share/doc/*" in argv


def test_debian_is_bootstrapped_from_its_own_mirrors(ubuntu: config.BuildConfig) -> None:
    debian = dataclasses.replace(ubuntu, base_os=config.BASE_OS["debian-12"], mirror="")
    argv = rootfs.bootstrap_argv(debian, [], Path("/out/base.tar"))

    assert argv[-2:] == ["bookworm", "/out/base.tar"]
    assert "--keyring=/usr/share/keyrings/debian-archive-keyring.gpg" in argv


@pytest.mark.parametrize(
    ("base_os", "package"),
    [("ubuntu-24.04-server", "ubuntu-keyring"), ("debian-12", "debian-archive-keyring")],
)
def test_a_missing_keyring_is_told_with_its_package(
    ubuntu: config.BuildConfig, tmp_path: Path, base_os: str, package: str
) -> None:
    keyring = tmp_path / "keyring.gpg"
    base = dataclasses.replace(config.BASE_OS[base_os], keyring=keyring)
    definition = dataclasses.replace(ubuntu, base_os=base)

    with pytest.raises(
        BuildError, match=rf"^{keyring} is missing, .*; install the package {package}, or copy"
    ):
        rootfs.bootstrap(definition, [], tmp_path / "base.tar", tmp_path, 0)


def test_the_dependencies_of_a_package_are_the_first_of_each_alternative(tmp_path: Path) -> None:
    folder = tmp_path / "pkg"
    (folder / "DEBIAN").mkdir(parents=True)
    (folder / "DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x.test>\nDescription: x\n"
        "Depends: dbus, python3:any (>= 3.11), gpgv | gpg, systemd (>= 252)\n"
    )
    process.run(["dpkg-deb", "--build", str(folder), str(tmp_path / "x.deb")], timeout_sec=30)

    assert rootfs.depends(tmp_path / "x.deb") == ["dbus", "python3", "gpgv", "systemd"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "usr/lib").mkdir(parents=True)
    (top / "etc").mkdir()
    (top / "lib").symlink_to("usr/lib")
    return top


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    folder = tmp_path / "overlay"
    (folder / "etc").mkdir(parents=True)
    return folder


def test_the_files_of_an_overlay_land_in_the_tree(overlay: Path, tree: Path) -> None:
    (overlay / "lib/thing").mkdir(parents=True)
    (overlay / "lib/thing/file").write_text("x")
    rootfs.add_overlay(overlay, tree)

    assert (tree / "usr/lib/thing/file").read_text() == "x"


def test_an_overlay_replaces_a_link_instead_of_writing_through_it(
    overlay: Path, tree: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("host")
    (tree / "etc/file").symlink_to(outside)
    (overlay / "etc/file").write_text("image")
    rootfs.add_overlay(overlay, tree)

    assert (outside.read_text(), (tree / "etc/file").read_text()) == ("host", "image")


def test_an_overlay_cannot_leave_the_tree_by_a_link(overlay: Path, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tree / "srv").symlink_to(tmp_path / "outside")
    (overlay / "srv").mkdir()
    (overlay / "srv/file").write_text("x")

    with pytest.raises(BuildError, match=r"overlay/srv/file would leave the image by a symbolic link"):
        rootfs.add_overlay(overlay, tree)


def test_a_private_overlay_folder_does_not_make_the_root_private(overlay: Path, tree: Path) -> None:
    overlay.chmod(0o700)
    (overlay / "etc").chmod(0o700)
    rootfs.add_overlay(overlay, tree)

    assert [folder.stat().st_mode & 0o777 for folder in (tree, tree / "etc")] == [0o755, 0o755]


@pytest.mark.parametrize(("mode", "expected"), [(0o666, 0o644), (0o775, 0o755), (0o600, 0o600)])
def test_nobody_but_root_can_write_what_an_overlay_brings(
    overlay: Path, tree: Path, mode: int, expected: int
) -> None:
    (overlay / "etc/file").touch()
    (overlay / "etc/file").chmod(mode)
    rootfs.add_overlay(overlay, tree)

    assert (tree / "etc/file").stat().st_mode & 0o777 == expected


def test_a_link_of_an_overlay_stays_a_link(overlay: Path, tree: Path) -> None:
    (overlay / "etc/link").symlink_to("../nowhere")
    rootfs.add_overlay(overlay, tree)

    assert (tree / "etc/link").readlink() == Path("../nowhere")


def test_a_pipe_in_an_overlay_is_refused(overlay: Path, tree: Path) -> None:
    os.mkfifo(overlay / "etc/pipe")

    with pytest.raises(BuildError, match="etc/pipe is neither file, folder nor symbolic link"):
        rootfs.add_overlay(overlay, tree)


@pytest.fixture
def settled(ubuntu: config.BuildConfig, tree: Path) -> Path:
    """A tree with one unit, of version 2.0.0."""
    units = tree / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for name in ("wanted", "unwanted"):
        (units / f"{name}.service").write_text("[Install]\nWantedBy=multi-user.target\n")
    wants = tree / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "unwanted.service").symlink_to("/usr/lib/systemd/system/unwanted.service")
    (tree / PRESET).parent.mkdir()
    (tree / PRESET).write_text("# comment\nenable wanted.service\ndisable unwanted.service\n")
    (tree / "usr/lib/os-release").write_text("ID=debian\nIMAGE_VERSION=0\n")
    (tree / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tree / "etc/passwd-").touch()
    (tree / "var/lib/dpkg").mkdir(parents=True)
    (tree / "var/lib/dpkg/status").write_text(
        "Package: thing\nStatus: install ok installed\nVersion: 1.0-1\nArchitecture: all\n"
        "Maintainer: x <x@x.test>\nDescription: x\n"
    )
    rootfs.settle(tree, ubuntu, [], "2.0.0")
    return tree


def test_a_settled_tree_says_which_image_it_is(settled: Path) -> None:
    assert (
        settled / "usr/lib/os-release"
    ).read_text() == "ID=debian\nIMAGE_ID=hypernet\nIMAGE_VERSION=2.0.0\n"


def test_a_settled_tree_lists_its_packages(settled: Path) -> None:
    assert (settled / "usr/share/hypernet/packages").read_text() == "thing=1.0-1\n"


def test_a_settled_tree_has_no_identity(settled: Path) -> None:
    assert (settled / "etc/machine-id").read_bytes() == b""


def test_a_settled_tree_has_no_leftovers_and_empty_mount_points(settled: Path) -> None:
    assert not (settled / "etc/passwd-").exists()
    assert [list((settled / name).iterdir()) for name in ("efi", "config", "var", "boot")] == [
        [],
        [],
        [],
        [],
    ]


def test_the_presets_of_the_image_are_applied(settled: Path) -> None:
    wants = settled / "etc/systemd/system/multi-user.target.wants"

    assert [path.name for path in wants.iterdir()] == ["wanted.service"]
