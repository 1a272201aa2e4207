# SPDX-License-Identifier: Apache-2.0
"""Built-in check ``dm-verity``: the root is verified, and the kernel has met no damaged block in this boot.

The status of the device (V or C) needs the control device of the device mapper, which the sandbox does not
have; what the kernel logs about each damaged block can be read without.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from agents.boot_health.builtins import mountinfo
from agents.boot_health.builtins.outcome import Outcome, Probe
from common import config, files, process
from common.errors import AgentError

SYSFS: Final = Path("/sys/dev/block")
COMMAND_LINE: Final = Path("/proc/cmdline")
_VERITY_UUID: Final = "CRYPT-VERITY-"
_MAX_BYTES: Final = 64 << 10
_MAX_LINES: Final = 200
_MAX_SHOWN: Final = 10
_MAX_LAYERS: Final = 8
# drivers/md/dm-verity-target.c and dm-verity-fec.c: "254:1: data block 5 is corrupted",
# "254:1: reached maximum errors", "254:1: FEC 20480: corrected 4 errors".
_DAMAGE: Final = re.compile(
    r"device-mapper: verity(?:-fec)?: ([0-9]+:[0-9]+): "
    r"((?:data|metadata) block [0-9]+ is corrupted|reached maximum errors|FEC [0-9]+: .*)"
)
_GREP: Final = "device-mapper: verity"


def build(_section: config.Section) -> Probe:
    """Return the check, which has no options."""

    def probe(limit_sec: float) -> Outcome:
        root = mountinfo.read()["/"].device
        return judge(root, SYSFS, COMMAND_LINE, lambda: kernel_log(limit_sec))

    return probe


def judge(root: str, sysfs: Path, command_line: Path, log: Callable[[], Sequence[str]]) -> Outcome:
    """root: device of /, "MAJOR:MINOR". sysfs: /sys/dev/block. log: what the kernel said about dm-verity.

    Raises AgentError.
    """
    verified = _below(root, sysfs, _MAX_LAYERS)
    if not verified:
        if b"roothash=" in files.read_bounded(command_line, _MAX_BYTES):
            return Outcome(
                False, "The root is not verified, although the kernel command line has 'roothash='."
            )
        return Outcome(True, "This image has a root without dm-verity.")
    matches = (_DAMAGE.search(line) for line in log())
    findings = [f"{match[1]}: {match[2]}" for match in matches if match and match[1] in verified]
    if not findings:
        return Outcome(True, "The root is verified, no damaged block was met in this boot.")
    count = "one damaged block" if len(findings) == 1 else f"{len(findings)} damaged blocks"
    return Outcome(False, "\n".join([f"The kernel reported {count} of the root:", *findings[:_MAX_SHOWN]]))


def kernel_log(limit_sec: float) -> tuple[str, ...]:
    """Return the last lines of this boot about dm-verity. Raises AgentError."""
    # fmt: off
    argv = (
        "journalctl", "--boot", "--dmesg", "--quiet", "--no-pager", "--output=cat",
        f"--lines={_MAX_LINES}", f"--grep={_GREP}",
    )
    # fmt: on
    completed = process.run(argv, timeout_sec=limit_sec, success=(0, 1))
    # journalctl(1) ends with 1 when no line matches, too.
    if completed.returncode and completed.stderr.strip():
        raise AgentError(f"The kernel's messages cannot be read: {completed.stderr.strip().rstrip('.')}.")
    return tuple(completed.stdout.decode("utf-8", "replace").splitlines())


def _below(device: str, sysfs: Path, layers: int) -> frozenset[str]:
    """Return the devices, as "MAJOR:MINOR", that are read through dm-verity on the way to `device`."""
    if not layers:
        return frozenset()
    node = sysfs / device
    lower = [_line(path / "dev") for path in sorted(node.glob("slaves/*"))]
    found = frozenset(lower if _line(node / "dm/uuid").startswith(_VERITY_UUID) else ())
    return found.union(*(_below(number, sysfs, layers - 1) for number in lower if number))


def _line(path: Path) -> str:
    try:
        return files.read_bounded(path, _MAX_BYTES).decode("utf-8", "replace").strip()
    except files.FileError:
        return ""
