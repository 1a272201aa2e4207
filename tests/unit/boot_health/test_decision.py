# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest

from agents.boot_health.config import TrialFailure
from agents.boot_health.decision import Action, Facts, decide

ROLLBACK, RETRY = TrialFailure.ROLLBACK, TrialFailure.RETRY


@pytest.mark.parametrize(
    ("exhausted", "counted", "trial", "other_good", "policy", "action"),
    [
        (False, True, True, True, ROLLBACK, Action.ROLLBACK),
        (False, True, True, True, RETRY, Action.REBOOT),
        (False, False, True, True, RETRY, Action.ROLLBACK),
        (False, True, True, None, ROLLBACK, Action.REBOOT),
        (False, True, True, False, ROLLBACK, Action.STAY),
        (False, True, True, False, RETRY, Action.STAY),
        (False, True, False, True, ROLLBACK, Action.STAY),
        (False, False, False, None, RETRY, Action.STAY),
        (True, True, True, True, ROLLBACK, Action.STAY),
    ],
)
def test_the_decision_follows_the_rules(
    exhausted: bool,
    counted: bool,
    trial: bool,
    other_good: bool | None,
    policy: TrialFailure,
    action: Action,
) -> None:
    assert decide(Facts(exhausted, counted, trial, other_good, policy)).action is action


def test_a_slot_is_marked_bad_only_in_a_trial_beside_a_good_slot() -> None:
    for facts in itertools.starmap(
        Facts, itertools.product(*[(False, True)] * 3, (None, False, True), TrialFailure)
    ):
        if decide(facts).action is Action.ROLLBACK:
            assert facts.trial
            assert facts.other_good
            assert not facts.exhausted


def test_two_bad_slots_never_reboot_into_each_other() -> None:
    for facts in itertools.starmap(
        Facts, itertools.product((False, True), (False, True), (False, True), (False,), TrialFailure)
    ):
        assert decide(facts).action is Action.STAY


def test_a_reboot_without_a_mark_is_only_for_a_boot_that_the_loader_counted() -> None:
    # trial is the loader's own word when slot-manager does not answer.
    for exhausted, counted, other_good, policy in itertools.product(
        (False, True), (False, True), (None, True), TrialFailure
    ):
        trial = counted if other_good is None else True
        if decide(Facts(exhausted, counted, trial, other_good, policy)).action is Action.REBOOT:
            assert counted


@pytest.mark.parametrize(
    ("failures", "other_good", "exhausted", "action"),
    [
        (2, True, False, Action.STAY),
        (3, True, False, Action.GIVE_UP),
        (4, True, False, Action.GIVE_UP),
        (3, False, False, Action.STAY),
        (3, None, False, Action.STAY),
        (3, True, True, Action.STAY),
    ],
)
def test_a_good_slot_is_given_up_only_for_a_good_one_and_after_enough_failed_boots(
    failures: int, other_good: bool | None, exhausted: bool, action: Action
) -> None:
    facts = Facts(exhausted, False, False, other_good, ROLLBACK, failures, 3)
    assert decide(facts).action is action


def test_no_number_of_failed_boots_makes_two_bad_slots_alternate() -> None:
    for exhausted, counted, trial, failures in itertools.product(
        (False, True), (False, True), (False, True), range(12)
    ):
        assert decide(Facts(exhausted, counted, trial, False, ROLLBACK, failures, 3)).action is Action.STAY


def test_a_trial_is_not_given_up_but_marked_bad() -> None:
    assert decide(Facts(False, True, True, True, ROLLBACK, 9, 3)).action is Action.ROLLBACK
