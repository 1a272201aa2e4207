# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest

from agents.boot_health.config import TrialFailure
from agents.boot_health.decision import Action, Facts, decide

ROLLBACK, RETRY = TrialFailure.ROLLBACK, TrialFailure.RETRY


@pytest.mark.parametrize(
    ("exhausted", "trial", "other_good", "policy", "action"),
    [
        (False, True, True, ROLLBACK, Action.ROLLBACK),
        (False, True, True, RETRY, Action.REBOOT),
        (False, True, None, ROLLBACK, Action.REBOOT),
        (False, True, False, ROLLBACK, Action.STAY),
        (False, True, False, RETRY, Action.STAY),
        (False, False, True, ROLLBACK, Action.STAY),
        (False, False, None, RETRY, Action.STAY),
        (True, True, True, ROLLBACK, Action.STAY),
    ],
)
def test_the_decision_follows_the_rules(
    exhausted: bool, trial: bool, other_good: bool | None, policy: TrialFailure, action: Action
) -> None:
    assert decide(Facts(exhausted, trial, other_good, policy)).action is action


def test_a_slot_is_marked_bad_only_in_a_trial_beside_a_good_slot() -> None:
    for facts in itertools.starmap(
        Facts, itertools.product((False, True), (False, True), (None, False, True), TrialFailure)
    ):
        if decide(facts).action is Action.ROLLBACK:
            assert facts.trial
            assert facts.other_good
            assert not facts.exhausted


def test_two_bad_slots_never_reboot_into_each_other() -> None:
    for exhausted, trial, policy in itertools.product((False, True), (False, True), TrialFailure):
        assert decide(Facts(exhausted, trial, False, policy)).action is Action.STAY
