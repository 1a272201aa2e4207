# SPDX-License-Identifier: Apache-2.0
"""What an install tells while it runs: its stage and bytes to whoever watches, its end to the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from agents.slot_manager import messages
from agents.slot_manager.assembly import Statistics
from agents.slot_manager.policy import Release
from common import journal
from common.errors import AgentError, Internal


class Stage(StrEnum):
    """Stages of an install, as on the bus; what is written is read back in the same stage."""

    CHECK = "check"
    VERIFY = "verify"
    WRITE = "write"
    ENTRY = "entry"
    DONE = "done"


Progress = Callable[[Stage, int, int], None]
"""Called with the stage, the bytes done and the bytes to do in all."""


class Meter:
    """Counts bytes over all stages."""

    def __init__(self, progress: Progress) -> None:
        self._done = self._total = 0
        self._progress = progress
        self._stage = Stage.CHECK

    def expect(self, total: int) -> None:
        """So many bytes there will be."""
        self._total = total

    def expect_more(self, count: int) -> None:
        """Something has to be done again."""
        self._total += count

    def enter(self, stage: Stage) -> None:
        self._stage = stage
        self._progress(stage, self._done, self._total)

    def advance(self, count: int) -> None:
        self._done += count
        self._progress(self._stage, self._done, self._total)


@dataclass(slots=True)
class Story:
    """The journal entries of one install of the image at `path`.

    fields: journal fields by lower-case name, more are added as they become known. silent: nothing is told
    (a dry run). begun: the target was changed already, so that a failure is more than a refusal.
    """

    path: str
    fields: dict[str, str | int]
    silent: bool = False
    begun: bool = False

    def learn(self, release: Release) -> None:
        self.fields |= {
            "version": release.version,
            "roothash": release.root_hash,
            "digest": release.digest,
        }

    def started(self) -> None:
        self.begun = True
        self._tell(
            f"Installing {self.fields['version']} into slot {self.fields['slot']}.", messages.INSTALL_STARTED
        )

    def succeeded(self, state: str, statistics: Statistics, fetched_bytes: int) -> None:
        self.fields |= {
            "bytes_total": statistics.total,
            "bytes_copied": statistics.copied,
            "bytes_skipped": statistics.skipped,
            "bytes_zero": statistics.zero,
            "bytes_fetched": fetched_bytes,
        }
        self._tell(
            f"Installed {self.fields['version']} into slot {self.fields['slot']}; it is {state}.",
            messages.UPDATE_INSTALLED,
        )

    def ended(self, error: Exception) -> None:
        """Tell of the failure or refusal."""
        known = error if isinstance(error, AgentError) else Internal("slot-manager")
        self.fields |= {"error_name": known.dbus_name, "reason": str(known)}
        if self.begun:
            self._tell(
                f"Installation of {self.path} failed: {known}", messages.INSTALL_FAILED, priority=journal.ERR
            )
        else:
            self._tell(
                f"Installation of {self.path} was refused: {known}",
                messages.INSTALL_REFUSED,
                priority=journal.WARNING,
            )

    def _tell(self, message: str, message_id: str, *, priority: int = journal.NOTICE) -> None:
        if not self.silent:
            journal.send(message, priority=priority, message_id=message_id, **self.fields)
