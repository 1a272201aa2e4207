# SPDX-License-Identifier: Apache-2.0
"""Slot-manager's words in RAUC's, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.rauc import translate
from common import bus
from common.errors import AgentError, InvalidArgument
from common.image import Inspection

from .stand_in import slot

SLOTS = [slot("a", "good", "1.0.0", booted=True), slot("b", "staged", "1.1.0")]


@pytest.mark.parametrize(
    ("identifier", "name"), [("booted", "a"), ("other", "b"), ("rootfs.0", "a"), ("rootfs.1", "b")]
)
def test_a_slot_is_found_by_rauc_s_identifiers(identifier: str, name: str) -> None:
    assert translate.find_slot(identifier, SLOTS)["name"] == name


@pytest.mark.parametrize("identifier", ["", "a", "b", "rootfs", "rootfs.2", "appfs.0", "Booted", "None"])
def test_any_other_identifier_is_refused_with_the_ones_that_exist(identifier: str) -> None:
    with pytest.raises(InvalidArgument, match=r"booted, other or rootfs\.0 or rootfs\.1"):
        translate.find_slot(identifier, SLOTS)


@pytest.mark.parametrize(
    ("arguments", "options", "transaction"),
    [
        ({}, {}, ""),
        ({"ignore-version-limit": True}, {"allow-downgrade": True}, ""),
        ({"ignore-version-limit": False}, {}, ""),
        ({"transaction-id": "1d0b"}, {}, "1d0b"),
        ({"transaction-id": "a\nb" + "c" * 200}, {}, "ab" + "c" * 126),
        ({"ignore-compatible": False, "tls-no-verify": False}, {}, ""),
    ],
)
def test_arguments_of_install_bundle_become_options_of_install(
    arguments: dict[str, Any], options: dict[str, Any], transaction: str
) -> None:
    assert translate.install_options(arguments) == (options, transaction)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ignore-compatible", True),
        ("require-manifest-hash", "00ff"),
        ("tls-cert", "/etc/cert.pem"),
        ("tls-key", "/etc/key.pem"),
        ("tls-ca", "/etc/ca.pem"),
        ("tls-no-verify", True),
        ("http-headers", ["Authorization: x"]),
        ("http-headers", []),
        ("ignore-version-limit", "yes"),
        ("ignore-version-limit", 1),
        ("transaction-id", 7),
        ("arm", False),
        ("allow-downgrade", True),
    ],
)
def test_argument_that_would_weaken_a_check_or_is_unknown_is_refused_by_name(
    key: str, value: object
) -> None:
    with pytest.raises(InvalidArgument, match=key):
        translate.install_options({key: value})


@pytest.mark.parametrize("key", ["tls-no-verify", "tls-ca", "http-headers", "anything", "transaction-id"])
def test_inspect_bundle_takes_no_argument(key: str) -> None:
    with pytest.raises(InvalidArgument, match=f"InspectBundle: .*{key}"):
        translate.check_inspect_arguments({key: True})


def test_refusal_never_repeats_the_value_which_may_be_secret() -> None:
    with pytest.raises(InvalidArgument) as refused:
        translate.install_options({"http-headers": ["Authorization: Bearer s3cret"]})

    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("state", "boot_status", "status"),
    [
        ("installing", "bad", "pending"),
        ("staged", "bad", "ok"),
        ("approved", "bad", "ok"),
        ("armed", "good", "ok"),
        ("trying", "good", "ok"),
        ("good", "good", "ok"),
        ("bad", "bad", "ok"),
        ("something new", "unknown", "ok"),
    ],
)
def test_state_of_a_slot_in_rauc_s_words(state: str, boot_status: str, status: str) -> None:
    name, shown = translate.slot_status(slot("b", state, "1.1.0"))

    assert (name, shown["boot-status"], shown["status"]) == ("rootfs.1", boot_status, status)


def test_running_slot_is_booted_and_mounted() -> None:
    assert translate.slot_status(SLOTS[0]) == (
        "rootfs.0",
        {
            "class": "rootfs",
            "device": "/dev/a",
            "type": "raw",
            "bootname": "a",
            "state": "booted",
            "mountpoint": "/",
            "boot-status": "good",
            "status": "ok",
            "bundle.compatible": "hypernet",
            "bundle.version": "1.0.0",
        },
    )


def test_empty_slot_has_no_status_and_no_bundle() -> None:
    _, shown = translate.slot_status(slot("b", "empty", ""))

    assert shown.keys() == {"class", "device", "type", "bootname", "state", "boot-status"}
    assert (shown["state"], shown["boot-status"]) == ("inactive", "bad")


def entry(name: str, version: str, state: str, sec: int) -> dict[str, Any]:
    """One of slot-manager's Transitions."""
    return {"slot": name, "version": version, "state": state, "since": sec * 1_000_000}


