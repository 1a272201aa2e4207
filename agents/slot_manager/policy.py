# SPDX-License-Identifier: Apache-2.0
"""Which release may be installed on this machine: one pure rule after the other, each with its sentence.

Signatures are checked before (common.trust) and content after (common.lint); here it is only the signed
statement about the release against the machine and its record.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from agents.slot_manager.errors import (
    BelowFloor,
    Denied,
    Downgrade,
    ImageUnfit,
    ManifestExpired,
    NeedsSteppingStone,
    SameVersion,
    WrongArchitecture,
    WrongChannel,
    WrongProduct,
)
from agents.slot_manager.record import Record
from common import manifest, version
from common.errors import AgentError
from common.trust import KeySetTooOld


@dataclass(frozen=True, slots=True)
class Release:
    """A verified release; times are seconds since 1970, hashes hex, empty or 0 is what it does not say.

    `digest` is the SHA-256 of the manifest, or of the image of a `legacy` release, which has no manifest.
    """

    product: str
    arch: str
    version: str
    root_hash: str
    channel: str = ""
    serial: int = 0
    issued_sec: int = 0
    expires_sec: int = 0
    min_version: str = ""
    min_from_version: str = ""
    key_epoch: int = 0
    config_schema: int = 0
    digest: str = ""
    legacy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """The machine; a `config_schema` of 0 is not known."""

    product: str = "hypernet"
    arch: str = "x86-64"
    channel: str = "stable"
    running_version: str
    running_root_hash: str
    config_schema: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What one rule says of a release; `error` is what a refusal raises, None if the rule is kept."""

    rule: str
    ok: bool
    reason: str
    error: type[AgentError] | None


def judge(
    release: Release, local: Local, record: Record, *, now_sec: int, allow_downgrade: bool = False
) -> tuple[Decision, ...]:
    """What every rule says, in the order in which they count; `now_sec` is Machine.now_sec(record)."""
    return (
        _decide("product", WrongProduct, *_product(release, local)),
        _decide("arch", WrongArchitecture, *_arch(release, local)),
        _decide("channel", WrongChannel, *_channel(release, local)),
        _decide("expiry", ManifestExpired, *_expiry(release, now_sec)),
        _decide("key-epoch", KeySetTooOld, *_key_epoch(release, record)),
        _decide("same-version", SameVersion, *_same_version(release, local)),
        _decide("denylist", Denied, *_denylist(release, record)),
        _decide("floor", BelowFloor, *_floor(release, record, allow_downgrade=allow_downgrade)),
        _decide("downgrade", Downgrade, *_downgrade(release, local, allow_downgrade=allow_downgrade)),
        _decide("stepping-stone", NeedsSteppingStone, *_stepping_stone(release, local)),
        _decide("config-schema", ImageUnfit, *_config_schema(release, local)),
    )


def refusal(decisions: tuple[Decision, ...]) -> Decision | None:
    """The refusal that counts: the first one."""
    return next((decision for decision in decisions if not decision.ok), None)


def require(
    release: Release, local: Local, record: Record, *, now_sec: int, allow_downgrade: bool = False
) -> None:
    """Raise the error of the first rule that refuses the release."""
    first = refusal(judge(release, local, record, now_sec=now_sec, allow_downgrade=allow_downgrade))
    if first is not None and first.error is not None:
        raise first.error(first.reason)


def require_not_revoked(release_version: str, root_hash: str, record: Record) -> None:
    """The rules that a release has to keep even after its installation. Raises Denied, BelowFloor."""
    release = Release("", "", release_version, root_hash)
    for error, (ok, reason) in (
        (Denied, _denylist(release, record)),
        (BelowFloor, _floor(release, record, allow_downgrade=True)),
    ):
        if not ok:
            raise error(reason)


def serial_of(release: Release) -> int:
    """Its serial; the builder's default where the release does not say."""
    return release.serial or min(manifest.default_serial(release.version), manifest.MAX_SERIAL)


_Verdict = tuple[bool, str]


def _decide(rule: str, error: type[AgentError], ok: bool, reason: str) -> Decision:
    return Decision(rule, ok, reason, None if ok else error)


def _product(release: Release, local: Local) -> _Verdict:
    if release.product == local.product:
        return True, f"It is a release of {local.product}."
    return False, (
        f"Release {release.version} is one of '{release.product}', not of '{local.product}'; get the image "
        "that was made for this machine."
    )


def _arch(release: Release, local: Local) -> _Verdict:
    if release.arch == local.arch:
        return True, f"It is made for {local.arch}."
    return False, (
        f"Release {release.version} is made for {release.arch or 'an unknown architecture'}; get the image "
        f"for {local.arch}, which is what this machine has."
    )


