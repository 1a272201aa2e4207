# SPDX-License-Identifier: Apache-2.0
"""Values in, text for people out. No I/O, no clock."""

from collections.abc import Iterable, Sequence

from agents.admin import explain, text
from agents.admin.model import Check, Floor, Health, LastGood, Release, Slot, Slots, Transition

_OUTPUT_LINES = 5
"""How many lines of a failed check's output are shown: the last ones, where the error usually is."""


def status(slots: Slots, health_line: str, failures_line: str = "") -> str:
    """Return the text of `hypernet-admin status`: slots, releases, then what holds for the machine."""
    blocks = [_slot_block(slot, slots) for slot in slots.slots]
    if slots.releases:
        blocks.append(_releases(slots.releases).rstrip("\n"))

    booted = slots.find("booted")
    summary = [
        ("Booted", explain.named(booted) if booted else "unknown"),
        ("Next boot", explain.next_boot(slots)),
    ]
    if slots.operation not in ("", "idle"):
        summary.append(("Running now", slots.operation))
    if slots.last_good is not None:
        summary.append(("Last good", _last_good(slots.last_good)))
    if slots.last_rollback is not None:
        summary.append(("Last rollback", explain.rollback(slots.last_rollback)))
    if slots.floor is not None and (floor := _floor(slots.floor)):
        summary.append(("Floor", floor))
    if slots.last_error:
        summary.append(("Last error", slots.last_error))
    summary.append(("Health", health_line))
    if failures_line:
        summary.append(("Failed boots", failures_line))
    blocks.append(text.fields(summary))
    return "\n\n".join(blocks) + "\n"


def slots_table(slots: Iterable[Slot]) -> str:
    """Return the text of `hypernet-admin slots`: one line for each slot."""
    rows: list[Sequence[str]] = [("SLOT", "STATE", "VERSION", "BOOTED", "NEXT", "SINCE")]
    rows += [
        (
            slot.name,
            slot.state,
            slot.version or "-",
            _yes(slot.booted),
            _yes(slot.default),
            _time(slot.since_usec),
        )
        for slot in slots
    ]
    return text.table(rows)


def log(transitions: Iterable[Transition]) -> str:
    """Return the text of `hypernet-admin log`: one line for each transition, oldest first."""
    rows: list[Sequence[str]] = [("TIME", "SLOT", "VERSION", "STATE", "REASON")]
    rows += [
        (_time(each.since_usec), each.slot, each.version or "-", each.state, each.reason)
        for each in transitions
    ]
    return text.table(rows) if len(rows) > 1 else "No change of a slot is recorded yet.\n"


def denied(releases: Iterable[Release]) -> str:
    """Return the text of `hypernet-admin denied`."""
    rows: list[Sequence[str]] = [("VERSION", "SINCE", "REASON")]
    rows += [(each.version or "-", _time(each.since_usec), each.reason) for each in releases]
    return text.table(rows) if len(rows) > 1 else "No release is denied on this machine.\n"


def health(verdict: Health) -> str:
    """Return the text of `hypernet-admin health`: the verdict, then one line for each check."""
    output = f"Health: {text.clean(explain.health_line(verdict))}\n"
    if failures := explain.failures_line(verdict):
        output += f"Failed boots: {failures}\n"
    if verdict.checks:
        rows = [("CHECK", "KIND", "RESULT", "TIME", "ATTEMPTS"), *map(_check_row, verdict.checks)]
        output += "\n" + text.table(rows)
    for check in verdict.checks:
        if check.result in ("failed", "timeout") and check.output.strip():
            output += f"\nLast output of {text.clean(check.name)}:\n"
            output += _lines(check.output.strip().splitlines()[-_OUTPUT_LINES:])
            if check.unit:
                output += f"All of it: journalctl -b -u {text.clean(check.unit)}\n"

    return output


def check(result: Check) -> str:
    """Return the text of `hypernet-admin health --run`: how the check ended, and its output."""
    attempts = text.count(result.attempts, "attempt", "attempts")
    how = f"{text.clean(result.result)} ({result.duration_sec:.1f} s, {attempts})"
    return f"Check {text.clean(result.name)}: {how}\n{_lines(result.output.strip().splitlines())}"


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"  {text.clean(line)}\n" for line in lines)


def _slot_block(slot: Slot, slots: Slots) -> str:
    marks = [word for word, applies in (("booted", slot.booted), ("next boot", slot.default)) if applies]
    values = [("State", explain.slot_state(slot))]
    if reason := explain.why(slot, slots):
        values.append(("Why", reason))
    if slot.version:
        values.append(("Version", slot.version))
    if slot.root_hash:
        values.append(("Root hash", f"{slot.root_hash[:16]}..."))
    if slot.attempts and slot.state != "good":
        values.append(("Attempts", f"{slot.attempts} counted by this machine itself"))
    if slot.approved:
        values.append(("Approved", "yes"))
    if slot.since_usec:
        values.append(("Since", text.timestamp(slot.since_usec)))
    title = f"Slot {text.clean(slot.name)}" + (f" ({', '.join(marks)})" if marks else "")
    return f"{title}\n{text.fields(values)}"


def _releases(releases: Iterable[Release]) -> str:
    rows: list[Sequence[str]] = [("RELEASE", "VERDICT", "RULE", "SINCE", "REASON")]
    rows += [
        (each.version or "-", each.verdict, each.rule or "-", _time(each.since_usec), each.reason)
        for each in releases
    ]
    return text.table(rows)


def _last_good(good: LastGood) -> str:
    since = f", proven {text.timestamp(good.since_usec)}" if good.since_usec else ""
    return f"{good.version or 'an unknown version'} (slot {good.slot}){since}"


def _floor(floor: Floor) -> str:
    parts = []
    if floor.min_version:
        parts.append(f"nothing below version {floor.min_version}")
    if floor.serial:
        parts.append(f"nothing below serial {floor.serial} without --allow-downgrade")
    if floor.key_epoch:
        parts.append(f"keys of epoch {floor.key_epoch} or later")
    if floor.signed_usec:
        parts.append(f"newest signed time {text.timestamp(floor.signed_usec)}")
    return "; ".join(parts)


def _check_row(check: Check) -> tuple[str, ...]:
    kind = "required" if check.required else "wanted"
    return (check.name, kind, check.result, f"{check.duration_sec:.1f} s", str(check.attempts))


def _yes(applies: bool) -> str:
    return "yes" if applies else "-"


def _time(usec: int) -> str:
    return text.timestamp(usec) if usec else "-"