def test_times_are_those_of_the_installation_of_what_the_slot_holds() -> None:
    transitions = [
        entry("b", "1.1.0", "installing", 1_700_000_000),
        entry("b", "1.1.0", "staged", 1_700_000_001),
        entry("b", "1.1.0", "installing", 1_750_000_000),
        entry("b", "1.1.0", "armed", 1_750_000_001),
        entry("b", "1.1.0", "staged", 1_750_000_002),
        entry("b", "1.1.0", "armed", 1_750_000_061),
        entry("a", "1.1.0", "armed", 1_770_000_000),
    ]

    _, shown = translate.slot_status(slot("b", "armed", "1.1.0"), transitions)

    assert shown["installed.timestamp"] == "2025-06-15T15:06:41Z"
    assert shown["activated.timestamp"] == "2025-06-15T15:07:41Z"


def test_time_of_an_installation_that_the_journal_does_not_reach_is_left_out() -> None:
    _, shown = translate.slot_status(
        slot("b", "armed", "1.1.0"), [entry("b", "1.1.0", "armed", 1_750_000_000)]
    )

    assert "installed.timestamp" not in shown
    assert shown["activated.timestamp"] == "2025-06-15T15:06:40Z"


def test_slot_that_an_installation_left_empty_has_failed() -> None:
    transitions = [entry("b", "1.1.0", "installing", 1), entry("b", "1.1.0", "empty", 2)]

    assert translate.slot_status(slot("b", "empty", ""), transitions)[1]["status"] == "failed"


@pytest.mark.parametrize(
    ("name", "state", "default", "other", "step"),
    [
        ("a", "good", "a", "empty", ""),
        ("b", "armed", "b", "good", ""),
        ("a", "good", "b", "armed", "disarm"),
        ("a", "bad", "b", "good", "mark-good"),
        ("b", "staged", "a", "good", "arm"),
        ("b", "approved", "a", "good", "arm"),
        ("b", "bad", "a", "good", "mark-good"),
        ("b", "good", "a", "good", "rollback"),
        ("b", "empty", "a", "good", "arm"),
        ("b", "installing", "a", "good", "arm"),
    ],
)
def test_what_makes_a_slot_the_next_one(name: str, state: str, default: str, other: str, step: str) -> None:
    meant = slot(name, state, "1.0.0", booted=name == "a")

    assert translate.activation(meant, default, other) == step


def test_without_a_slot_to_boot_there_is_no_primary() -> None:
    assert translate.require_primary("b") == "rootfs.1"
    with pytest.raises(AgentError, match="Failed getting primary slot"):
        translate.require_primary("")


def test_facts_of_an_image_are_wrapped_as_rauc_wraps_them() -> None:
    image = Inspection(
        path=Path("/tmp/hypernet-1.1.0.img"),
        bytes=5 << 20,
        version="1.1.0",
        product="hypernet",
        arch="x86-64",
        channel="stable",
        root_hash="ab" * 32,
        serial=1000001000000,
        issued_sec=1_750_000_000,
        expires_sec=0,
        has_manifest=True,
        signers=("F" * 40,),
        kernel_cmdline="roothash=ab",
        partitions=(),
    )

    info = translate.bundle_info(image)

    # GLib programs look up a "v" in the dictionary, as RAUC's own tests do.
    assert {key: value.signature for key, value in info.items()} == dict.fromkeys(info, "v")
    assert info["update"].value == bus.Variant("a{sv}", {"compatible": "hypernet", "version": "1.1.0"})
    assert info["bundle"].value.value == {"format": "verity", "verity-hash": "ab" * 32}
    assert info["images"].value.value[0]["size"] == bus.Variant("t", 5 << 20)
    assert info["meta"].value == bus.Variant(
        "a{sa{ss}}",
        {
            "hypernet": {
                "arch": "x86-64",
                "channel": "stable",
                "serial": "1000001000000",
                "issued": "2025-06-15T15:06:40Z",
                "root-hash": "ab" * 32,
                "signers": "F" * 40,
            }
        },
    )
