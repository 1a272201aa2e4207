# SPDX-License-Identifier: Apache-2.0
"""Built-in check ``disk-space``: the writable partitions have room, for data and for files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agents.boot_health.builtins import mountinfo
from agents.boot_health.builtins.mountinfo import Mount
from agents.boot_health.builtins.outcome import Outcome, Probe
from common import config, text

LAYOUT: Final = ("/config", "/data", "/media", "/logs", "/var/log", "/cache", "/var/cache")
"""Where the partitions of the layout are mounted; images may use either name."""

_HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""The sandbox of hypernet-boot-health.service has something else there."""

_AMOUNT: Final = re.compile(r"([0-9]{1,15})(%|[KMGT]?)", re.ASCII)
_BYTES_BY_UNIT: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, slots=True)
class Amount:
    """A part of the whole in percent, or a number of bytes; the other one is 0."""

    percent: int = 0
    size_bytes: int = 0


def build(section: config.Section) -> Probe:
    """Read the options of the check. Raises ConfigError."""
    paths = section.get_strings("paths")
    for path in paths:
        if not path.startswith("/"):
            raise section.error("paths", f"'{path}' is no absolute path; write one such as /data")
        if any(os.path.normpath(path) == hidden or path.startswith(f"{hidden}/") for hidden in _HIDDEN):
            raise section.error("paths", f"'{path}' is not visible to this check; name its partition")
    free = _amount(section, "min_free")
    inodes = _amount(section, "min_free_inodes")
    if inodes.size_bytes:
        raise section.error("min_free_inodes", "must be a percentage such as 5%")

    def probe(_limit_sec: float) -> Outcome:
        return judge(paths or default_paths(mountinfo.read()), free, inodes.percent)

    return probe


def default_paths(mounts: Mapping[str, Mount]) -> tuple[str, ...]:
    """Return the partitions of the layout that are mounted."""
    return tuple(path for path in LAYOUT if path in mounts)


def judge(paths: tuple[str, ...], free: Amount, inodes_percent: int) -> Outcome:
    """Ask each file system; what users without privileges may still take is what counts, as in df(1)."""
    if not paths:
        return Outcome(True, "No partition of the layout is mounted.")
    outcomes = [_judge(path, free, inodes_percent) for path in paths]
    shown = [outcome.text for outcome in outcomes if not outcome.passed] or [item.text for item in outcomes]
    return Outcome(all(outcome.passed for outcome in outcomes), "\n".join(shown))


def _judge(path: str, free: Amount, inodes_percent: int) -> Outcome:
    try:
        found = os.statvfs(path)
    except OSError as error:
        return Outcome(False, f"{path} cannot be asked for its free space: {error.strerror}.")
    usable = found.f_blocks - found.f_bfree + found.f_bavail
    percent = 100 * found.f_bavail / usable if usable else 0.0
    size_bytes = found.f_bavail * found.f_frsize
    line = f"{path} has {text.size(size_bytes)} ({percent:.1f} %) free"
    if percent < free.percent:
        return Outcome(False, f"{line}, at least {free.percent} % are wanted.")
    if size_bytes < free.size_bytes:
        return Outcome(False, f"{line}, at least {text.size(free.size_bytes)} are wanted.")
    # File systems without a fixed number of inodes say that they have 0 (vfat, btrfs).
    if found.f_files and 100 * found.f_favail < inodes_percent * found.f_files:
        return Outcome(
            False,
            f"{path} has {found.f_favail} of {found.f_files} inodes free,"
            f" at least {inodes_percent} % are wanted.",
        )
    return Outcome(True, f"{line}.")


def _amount(section: config.Section, key: str) -> Amount:
    match = _AMOUNT.fullmatch(section.get_str(key, "5%"))
    if match is None or (match[2] == "%" and int(match[1]) > 99):
        raise section.error(key, "must be a percentage below 100 or a size, such as 5%, 500M or 2G")
    if match[2] == "%":
        return Amount(percent=int(match[1]))
    return Amount(size_bytes=int(match[1]) * _BYTES_BY_UNIT[match[2]])
