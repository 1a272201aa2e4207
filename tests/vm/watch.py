# SPDX-License-Identifier: Apache-2.0
"""When a machine's console said what: the only witness of a kernel that ends without a journal entry."""

import re
import threading
import time
from dataclasses import dataclass, field


@dataclass
class Watch:
    """Give `see` to Machine(on_console=...); each piece of output is kept with the time at which it came."""

    pieces: list[tuple[float, str]] = field(default_factory=list)
    came: threading.Condition = field(default_factory=threading.Condition)

    def see(self, chunk: bytes) -> None:
        with self.came:
            self.pieces.append((time.time(), chunk.decode("utf-8", "replace")))
            self.came.notify_all()

    def now(self) -> int:
        """A place in the output, for `wait`: what came before is passed over."""
        with self.came:
            return len(self.pieces)

    def wait(self, pattern: str, since: int = 0, timeout_sec: float = 0.0) -> float:
        """When the console first showed a pattern, in seconds since 1970. Raises AssertionError."""
        deadline = time.monotonic() + timeout_sec
        with self.came:
            while (found := self._find(pattern, since)) is None:
                rest = deadline - time.monotonic()
                assert rest > 0, f"the console has not shown '{pattern}'"
                self.came.wait(rest)
        return found

    def _find(self, pattern: str, since: int) -> float | None:
        match = re.search(pattern, "".join(text for _, text in self.pieces[since:]))
        if match is None:
            return None
        left = match.end()
        for seen, text in self.pieces[since:]:
            left -= len(text)
            if left <= 0:
                return seen
        return None
