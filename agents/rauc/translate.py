# SPDX-License-Identifier: Apache-2.0
"""Slot-manager's words in RAUC's, and back. Pure: dictionaries in, dictionaries out.

Source: reference documentation of RAUC, "D-Bus API", and its de.pengutronix.rauc.Installer.xml.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from common import bus
from common.errors import AgentError, InvalidArgument
from common.image import Inspection

COMPATIBLE: Final = "hypernet"
"""The product: an image of another one is refused."""

SLOT_CLASS: Final = "rootfs"
SLOT_NAMES: Final = {"a": f"{SLOT_CLASS}.0", "b": f"{SLOT_CLASS}.1"}

_SLOTS: Final = {name: slot for slot, name in SLOT_NAMES.items()}
_BOOTABLE: Final = ("armed", "trying", "good")
"""States in which the boot loader takes a slot, if nothing comes before it."""
_NOT_BOOTABLE: Final = ("empty", "installing", "staged", "approved", "bad")

_HANDLED: Final = {"ignore-version-limit": bool, "transaction-id": str}
_REFUSED: Final = {
    "ignore-compatible": "an image for another product is never installed here",
    "require-manifest-hash": "images have no RAUC manifest; the signature decides what may be installed",
    "tls-cert": "the caller does not choose how an image is downloaded",
    "tls-key": "the caller does not choose how an image is downloaded",
    "tls-ca": "the caller does not choose whose servers are trusted",
    "tls-no-verify": "the certificate of a server is always verified",
    "http-headers": "the caller does not choose how an image is downloaded",
}
_MAX_TRANSACTION: Final = 128


def slot_name(slot: str) -> str:
    """RAUC's name of "a" or "b"; empty for an empty name."""
    return SLOT_NAMES.get(slot, "")


