# SPDX-License-Identifier: Apache-2.0
"""hypernet-image(1): build, sign, inspect, lint and install system images."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import functools
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from common import duration, image, manifest, trust
from common.errors import AgentError, InvalidArgument, NotPermitted, report
from common.files import FileSystemFull
from common.image import description
from hypernet_release import build, config, deltas, install, lint
from hypernet_release.errors import ImageUnfit

_PROGRAM = "hypernet-image"
_JSON_FORMAT = 1
_REPOSITORY_DATA = Path(__file__).resolve().parents[1] / "image"
_INSTALLED_DATA = Path("/usr/share/hypernet-release/image")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status of the table in hypernet-image(1)."""
    arguments = _parser().parse_args(argv)
    # What is written is for others to read, and its modes must not depend on who builds.
    os.umask(0o022)
    # Like Ctrl+C, so that temporary folders are removed and programs that we started end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if arguments.verb == "lint":
            return _lint(arguments.image, as_json=arguments.json)
        if arguments.verb in ("info", "verify"):
            return _show(arguments)
        if arguments.verb == "delta":
            print(deltas.make(arguments.old, arguments.new, arguments.output or arguments.new.parent))
            return 0
        if os.geteuid() != 0:
            raise NotPermitted(
                f"{_PROGRAM} {arguments.verb} needs root for file owners and loop devices; use sudo."
            )
        if arguments.verb == "build":
            print(build.build(_build_request(arguments)))
        else:
            version = install.install(_install_request(arguments))
            print(f"{arguments.disk}: slot A holds {version}; it boots with {install.TRIES} tries")
        return 0
    except OSError as error:
        return report(_system_error(error), program=_PROGRAM)
    except (Exception, KeyboardInterrupt) as error:
        return report(error, program=_PROGRAM)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM, description="Build, check and install Hypernet Core system images."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    make = verbs.add_parser("build", help="build and sign hypernet-X.Y.Z.img and its manifest")
    make.add_argument("config", type=Path, metavar="CONFIG", help="build-config.yaml")
    make.add_argument("--version", help="version X.Y.Z instead of hypernet_version")
    make.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the image")
    make.add_argument(
        "--agents", type=Path, metavar="DEB", help="hypernet-agents; default: built from source"
    )
    make.add_argument("--gnupg-home", type=Path, metavar="DIR", help="GnuPG home with the signing key")
    make.add_argument("--cache", type=Path, metavar="DIR", help="keep the slow steps' results here")
    more = functools.partial(make.add_argument, action="append", default=[])
    more("--overlay", type=Path, metavar="DIR", help="files over the root tree")
    more("--package", metavar="NAME", help="one more Debian package")
    more("--kernel-arg", metavar="ARG", help="one more kernel argument")
    make.add_argument(
        "--compression-level",
        type=int,
        choices=range(1, config.MAX_COMPRESSION_LEVEL + 1),
        metavar="N",
        help="1 is fast, 19 small",
    )
    make.add_argument("--channel", help="channel of the release instead of the configuration's")
    make.add_argument("--serial", metavar="N", help="serial number; default: follows from the version")
    make.add_argument("--expires", metavar="TIME", help="time from issue to expiry, such as 180d")
    make.add_argument(
        "--min-version", metavar="VERSION", help="oldest version that may be installed after it"
    )
    make.add_argument("--min-from-version", metavar="VERSION", help="oldest version that may update to it")
    make.add_argument("--issued", metavar="TIME", help="time in the manifest; default: now")

    show = verbs.add_parser("info", help="show what an image says about itself")
    show.add_argument("image", type=Path, metavar="IMG", help=".img or .img.zst")
    show.add_argument("--json", action="store_true", help="print one JSON object")

    prove = verbs.add_parser("verify", help="check signature, hashes and parts of an image")
    prove.add_argument("image", type=Path, metavar="IMG", help=".img or .img.zst")
    prove.add_argument(
        "--keys", type=Path, required=True, metavar="DIR", help="folder with the trusted keys"
    )
    prove.add_argument("--json", action="store_true", help="print one JSON object")

    look = verbs.add_parser("lint", help="check that servers with an image could update themselves again")
    look.add_argument("image", type=Path, metavar="IMG")
    look.add_argument("--json", action="store_true", help="print one JSON object")

    small = verbs.add_parser("delta", help="make the file that brings servers from one release to another")
    small.add_argument("old", type=Path, metavar="OLD", help="image that the servers run")
    small.add_argument("new", type=Path, metavar="NEW", help="image of the release")
    small.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the file; default: that of NEW"
    )

    put = verbs.add_parser("install", help="lay out a disk and put an image into slot A")
    put.add_argument("image", type=Path, metavar="IMG")
    put.add_argument("disk", type=Path, metavar="DISK", help="block device or file")
    put.add_argument("--size", metavar="SIZE", help="create DISK as a file of this size, such as 4G")
    put.add_argument("--wipe", action="store_true", help="give up what is on DISK")
    return parser


