# SPDX-License-Identifier: Apache-2.0
"""What a built-in check gives back, and the time limit around those that run inside boot-health."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from common import journal
from common.errors import AgentError, Internal

_OWN_SHARE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Outcome:
    """passed: all is well. text: what was found, one finding a line, for a person."""

    passed: bool
    text: str


Probe = Callable[[float], Outcome]
"""A check that runs inside boot-health. Its argument is the time limit in seconds."""


def guarded(probe: Probe) -> Probe:
    """Return probe as one that raises nothing and ends in time, even if a system call of it hangs.

    The probe itself is told a little less time, so that its own sentence on what it waited for comes first.
    """

    def run(limit_sec: float) -> Outcome:
        outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

        def work() -> None:
            try:
                outcomes.put(probe(limit_sec * _OWN_SHARE))
            except AgentError as error:
                outcomes.put(Outcome(False, str(error)))
            except Exception as error:
                import traceback  # seldom needed, not small

                journal.send(
                    f"Internal error in a built-in check: {type(error).__name__}",
                    priority=journal.DEBUG,
                    traceback=traceback.format_exc(),
                )
                outcomes.put(Outcome(False, str(Internal("boot-health"))))

        # A thread that hangs in the kernel must not keep the process from ending.
        threading.Thread(target=work, name="probe", daemon=True).start()
        try:
            return outcomes.get(timeout=limit_sec)
        except queue.Empty:
            return Outcome(False, f"No answer within {limit_sec:.3g} s.")

    return run
