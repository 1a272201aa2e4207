# SPDX-License-Identifier: Apache-2.0
"""The progress of an installation as RAUC tells it: steps within steps, each begun, then done or failed.

Pure. Source: RAUC's documentation, "Processing Progress Data".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agents.rauc.translate import slot_name

Step = tuple[int, str, int]
"""Percent, message, nesting depth."""

NOTHING: Final[Step] = (0, "", 0)
"""Progress before the first installation."""

_ROOT: Final = "Installing"
_STAGES: Final = {
    "check": "Checking bundle",
    "verify": "Verifying signature",
    "write": "Copying image to {slot}",
    "entry": "Activating slot {slot}",
}
_LAST: Final = "done"


class Installation:
    """One job of slot-manager. It is known by its path and its start: a path can come again.

    values: the properties of the job.
    """

    def __init__(self, path: str, values: Mapping[str, Any]) -> None:
        self.path = path
        self.started = values.get("Started", 0)
        self.result = ""
        self.message = ""
        self._slot = slot_name(str(values.get("Slot", "")))
        self._percent = 0
        self._stages: list[str] = []

    def begin(self) -> list[Step]:
        """Steps to show first."""
        return [(0, _ROOT, 1)]

    def update(self, values: Mapping[str, Any]) -> list[Step]:
        """Take changed properties and return the steps that they bring; neither goes back."""
        steps: list[Step] = []
        self.result = str(values.get("Result", self.result))
        self.message = str(values.get("ErrorMessage", self.message))
        # 100 % is the end of all steps together.
        self._percent = max(self._percent, min(int(values.get("Progress", 0.0) * 100), 99))
        stage = str(values.get("Stage", ""))
        if stage and stage != _LAST and stage not in self._stages:
            if self._stages:
                steps.append((self._percent, f"{self._text()} done.", 2))
            self._stages.append(stage)
        if self._stages and not self.result:
            steps.append((self._percent, self._text(), 2))
        return steps

    def end(self, *, done: bool) -> list[Step]:
        """Steps to show last."""
        word = "done" if done else "failed"
        last: list[Step] = [(self._percent, f"{self._text()} {word}.", 2)] if self._stages else []
        return [*last, (100, f"{_ROOT} {word}.", 1)]

    def _text(self) -> str:
        stage = self._stages[-1]
        return _STAGES.get(stage, stage.capitalize()).format(slot=self._slot)
