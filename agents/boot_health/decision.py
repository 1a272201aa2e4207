# SPDX-License-Identifier: Apache-2.0
"""What a boot without a good verdict leads to. Pure: facts in, one decision out.

The first rule that fits decides, and no rule can make two bad slots alternate:

1. The boot entry had no tries left before this boot: stay. The boot loader had nothing better.
2. The booted slot was proven good before: stay. Unless max_failed_boots of its boots in a row were not good
   and the other slot is good: ask for a rollback, which marks the booted slot bad.
3. The other slot is known and not good: stay.
4. The other slot is unknown, slot-manager does not answer: reboot. The boot loader counts.
5. trial_failure is "retry" and the boot loader counted this boot: reboot. It would be for ever otherwise.
6. Else: mark the booted slot bad, reboot to the other one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agents.boot_health.config import TrialFailure


class Action(StrEnum):
    """The ways out. rollback: of a trial, by marking it bad; give-up: of a slot that was good, by starting
    hypernet-rollback.target.
    """

    STAY = "stay"
    REBOOT = "reboot"
    ROLLBACK = "rollback"
    GIVE_UP = "give-up"


@dataclass(frozen=True, slots=True)
class Facts:
    """exhausted, counted: see boot.exhausted, boot.counted. trial: the booted slot has yet to prove itself.
    other_good: whether the other slot is good, None if slot-manager could not be asked. failures: boots in a
    row that were not good, with this one.
    """

    exhausted: bool
    counted: bool
    trial: bool
    other_good: bool | None
    trial_failure: TrialFailure
    failures: int = 1
    max_failures: int = 3


@dataclass(frozen=True, slots=True)
class Decision:
    """because: half a sentence, the rule that decided."""

    action: Action
    because: str


def decide(facts: Facts) -> Decision:
    """Apply the rules above."""
    if facts.exhausted:
        return Decision(
            Action.STAY, "its boot entry had no tries left and the boot loader had nothing better"
        )
    if not facts.trial:
        return _of_a_good_slot(facts)
    if facts.other_good is False:
        return Decision(Action.STAY, "the other slot is not good either")
    if facts.other_good is None:
        return Decision(Action.REBOOT, "slot-manager did not answer, so the boot loader counts the tries")
    if facts.trial_failure is TrialFailure.RETRY and facts.counted:
        return Decision(Action.REBOOT, "trial_failure is 'retry' and the boot loader counts the tries")
    return Decision(Action.ROLLBACK, "the booted slot is a trial and the other slot is good")


def _of_a_good_slot(facts: Facts) -> Decision:
    good = "the booted slot was proven good before"
    if facts.failures < facts.max_failures:
        return Decision(
            Action.STAY, f"{good}, and this is failed boot {facts.failures} of {facts.max_failures}"
        )
    failures = f"{facts.failures} boots in a row failed"
    if facts.other_good is None:
        return Decision(Action.STAY, f"{good}; {failures}, but slot-manager did not answer")
    if not facts.other_good:
        return Decision(Action.STAY, f"{good}; {failures}, but the other slot is not good either")
    return Decision(Action.GIVE_UP, f"{failures} and the other slot is good")