def _build_request(arguments: argparse.Namespace) -> build.Request:
    definition = config.load(arguments.config)
    version = arguments.version or definition.version
    _check("--version", [version], config.is_version, config.VERSION_FORM)
    _check("--package", arguments.package, config.is_package, config.PACKAGE_FORM)
    _check("--kernel-arg", arguments.kernel_arg, config.is_kernel_arg, config.KERNEL_ARG_FORM)
    for folder in arguments.overlay:
        if not folder.is_dir():
            raise InvalidArgument(f"--overlay: {folder} is not a folder.")
    if arguments.agents is not None and not arguments.agents.is_file():
        raise InvalidArgument(
            f"--agents: {arguments.agents} is not a file; name the .deb of hypernet-agents."
        )
    definition = dataclasses.replace(
        definition,
        packages=(*definition.packages, *arguments.package),
        statement=_statement(arguments, definition.statement),
        compression_level=arguments.compression_level or definition.compression_level,
    )
    epoch = _epoch()
    return build.Request(
        config=definition,
        version=version,
        agents_deb=arguments.agents,
        image_data=_image_data(),
        output=arguments.output,
        gnupg_home=arguments.gnupg_home,
        cache=arguments.cache,
        overlays=tuple(arguments.overlay),
        kernel_args=tuple(arguments.kernel_arg),
        epoch=build.DEFAULT_EPOCH if epoch is None else epoch,
        issued_sec=_time(arguments.issued) if arguments.issued else None,
    )


def _statement(arguments: argparse.Namespace, statement: config.Statement) -> config.Statement:
    """The statement of the configuration with the options of the command line over it."""
    for option, name in (("--min-version", "min_version"), ("--min-from-version", "min_from_version")):
        if text := getattr(arguments, name):
            _check(option, [text], config.is_version, config.VERSION_FORM)
            statement = dataclasses.replace(statement, **{name: text})
    if arguments.channel:
        _check("--channel", [arguments.channel], config.is_channel, config.CHANNEL_FORM)
        statement = dataclasses.replace(statement, channel=arguments.channel)
    if arguments.serial:
        if not re.fullmatch(r"[0-9]{1,16}", arguments.serial) or int(arguments.serial) > manifest.MAX_SERIAL:
            raise InvalidArgument(
                f"--serial: '{arguments.serial}' is no number up to {manifest.MAX_SERIAL}."
            )
        statement = dataclasses.replace(statement, serial=int(arguments.serial))
    if arguments.expires:
        statement = dataclasses.replace(statement, valid_sec=_valid_sec(arguments.expires))
    return statement


def _lint(path: Path, *, as_json: bool) -> int:
    found = lint.lint_image(path)
    if as_json:
        findings = [{"rule": finding.rule, "message": finding.message} for finding in found.findings]
        shown = {"image": str(path), "version": found.version, "root_hash": found.root_hash}
        print(json.dumps(shown | {"findings": findings}, indent=2))
    else:
        for finding in found.findings:
            print(finding.message)
    return ImageUnfit.exit_status if found.findings else 0


def _show(arguments: argparse.Namespace) -> int:
    if arguments.verb == "verify":
        found = image.inspect(arguments.image, store=trust.load(arguments.keys))
        signature = description.good(found)
    else:
        found = image.inspect(arguments.image, store=None)
        signature = "not checked; 'hypernet-image verify' checks it"
    if arguments.json:
        print(json.dumps({"format": _JSON_FORMAT, **description.values(found)}, indent=2))
    else:
        print(description.describe(found, signature, now_sec=int(time.time())), end="")
    return 0


def _install_request(arguments: argparse.Namespace) -> install.Request:
    return install.Request(
        image=arguments.image,
        disk=arguments.disk,
        definitions=_image_data() / "repart.d",
        size_bytes=_size(arguments.size) if arguments.size else None,
        wipe=arguments.wipe,
        epoch=_epoch(),
    )


def _check(option: str, values: Sequence[str], allowed: Callable[[str], bool], form: str) -> None:
    for value in values:
        if not allowed(value):
            raise InvalidArgument(f"{option}: '{value}' is not of the form {form}.")


def _image_data() -> Path:
    return _REPOSITORY_DATA if _REPOSITORY_DATA.is_dir() else _INSTALLED_DATA


def _epoch() -> int | None:
    """The time that SOURCE_DATE_EPOCH gives, in seconds since 1970; None if it is not set."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if text and not re.fullmatch(r"[0-9]{1,11}", text):
        raise InvalidArgument(f"SOURCE_DATE_EPOCH: '{text}' is not a number of seconds since 1970.")
    return int(text) if text else None


def _time(text: str) -> int:
    try:
        return duration.parse_time_sec(text)
    except ValueError:
        raise InvalidArgument(
            f"--issued: '{text}' is not a UTC time such as 2026-11-23T12:00:00Z."
        ) from None


def _valid_sec(text: str) -> float:
    try:
        seconds = duration.parse_sec(text)
    except ValueError:
        seconds = 0.0
    if not config.MIN_VALID_SEC <= seconds <= config.MAX_VALID_SEC:
        raise InvalidArgument(f"--expires: '{text}' is not a time span from 1d to 3650d, such as 180d.")
    return seconds


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})([MGT])", text)
    if not match:
        raise InvalidArgument(f"--size: '{text}' is not a size such as 4G or 500M.")
    return int(match[1]) << {"M": 20, "G": 30, "T": 40}[match[2]]


def _system_error(error: OSError) -> AgentError:
    """One sentence for what the operating system refused."""
    if error.strerror is None:  # shutil.Error: a list of (source, target, why)
        return AgentError(f"Not all files could be copied: {str(error)[:300]}.")
    where = error.filename or "the file that was written"
    kind = FileSystemFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else AgentError
    return kind(f"Cannot use {where}: {error.strerror}.")


if __name__ == "__main__":
    sys.exit(main())
