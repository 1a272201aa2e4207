# SPDX-License-Identifier: Apache-2.0
"""Values in, text for people out. No I/O, no clock."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from agents.admin.model import Check, Health, Rollback, Slot, Slots

_SLOT_STATES = {
    "empty": "empty",
    "installing": "an image is being written to it",
    "staged": "verified, but not armed: no boot starts it yet",
    "armed": "armed: the next boot tries it",
    "trying": "on trial",
    "good": "good",
    "bad": "bad",
}
_HEALTH_STATES = {
    "unknown": "unknown: this boot has not been judged",
    "checking": "the checks of this boot are still running",
    "healthy": "healthy",
    "degraded": "degraded",
    "failed": "failed",
}
_OUTPUT_LINES = 5
"""How many lines of a failed check's output are shown: the last ones, where the error usually is."""


def status(slots: Slots, health_line: str) -> str:
    """Return the text of `hypernet-admin status`: one block for each slot, then a summary."""
    blocks = [_slot_block(slot) for slot in slots.slots]
    summary = [("Booted", _slot_name(slots.booted)), ("Next boot", _slot_name(slots.default))]
    if slots.operation not in ("", "idle"):
        summary.append(("Running now", slots.operation))
    if slots.last_rollback is not None:
        summary.append(("Last rollback", rollback(slots.last_rollback)))
    if slots.last_error:
        summary.append(("Last error", slots.last_error))
    summary.append(("Health", health_line))
    blocks.append(_aligned(summary))
    return "\n\n".join(blocks) + "\n"


def slot_state(slot: Slot) -> str:
    """Return the state of a slot in words, with tries and reason."""
    text = _SLOT_STATES.get(slot.state, slot.state)
    if slot.tries_left >= 0 and slot.state in ("armed", "trying", "good"):
        text += f", {_count(slot.tries_left, 'try', 'tries')} left"
    if slot.tries_done > 0 and slot.state == "trying":
        text += f", {slot.tries_done} used"
    if slot.reason and slot.state == "bad":
        text += f": {slot.reason}"
    return text


def rollback(last: Rollback) -> str:
    """Return what was rolled back, from where to where, why and when, on one line."""
    text = f"from {_version(last.from_version, last.from_slot)} to {_version(last.to_version, last.to_slot)}"
    if last.reason:
        text += f": {last.reason}"
    if last.since_usec:
        text += f" ({timestamp(last.since_usec)})"
    return text


def health_line(health: Health) -> str:
    """Return the verdict on this boot in one line."""
    text = _HEALTH_STATES.get(health.state, health.state)
    failed = [check.name for check in health.checks if check.result in ("failed", "timeout")]
    if health.reason:
        text += f": {health.reason}"
    elif failed and health.state != "healthy":
        text += f": failed checks: {', '.join(failed)}"
    if health.trial:
        text += " (this boot is a trial)"
    return text


def health(verdict: Health) -> str:
    """Return the text of `hypernet-admin health`: the verdict, then one line for each check."""
    lines = [f"Health: {_clean(health_line(verdict))}"]
    if verdict.checks:
        rows = [("CHECK", "KIND", "RESULT", "TIME", "ATTEMPTS"), *map(_check_row, verdict.checks)]
        lines += ["", *_table(rows)]
    for check in verdict.checks:
        if check.result in ("failed", "timeout") and check.output.strip():
            lines += ["", f"Last output of {_clean(check.name)}:"]
            lines += [f"  {_clean(line)}" for line in check.output.strip().splitlines()[-_OUTPUT_LINES:]]

    return "\n".join(lines) + "\n"


def timestamp(usec: int) -> str:
    """Return a time (microseconds since 1970 UTC) as systemctl shows it, in the local time zone."""
    return datetime.fromtimestamp(usec / 1_000_000, tz=UTC).astimezone().strftime("%a %Y-%m-%d %H:%M:%S %Z")


def _slot_block(slot: Slot) -> str:
    marks = [word for word, applies in (("booted", slot.booted), ("next boot", slot.default)) if applies]
    fields = [("State", slot_state(slot))]
    if slot.version:
        fields.append(("Version", slot.version))
    if slot.root_hash:
        fields.append(("Root hash", f"{slot.root_hash[:16]}..."))
    if slot.since_usec:
        fields.append(("Since", timestamp(slot.since_usec)))
    title = f"Slot {_clean(slot.name)}" + (f" ({', '.join(marks)})" if marks else "")
    return f"{title}\n{_aligned(fields)}"


def _check_row(check: Check) -> tuple[str, ...]:
    kind = "required" if check.required else "wanted"
    return (check.name, kind, check.result, f"{check.duration_sec:.1f} s", str(check.attempts))


def _slot_name(name: str) -> str:
    return f"slot {name}" if name else "unknown"


def _version(version: str, slot: str) -> str:
    return f"{version or 'an unknown version'} (slot {slot})"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _aligned(fields: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{label:>15}: {_clean(value)}" for label, value in fields)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(_clean(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _clean(text: str) -> str:
    """Replace control characters: texts of checks and tools must not steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
