# SPDX-License-Identifier: Apache-2.0
"""The alert for a failed unit, from the $MONITOR_ variables of systemd.exec(5) that OnFailure= brings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from common.alerts import Kind, raise_alert

TEST: Final = "test"
"""Instance of hypernet-alert@.service that is no unit but asks for a test alert."""

_FACTS: Final = {
    "MONITOR_SERVICE_RESULT": "result",
    "MONITOR_EXIT_CODE": "exit",
    "MONITOR_EXIT_STATUS": "status",
    "MONITOR_INVOCATION_ID": "invocation",
}


def run(unit: str, environment: Mapping[str, str]) -> int:
    """Raise the alert; returns 0, or 1 if that did not work, which the journal tells then."""
    if unit == TEST:
        return run_test()
    # Facts of another unit would be wrong: systemd gives them only if a single unit has failed.
    known = environment.get("MONITOR_UNIT") == unit
    details = {name: environment[key] for key, name in _FACTS.items() if known and environment.get(key)}
    result = details.get("result")
    if result == "success":  # of a start before this one, or of none: its job failed, not the unit
        result = "a unit that it requires failed, or it took too long to start"
    summary = f"The unit {unit} has failed" + (f" ({result})." if result else ".")
    more = f"journalctl --unit={unit}"
    return 0 if raise_alert(Kind.UNIT_FAILED, summary, {"unit": unit, **details, "more": more}) else 1


def run_test() -> int:
    """Raise a test alert; returns as run() does."""
    return 0 if raise_alert(Kind.TEST, "This is a test; nothing has happened.") else 1