def find_slot(identifier: str, slots: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The slot that RAUC calls "booted", "other" or by its name; raises InvalidArgument.

    slots: the property Slots of slot-manager.
    """
    for slot in slots:
        booted = bool(slot.get("booted"))
        if identifier == ("booted" if booted else "other") or slot.get("name") == _SLOTS.get(identifier):
            return slot
    raise InvalidArgument(
        f"There is no slot '{identifier}'; name it booted, other or {' or '.join(SLOT_NAMES.values())}."
    )


def install_options(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Options of slot-manager's Install for the arguments of InstallBundle, and the caller's transaction id.

    Raises InvalidArgument for what would weaken the checks, and for what is unknown.
    """
    _refuse("InstallBundle", arguments, _HANDLED)
    options = {"allow-downgrade": True} if arguments.get("ignore-version-limit") else {}
    transaction = "".join(c for c in arguments.get("transaction-id", "") if c.isprintable())
    return options, transaction[:_MAX_TRANSACTION]


def check_inspect_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise InvalidArgument for every argument of InspectBundle: all are about downloads."""
    _refuse("InspectBundle", arguments, {})


def _refuse(method: str, arguments: Mapping[str, Any], handled: Mapping[str, type]) -> None:
    for key, value in arguments.items():
        if key in handled:
            if type(value) is not handled[key]:
                raise InvalidArgument(
                    f"{method}: '{key}' has to be a {handled[key].__name__}, in D-Bus as in RAUC."
                )
        elif key not in _REFUSED:
            raise InvalidArgument(f"{method}: Unsupported key: {key}; leave it out.")
        # A switch that is off asks for nothing.
        elif value is not False:
            raise InvalidArgument(f"{method}: '{key}' is not supported: {_REFUSED[key]}; leave it out.")


def slot_status(
    slot: Mapping[str, Any], transitions: Iterable[Mapping[str, Any]] = ()
) -> tuple[str, dict[str, Any]]:
    """One entry of GetSlotStatus: RAUC's name and dictionary of a slot.

    slot: an entry of slot-manager's Slots; transitions: its property of that name, oldest first.
    """
    name, state, version = str(slot["name"]), str(slot["state"]), str(slot.get("version", ""))
    booted = bool(slot.get("booted"))
    status: dict[str, Any] = {
        "class": SLOT_CLASS,
        "device": str(slot.get("device", "")),
        "type": "raw",
        "bootname": name,
        "state": "booted" if booted else "inactive",
        "boot-status": _boot_status(state),
    }
    if booted:
        status["mountpoint"] = "/"
    journal = [entry for entry in transitions if entry.get("slot") == name]
    if state == "installing":
        status["status"] = "pending"
    elif version:
        status |= {"status": "ok", "bundle.compatible": COMPATIBLE, "bundle.version": version}
        status |= _times(version, journal)
    elif journal and journal[-1].get("state") == "empty":
        status["status"] = "failed"
    return slot_name(name), status


def _boot_status(state: str) -> str:
    if state in _BOOTABLE:
        return "good"
    return "bad" if state in _NOT_BOOTABLE else "unknown"


def _times(version: str, journal: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """When the content of a slot was installed and last activated, as far as its journal goes back."""
    times: dict[str, str] = {}
    installing = False
    for entry in journal:
        state = entry.get("state")
        if state == "installing":
            times, installing = {}, True
        elif entry.get("version") == version and state in ("staged", "armed"):
            moment = _date(entry.get("since", 0) // 1_000_000)
            # What follows its installation first; later a slot can be staged or armed again.
            if installing:
                times["installed.timestamp"], installing = moment, False
            if state == "armed":
                times["activated.timestamp"] = moment
    return times


def activation(slot: Mapping[str, Any], default: str, other_state: str) -> str:
    """What makes a slot the one that boots next: "" (it is), or the method "disarm", "mark-good", "rollback"
    or "arm".

    slot: from slot-manager's Slots; default: its DefaultSlot; other_state: state of the slot that is not
    meant.
    """
    if slot["name"] == default:
        return ""
    if slot.get("booted"):
        return "disarm" if other_state == "armed" else "mark-good"
    # slot-manager says best itself what is wrong with a slot in any other state.
    return {"bad": "mark-good", "good": "rollback"}.get(str(slot["state"]), "arm")


def marked(state: str, slot: str) -> str:
    """RAUC's sentence for a slot that was marked."""
    return f"activated slot {slot}" if state == "active" else f"marked slot {slot} as {state}"


def bundle_info(image: Inspection) -> dict[str, Any]:
    """The answer of InspectBundle.

    RAUC wraps its inner dictionaries and lists in a second variant, and programs unwrap them twice.
    """
    meta = {
        "arch": image.arch,
        "channel": image.channel,
        "serial": str(image.serial) if image.serial else "",
        "issued": _date(image.issued_sec),
        "expires": _date(image.expires_sec),
        "root-hash": image.root_hash,
        "signers": " ".join(image.signers),
    }
    bundle = {
        "slot-class": SLOT_CLASS,
        "filename": image.path.name,
        "type": "raw",
        "size": bus.Variant("t", image.bytes),
        "hooks": bus.Variant("as", []),
    }
    known = {key: value for key, value in meta.items() if value}
    return {
        "update": _twice("a{sv}", {"compatible": image.product, "version": image.version}),
        "bundle": _twice("a{sv}", {"format": "verity", "verity-hash": image.root_hash}),
        "images": _twice("aa{sv}", [bundle]),
        "meta": _twice("a{sa{ss}}", {COMPATIBLE: known}),
    }


def _twice(signature: str, value: object) -> bus.Variant:
    return bus.Variant("v", bus.Variant(signature, value))


def _date(sec: int) -> str:
    return datetime.fromtimestamp(sec, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if sec else ""


def require_primary(slot: str) -> str:
    """RAUC's name of slot-manager's DefaultSlot; raises AgentError if the boot loader would take neither."""
    if not slot:
        raise AgentError(
            "Failed getting primary slot: the boot loader would take neither; see 'hypernet-admin status'."
        )
    return slot_name(slot)
