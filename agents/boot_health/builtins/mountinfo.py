# SPDX-License-Identifier: Apache-2.0
"""What is mounted, as PID 1 sees it: proc_pid_mountinfo(5).

The table is read, the file systems are not touched: one that hangs, or an automount point, cannot block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common import files

PID1: Final = Path("/proc/1/mountinfo")
_MAX_BYTES: Final = 8 << 20
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount. device: "MAJOR:MINOR". options: of this mount. super_options: of its file system."""

    device: str
    point: str
    options: frozenset[str]
    fstype: str
    super_options: frozenset[str]

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written here: by the mount, or since the file system met errors."""
        return "ro" in self.options or "ro" in self.super_options


def read(path: Path = PID1) -> Mapping[str, Mount]:
    """Return the mounts by mount point; of several at one point the last, which covers the others.

    Raises FileError.
    """
    found = {}
    for line in files.read_bounded(path, _MAX_BYTES).decode("utf-8", "replace").splitlines():
        front, separator, back = line.partition(" - ")
        fields, rest = front.split(" "), back.split(" ")
        if separator and len(fields) >= 6 and len(rest) >= 3:
            point = unescape(fields[4])
            found[point] = Mount(
                fields[2], point, frozenset(fields[5].split(",")), rest[0], frozenset(rest[2].split(","))
            )
    return found


def unescape(text: str) -> str:
    """Undo the escapes of mountinfo and fstab(5): a backslash and three octal digits."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