def _channel(release: Release, local: Local) -> _Verdict:
    if release.legacy and not release.channel:
        return True, "It has no manifest, so it names no channel."
    if release.channel == local.channel:
        return True, f"It is of channel {local.channel}, which this machine follows."
    return False, (
        f"Release {release.version} is of channel '{release.channel}', this machine follows "
        f"'{local.channel}'; change 'channel' in /config/hypernet/updates.yaml if you want it."
    )


def _expiry(release: Release, now_sec: int) -> _Verdict:
    if not release.expires_sec:
        if release.legacy:
            return True, "It has no manifest, so it does not expire."
        return False, f"Release {release.version} does not say when it expires; get its manifest again."
    if now_sec < release.expires_sec:
        return True, f"It is valid until {_date(release.expires_sec)}."
    return False, (
        f"Release {release.version} expired on {_date(release.expires_sec)} and it is {_date(now_sec)} by "
        "what this machine knows; get a newer release, or check the clock."
    )


def _key_epoch(release: Release, record: Record) -> _Verdict:
    floor = record.floor.key_epoch
    if release.legacy:
        return True, "It has no manifest, so it names no key set."
    if release.key_epoch >= floor:
        return True, f"It was signed for key set {release.key_epoch}, {floor} or later is accepted."
    return False, (
        f"Release {release.version} was signed for key set {release.key_epoch}, this machine has seen set "
        f"{floor}; get a release that was signed with the present keys."
    )


def _same_version(release: Release, local: Local) -> _Verdict:
    # The file system of the ESP does not tell upper from lower case.
    if release.version.lower() == local.running_version.lower():
        return False, f"Version {release.version} is running already; there is nothing to do."
    if release.root_hash and release.root_hash == local.running_root_hash:
        return False, (
            f"Version {release.version} has the very content that is running as {local.running_version}; "
            "there is nothing to do."
        )
    return True, f"It is not the running {local.running_version}."


def _denylist(release: Release, record: Record) -> _Verdict:
    same = (entry for entry in record.denied.values() if release.digest and entry.digest == release.digest)
    denied = record.denied.get(release.root_hash) or next(same, None)
    if denied is None:
        return True, "It has not failed here."
    return False, (
        f"Version {release.version} failed on this machine on {_date(denied.since_usec // 1_000_000)} "
        f"({denied.reason}); install a newer one, or allow it again with 'hypernet-admin denied clear "
        f"{denied.version}'."
    )


def _floor(release: Release, record: Record, *, allow_downgrade: bool) -> _Verdict:
    floor = record.floor
    if floor.min_version and version.compare(release.version, floor.min_version) < 0:
        return False, (
            f"Version {release.version} was revoked: a release that was good here allows nothing older than "
            f"{floor.min_version}; get that or a newer one."
        )
    serial = serial_of(release)
    if serial >= floor.serial:
        return True, f"Its serial {serial} is not below {floor.serial}, the highest that was good here."
    if allow_downgrade:
        return True, f"Its serial {serial} is below {floor.serial}, but a downgrade was asked for."
    return False, (
        f"Version {release.version} (serial {serial}) is older than the newest release that was good here "
        f"(serial {floor.serial}); use --allow-downgrade if you want it nevertheless."
    )


def _downgrade(release: Release, local: Local, *, allow_downgrade: bool) -> _Verdict:
    if version.compare(release.version, local.running_version) >= 0:
        return True, f"It is not older than the running {local.running_version}."
    if allow_downgrade:
        return True, f"It is older than the running {local.running_version}, but that was asked for."
    return False, (
        f"Version {release.version} is older than the running {local.running_version}; use "
        "'hypernet-admin rollback' to go back to the other slot, or --allow-downgrade to install it."
    )


def _stepping_stone(release: Release, local: Local) -> _Verdict:
    needed = release.min_from_version
    if not needed or version.compare(local.running_version, needed) >= 0:
        return True, "It can be installed from the running version."
    return False, (
        f"Version {release.version} can only be installed from {needed} or later, running is "
        f"{local.running_version}; install {needed} first."
    )


def _config_schema(release: Release, local: Local) -> _Verdict:
    if not release.config_schema or not local.config_schema or release.config_schema >= local.config_schema:
        return True, "It can read the configuration of this machine."
    return False, (
        f"Version {release.version} reads configuration up to schema {release.config_schema}, that of this "
        f"machine has schema {local.config_schema}; get a newer release."
    )


def _date(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):
        return f"second {seconds} of the clock"
