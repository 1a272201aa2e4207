# SPDX-License-Identifier: Apache-2.0
"""A terminal with hypernet-admin on it and somebody who types."""

import os
import pty
import select

from tests.unit.admin.lab import Lab

CTRL_C = "\x03"
_PATIENCE_SEC = 20


class Terminal:
    """hypernet-admin as the foreground job of a terminal of its own; `shown` is all that it wrote there."""

    def __init__(self, lab: Lab, *argv: str) -> None:
        self._ours, theirs = pty.openpty()
        self.shown = ""
        self._process = lab.popen(
            *argv, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=lambda: os.login_tty(theirs)
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until `text` was shown."""
        while text not in self.shown:
            assert self._read(), f"{text!r} was not shown, but {self.shown!r}"

    def end(self) -> int:
        """Read to the end and return the exit status."""
        while self._read():
            pass
        os.close(self._ours)
        return self._process.wait(_PATIENCE_SEC)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._ours], [], [], _PATIENCE_SEC)
        assert ready, f"nothing more is shown after {self.shown!r}"
        try:
            data = os.read(self._ours, 4096)
        except OSError:  # EIO: the other side is closed
            data = b""
        self.shown += data.decode()
        return bool(data)
