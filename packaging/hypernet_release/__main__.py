# SPDX-License-Identifier: Apache-2.0
"""hypernet-image(1): build, sign and install system images."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import InvalidArgument, report
from hypernet_release import build, config, install

_REPOSITORY = Path(__file__).resolve().parents[2]
_INSTALLED = Path("/usr/share/hypernet-release/image")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status of the table in hypernet-image(1)."""
    arguments = _parser().parse_args(argv)
    try:
        if os.geteuid() != 0:
            raise InvalidArgument("building and installing images needs root: owners and loop devices; use sudo")
        if arguments.verb == "build":
            print(build.build(_build_request(arguments)))
        else:
            version = install.install(_install_request(arguments))
            print(f"{arguments.disk}: slot A holds {version}; it boots with {install.TRIES} tries")
        return 0
    except KeyboardInterrupt:
        print("hypernet-image: interrupted; nothing was kept", file=sys.stderr)
        return 130
    except Exception as error:
        return report(error, program="hypernet-image")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hypernet-image", description="Build and install Hypernet Core system images.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    make = verbs.add_parser("build", help="build hypernet-X.Y.Z.img, .img.sha256 and .img.asc")
    make.add_argument("config", type=Path, metavar="CONFIG", help="build-config.yaml")
    make.add_argument("--version", help="version X.Y.Z instead of hypernet_version")
    make.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the image")
    make.add_argument("--agents", type=Path, metavar="DEB", help="hypernet-agents .deb; default: built from this repository")
    make.add_argument("--gnupg-home", type=Path, metavar="DIR", help="GnuPG home with the signing key")
    make.add_argument("--cache", type=Path, metavar="DIR", help="keep the slow steps' results here")
    make.add_argument("--overlay", type=Path, action="append", default=[], metavar="DIR", help="files over the root tree")
    make.add_argument("--package", action="append", default=[], metavar="NAME", help="one more Debian package")
    make.add_argument("--kernel-arg", action="append", default=[], metavar="ARG", help="one more kernel argument")
    put = verbs.add_parser("install", help="lay out a disk and put an image into slot A")
    put.add_argument("image", type=Path, metavar="IMG")
    put.add_argument("disk", type=Path, metavar="DISK", help="block device or file")
    put.add_argument("--size", metavar="SIZE", help="create DISK as a file of this size, such as 4G")
    put.add_argument("--wipe", action="store_true", help="give up what is on DISK")
    return parser


def _image_data() -> Path:
    inside = _REPOSITORY / "packaging/image"
    return inside if inside.is_dir() else _INSTALLED


def _build_request(arguments: argparse.Namespace) -> build.Request:
    definition = config.load(arguments.config)
    if arguments.version:
        config.check_version(arguments.version, "--version")
    epoch = os.environ.get("SOURCE_DATE_EPOCH", str(build.DEFAULT_EPOCH))
    if not re.fullmatch(r"[0-9]{1,11}", epoch):
        raise InvalidArgument(f"SOURCE_DATE_EPOCH: {epoch!r} is not a number of seconds since 1970")
    for folder in arguments.overlay:
        if not folder.is_dir():
            raise InvalidArgument(f"--overlay: {folder} is not a folder")
    definition = dataclasses.replace(definition, packages=(*definition.packages, *arguments.package))
    return build.Request(
        config=definition,
        version=arguments.version or definition.version,
        agents_deb=arguments.agents or _agents_deb(arguments.cache or arguments.output),
        image_data=_image_data(),
        output=arguments.output,
        gnupg_home=arguments.gnupg_home,
        cache=arguments.cache,
        overlays=tuple(arguments.overlay),
        kernel_args=build.kernel_args(arguments.kernel_arg),
        epoch=int(epoch),
    )


def _agents_deb(folder: Path) -> Path:
    """Build hypernet-agents from the repository that this program runs from."""
    builder = _REPOSITORY / "packaging/build-deb"
    if not builder.exists():
        raise InvalidArgument("--agents: name the hypernet-agents .deb that goes into the image")
    subprocess.run([str(builder), str(folder / "deb")], check=True, stdout=sys.stderr, timeout=600)
    return max((folder / "deb").glob("hypernet-agents_*.deb"), key=lambda path: path.stat().st_mtime)


def _install_request(arguments: argparse.Namespace) -> install.Request:
    return install.Request(
        image=arguments.image,
        disk=arguments.disk,
        definitions=_image_data() / "repart.d",
        size_bytes=_size(arguments.size) if arguments.size else None,
        wipe=arguments.wipe,
    )


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})([MGT])", text)
    if not match:
        raise InvalidArgument(f"--size: {text!r} is not a size such as 4G or 500M")
    return int(match[1]) << {"M": 20, "G": 30, "T": 40}[match[2]]


if __name__ == "__main__":
    sys.exit(main())
