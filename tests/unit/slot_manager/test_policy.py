# SPDX-License-Identifier: Apache-2.0
"""Every rule of the policy: what it refuses, with which error and sentence, and what it lets through."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.slot_manager import errors, policy
from agents.slot_manager.policy import Local, Release
from agents.slot_manager.record import Denied, Floor, Record
from common import manifest
from common.errors import AgentError
from common.trust import KeySetTooOld

NOW = 1_800_000_000
GOOD = Release(
    product="hypernet",
    arch="x86-64",
    version="2.0.0",
    root_hash="bb" * 32,
    channel="stable",
    serial=2_000_000_000_000,
    issued_sec=NOW - 100,
    expires_sec=NOW + 100,
    min_version="0.0.0",
    min_from_version="0.0.0",
    key_epoch=1,
    config_schema=1,
    digest="dd" * 32,
)
LEGACY = Release("hypernet", "x86-64", "2.0.0", "bb" * 32, digest="ee" * 32, legacy=True)
HERE = Local(running_version="1.0.0", running_root_hash="aa" * 32, config_schema=1)
FAILED = Denied("2.0.0", "dd" * 32, "check web failed", (NOW - 86400) * 1_000_000)
RULES = (
    "product",
    "arch",
    "channel",
    "expiry",
    "key-epoch",
    "same-version",
    "denylist",
    "floor",
    "downgrade",
    "stepping-stone",
    "config-schema",
)


def release(base: Release = GOOD, **changes: object) -> Release:
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def here(**changes: object) -> Local:
    return dataclasses.replace(HERE, **changes)  # type: ignore[arg-type]


def floor(**values: object) -> Record:
    return Record(floor=Floor(**values))  # type: ignore[arg-type]


@pytest.mark.parametrize("known", [GOOD, LEGACY], ids=["with a manifest", "without one"])
def test_a_fit_release_keeps_every_rule_in_order(known: Release) -> None:
    decisions = policy.judge(known, HERE, Record(), now_sec=NOW)

    assert tuple(decision.rule for decision in decisions) == RULES
    assert all(decision.ok and decision.error is None and decision.reason for decision in decisions)
    assert policy.refusal(decisions) is None
    policy.require(known, HERE, Record(), now_sec=NOW)


REFUSED: list[tuple[str, Release, Local, Record, type[AgentError], str]] = [
    ("product", release(product="toaster"), HERE, Record(), errors.WrongProduct, "one of 'toaster'"),
    ("product", release(product=""), HERE, Record(), errors.WrongProduct, "one of ''"),
    ("arch", release(arch="arm64"), HERE, Record(), errors.WrongArchitecture, "made for arm64"),
    ("arch", release(LEGACY, arch=""), HERE, Record(), errors.WrongArchitecture, "unknown architecture"),
    ("channel", release(channel="beta"), HERE, Record(), errors.WrongChannel, "channel 'beta'"),
    ("channel", release(channel=""), HERE, Record(), errors.WrongChannel, "channel ''"),
    ("channel", GOOD, here(channel="dev"), Record(), errors.WrongChannel, "follows 'dev'"),
    ("expiry", release(expires_sec=NOW), HERE, Record(), errors.ManifestExpired, "expired on 2027-01-15"),
    ("expiry", release(expires_sec=0), HERE, Record(), errors.ManifestExpired, "does not say"),
    ("key-epoch", GOOD, HERE, floor(key_epoch=2), KeySetTooOld, "key set 1, this machine has seen set 2"),
    ("same-version", GOOD, here(running_version="2.0.0"), Record(), errors.SameVersion, "running already"),
    (
        "same-version",
        release(version="2.0.0-rc1"),
        here(running_version="2.0.0-RC1"),
        Record(),
        errors.SameVersion,
        "running already",
    ),
    ("same-version", GOOD, here(running_root_hash="bb" * 32), Record(), errors.SameVersion, "very content"),
    ("denylist", GOOD, HERE, Record(denied={"bb" * 32: FAILED}), errors.Denied, r"\(check web failed\)"),
    ("denylist", GOOD, HERE, Record(denied={"cc" * 32: FAILED}), errors.Denied, "denied clear 2.0.0"),
    ("denylist", LEGACY, HERE, Record(denied={"bb" * 32: FAILED}), errors.Denied, "2027-01-14"),
    ("floor", GOOD, HERE, floor(min_version="2.0.1"), errors.BelowFloor, "nothing older than 2.0.1"),
    ("floor", GOOD, HERE, floor(serial=GOOD.serial + 1), errors.BelowFloor, "serial 2000000000001"),
    ("floor", LEGACY, HERE, floor(serial=GOOD.serial + 1), errors.BelowFloor, "serial 2000000000000"),
    ("downgrade", GOOD, here(running_version="2.0.1"), Record(), errors.Downgrade, "running 2.0.1"),
    (
        "stepping-stone",
        release(min_from_version="1.0.1"),
        HERE,
        Record(),
        errors.NeedsSteppingStone,
        "1.0.1 first",
    ),
    ("config-schema", GOOD, here(config_schema=2), Record(), errors.ImageUnfit, "schema 2"),
]


@pytest.mark.parametrize(
    ("rule", "offered", "local", "record", "error", "sentence"),
    REFUSED,
    ids=[f"{number} {row[0]}" for number, row in enumerate(REFUSED)],
)
def test_a_rule_refuses_with_its_own_error_and_sentence(
    rule: str, offered: Release, local: Local, record: Record, error: type[AgentError], sentence: str
) -> None:
    refused = [one for one in policy.judge(offered, local, record, now_sec=NOW) if not one.ok]

    assert [one.rule for one in refused] == [rule]
    assert refused[0].error is error
    with pytest.raises(error, match=sentence) as raised:
        policy.require(offered, local, record, now_sec=NOW)
    assert re.search(r"; .+\.$", str(raised.value)), "a cause and a next step"


ACCEPTED: list[tuple[str, Release, Local, Record, int]] = [
    ("product", release(product="toaster"), here(product="toaster"), Record(), NOW),
    ("arch", release(arch="arm64"), here(arch="arm64"), Record(), NOW),
    ("channel", release(channel="beta"), here(channel="beta"), Record(), NOW),
    ("channel", LEGACY, here(channel="beta"), Record(), NOW),
    ("expiry", release(expires_sec=NOW + 1), HERE, Record(), NOW),
    ("expiry", release(issued_sec=NOW + 900), HERE, Record(), NOW),
    ("expiry", LEGACY, HERE, Record(), 1 << 40),
    ("key-epoch", release(key_epoch=2), HERE, floor(key_epoch=2), NOW),
    ("key-epoch", LEGACY, HERE, floor(key_epoch=2), NOW),
    ("same-version", release(version="1.0.0-rc1"), HERE, Record(), NOW),
    ("denylist", GOOD, HERE, Record(denied={"cc" * 32: dataclasses.replace(FAILED, digest="")}), NOW),
    ("floor", GOOD, HERE, floor(min_version="2.0.0", serial=GOOD.serial), NOW),
    ("floor", LEGACY, HERE, floor(serial=GOOD.serial), NOW),
    ("downgrade", GOOD, here(running_version="1.99.99"), Record(), NOW),
    ("stepping-stone", release(min_from_version="1.0.0"), HERE, Record(), NOW),
    ("config-schema", release(config_schema=2), HERE, Record(), NOW),
    ("config-schema", GOOD, here(config_schema=0), Record(), NOW),
    ("config-schema", LEGACY, here(config_schema=2), Record(), NOW),
]


@pytest.mark.parametrize(
    ("rule", "offered", "local", "record", "now_sec"),
    ACCEPTED,
    ids=[f"{number} {row[0]}" for number, row in enumerate(ACCEPTED)],
)
def test_a_rule_lets_through_what_keeps_it(
    rule: str, offered: Release, local: Local, record: Record, now_sec: int
) -> None:
    (decision,) = (one for one in policy.judge(offered, local, record, now_sec=now_sec) if one.rule == rule)
    assert decision.ok, decision.reason


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_case_that_refuses_and_one_that_accepts(rule: str) -> None:
    assert any(row[0] == rule for row in REFUSED)
    assert any(row[0] == rule for row in ACCEPTED)


def test_a_downgrade_that_was_asked_for_is_let_through() -> None:
    policy.require(
        GOOD,
        here(running_version="3.0.0"),
        floor(serial=GOOD.serial + 1),
        now_sec=NOW,
        allow_downgrade=True,
    )


@pytest.mark.parametrize(
    ("offered", "local", "record", "error"),
    [row[1:5] for row in REFUSED if row[0] not in ("floor", "downgrade")]
    + [(GOOD, HERE, floor(min_version="2.0.1"), errors.BelowFloor)],
)
def test_a_downgrade_that_was_asked_for_waives_nothing_else(
    offered: Release, local: Local, record: Record, error: type[AgentError]
) -> None:
    with pytest.raises(error):
        policy.require(offered, local, record, now_sec=NOW, allow_downgrade=True)


def test_the_first_refusal_is_the_one_that_is_told() -> None:
    wrong = release(product="toaster", channel="beta", expires_sec=1)

    decisions = policy.judge(wrong, HERE, Record(), now_sec=NOW)

    assert [one.rule for one in decisions if not one.ok] == ["product", "channel", "expiry"]
    with pytest.raises(errors.WrongProduct):
        policy.require(wrong, HERE, Record(), now_sec=NOW)


def test_what_is_installed_may_be_armed_unless_it_was_denied_or_revoked_since() -> None:
    policy.require_not_revoked("2.0.0", "bb" * 32, floor(serial=GOOD.serial + 1, min_version="2.0.0"))
    with pytest.raises(errors.Denied):
        policy.require_not_revoked("2.0.0", "bb" * 32, Record(denied={"bb" * 32: FAILED}))
    with pytest.raises(errors.BelowFloor):
        policy.require_not_revoked("2.0.0", "bb" * 32, floor(min_version="2.0.1"))


@pytest.mark.parametrize(
    ("version", "serial"),
    [
        ("1.2.3", 1_000_002_000_003),
        ("1.2.3-rc1", 1_000_002_000_003),
        ("0.0.1", 1),
        ("999999999.0.0", manifest.MAX_SERIAL),
        ("x", 0),
    ],
)
def test_a_release_without_a_serial_has_the_builders_default(version: str, serial: int) -> None:
    assert policy.serial_of(release(LEGACY, version=version)) == serial


@given(
    version=st.text("0123456789.~-^abc", max_size=12),
    floor_version=st.text("0123456789.~-^abc", max_size=12),
    seconds=st.integers(0, 1 << 62),
    now=st.integers(0, 1 << 62),
)
def test_no_values_make_a_rule_fail_otherwise_than_by_refusing(
    version: str, floor_version: str, seconds: int, now: int
) -> None:
    odd = release(version=version, expires_sec=seconds, min_from_version=floor_version)
    record = Record(
        floor=Floor(min_version=floor_version),
        denied={odd.root_hash: dataclasses.replace(FAILED, since_usec=seconds)},
    )
    assert len(policy.judge(odd, here(running_version=floor_version), record, now_sec=now)) == len(RULES)
