# SPDX-License-Identifier: Apache-2.0
"""Built-in check ``mounts``: what is in fstab(5) is mounted, with its hardening, writable or not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agents.boot_health.builtins import mountinfo
from agents.boot_health.builtins.mountinfo import Mount
from agents.boot_health.builtins.outcome import Outcome, Probe
from common import config, files, units
from common.errors import AgentError

FSTAB: Final = Path("/etc/fstab")
_MAX_BYTES: Final = 1 << 20
_POLL_SEC: Final = 0.5
_ESCAPED: Final = re.compile(rb"^\.|[^A-Za-z0-9:_./]")
_HARDENING: Final = ("nodev", "nosuid", "noexec")
_WEAKENING: Final = {"dev": "nodev", "suid": "nosuid", "exec": "noexec"}
_FOR_USERS: Final = {
    "user": _HARDENING,
    "users": _HARDENING,
    "owner": _HARDENING[:2],
    "group": _HARDENING[:2],
}


@dataclass(frozen=True, slots=True)
class Expected:
    """How a mount has to be. hardening: of nodev, nosuid and noexec those that it must have."""

    point: str
    hardening: frozenset[str] = frozenset(_HARDENING)
    read_only: bool = False
    automount: bool = False


def build(section: config.Section) -> Probe:
    """Read the options of the check. Raises ConfigError."""
    points = section.get_strings("paths")
    for point in points:
        if not point.startswith("/"):
            raise section.error("paths", f"'{point}' is no absolute path; write one such as /data")
    nofail = section.get_bool("nofail", default=False)
    if nofail and points:
        raise section.error("nofail", "is about fstab(5); leave it out beside 'paths'")

    def probe(limit_sec: float) -> Outcome:
        expected = tuple(Expected(_plain(point)) for point in points) or fstab(FSTAB, nofail=nofail)
        return wait(expected, mountinfo.read, limit_sec)

    return probe


def on_the_way(points: Sequence[str]) -> bool:
    """Whether systemd still waits for a device, checks a file system, or mounts at one of these points."""
    try:
        with units.connect("ask what is being mounted") as systemd:
            return any(systemd.busy(unit_of(point)) for point in points)
    except AgentError:
        return True  # the time limit holds all the same


def wait(
    expected: tuple[Expected, ...],
    read: Callable[[], Mapping[str, Mount]],
    limit_sec: float,
    *,
    coming: Callable[[Sequence[str]], bool] = on_the_way,
    poll_sec: float = _POLL_SEC,
) -> Outcome:
    """Judge when everything is mounted, nothing that is missing is coming any more, or the time is over.

    Raises what `read` raises.
    """
    end = time.monotonic() + limit_sec
    while True:
        found = read()
        left_sec = end - time.monotonic()
        missing = [item.point for item in expected if item.point not in found]
        if not missing or left_sec <= 0:
            return judge(expected, found)
        if not coming(missing):
            return judge(expected, read())  # it may have come in between
        time.sleep(min(poll_sec, left_sec))


def unit_of(point: str) -> str:
    """Return the unit of a mount point, as ``systemd-escape --path --suffix=mount`` does."""
    escaped = _ESCAPED.sub(lambda found: b"\\x%02x" % found[0][0], point.strip("/").encode())
    return (escaped.decode().replace("/", "-") or "-") + ".mount"


def fstab(path: Path, *, nofail: bool) -> tuple[Expected, ...]:
    """Return what fstab(5) wants mounted in every boot: what may fail, or all else. Raises FileError."""
    try:
        text = files.read_bounded(path, _MAX_BYTES).decode("utf-8", "replace")
    except files.FileMissing:
        return ()
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 3 or fields[0].startswith("#"):
            continue
        point, fstype = mountinfo.unescape(fields[1]), fields[2]
        options = fields[3].split(",") if len(fields) > 3 else []
        if not point.startswith("/") or fstype == "swap" or "noauto" in options:
            continue
        if ("nofail" in options) == nofail:
            found.append(_expected(_plain(point), options))
    return tuple(found)


def judge(expected: tuple[Expected, ...], mounts: Mapping[str, Mount]) -> Outcome:
    """Compare what should be with what is."""
    if not expected:
        return Outcome(True, f"{FSTAB} has no entry for this check.")
    findings = [finding for item in expected for finding in _compare(item, mounts.get(item.point))]
    if findings:
        return Outcome(False, "\n".join(findings))
    return Outcome(True, f"Mounted as they should be: {', '.join(item.point for item in expected)}.")


def _compare(expected: Expected, mount: Mount | None) -> list[str]:
    if mount is None:
        return [f"{expected.point} is not mounted."]
    if expected.automount and mount.fstype == "autofs":
        return []
    findings = []
    if missing := [option for option in _HARDENING if option in expected.hardening - mount.options]:
        findings.append(f"{expected.point} is mounted without {', '.join(missing)}.")
    if expected.read_only and not mount.read_only:
        findings.append(f"{expected.point} is writable, it should be read-only.")
    if mount.read_only and not expected.read_only:
        findings.append(f"{expected.point} is read-only, it should be writable; see 'journalctl --dmesg'.")
    return findings


def _expected(point: str, options: list[str]) -> Expected:
    hardening: set[str] = set()
    read_only = False
    for option in options:  # as in mount(8), the later one counts
        if option in _HARDENING:
            hardening.add(option)
        elif option in _WEAKENING:
            hardening.discard(_WEAKENING[option])
        elif option in _FOR_USERS:
            hardening.update(_FOR_USERS[option])
        elif option == "defaults":
            hardening.clear()
            read_only = False
        elif option in ("ro", "rw"):
            read_only = option == "ro"
    return Expected(point, frozenset(hardening), read_only, "x-systemd.automount" in options)


def _plain(point: str) -> str:
    return point.rstrip("/") or "/"
