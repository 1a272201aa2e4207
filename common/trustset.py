# SPDX-License-Identifier: Apache-2.0
"""Sets of trusted keys: fingerprints.yaml with the public keys (*.asc) beside it, and which set counts.

The image brings the vendor's set, the machine keeps one in /config. Each has an epoch; the newer one counts,
so that a key that the vendor took back does not return with an old image or an old backup of /config.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from common import armor, config, duration, files, openpgp
from common.errors import ERROR_PREFIX, AgentError, ConfigError
from common.gpgstatus import KeyExpired, KeyRevoked, UntrustedKey

LISTING: Final = "fingerprints.yaml"
PURPOSES: Final = ("release", "channel")
MAX_KEY_FILE_BYTES: Final = 256 << 10
MAX_KEY_FILES: Final = 64

_MAX_LISTING_BYTES: Final = 64 << 10
_MAX_EPOCH: Final = 1_000_000
_MAX_THRESHOLD: Final = 16
_TAKEN_OVER: Final = re.compile("epoch[0-9]+-")
_HEX_DIGITS: Final = frozenset("0123456789ABCDEF")


class KeySetTooOld(AgentError):
    """The set of trusted keys is older than one that this machine has already relied on."""

    dbus_name = ERROR_PREFIX + "KeySetTooOld"
    exit_status = 14


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """One entry of fingerprints.yaml: 40 upper-case hex digits of a primary key and what it may sign.

    channels: empty for all. not_before_sec, not_after_sec: first and last second (since 1970) in which it is
    trusted, None for no limit. local: an administrator's, stays when a newer set of the vendor comes.
    """

    fingerprint: str
    purpose: str
    channels: tuple[str, ...] = ()
    not_before_sec: int | None = None
    not_after_sec: int | None = None
    local: bool = False

    def signs(self, purpose: str, channel: str) -> bool:
        """Whether it may sign for that; an empty channel asks for no special one."""
        return self.purpose == purpose and (not channel or not self.channels or channel in self.channels)

    def is_valid(self, at_sec: float) -> bool:
        """Whether it is trusted at that time."""
        begun = self.not_before_sec is None or at_sec >= self.not_before_sec
        return begun and (self.not_after_sec is None or at_sec < self.not_after_sec + 1)


@dataclass(frozen=True, slots=True)
class TrustStore:
    """The set that counts: `directory` is where it lies, `keys` are those whose public key is there.

    keyring: binary, only of listed keys. revoked: fingerprints. threshold: how many different keys have to
    sign a release; for other purposes one is enough.
    """

    directory: Path
    keys: tuple[TrustedKey, ...]
    keyring: bytes
    epoch: int = 1
    threshold: int = 1
    revoked: frozenset[str] = frozenset()

    def fingerprints(self, purpose: str, channel: str = "", at_sec: float | None = None) -> frozenset[str]:
        """The keys that may sign that, at that time (None: at some time)."""
        return frozenset(
            key.fingerprint
            for key in self.keys
            if key.signs(purpose, channel)
            and key.fingerprint not in self.revoked
            and (at_sec is None or key.is_valid(at_sec))
        )

    def signatures_needed(self, purpose: str) -> int:
        return self.threshold if purpose == "release" else 1

    def objection(
        self, fingerprint: str, purpose: str, channel: str, times_sec: Collection[float], *, name: str
    ) -> AgentError | None:
        """Why this key may not sign that at all of these times, None if it may; `name` is the signature."""
        made = f"{name} was made with key {fingerprint}, which"
        if fingerprint in self.revoked:
            return KeyRevoked(
                f"{made} is listed as revoked; get the release with another signature from the vendor."
            )
        listed = [key for key in self.keys if key.fingerprint == fingerprint]
        if not listed:
            return UntrustedKey(
                f"{made} is not trusted here; get the release from its vendor, or see "
                "trusted-keys(5) for how to trust a key."
            )
        fitting = [key for key in listed if key.signs(purpose, "")]
        if not fitting:
            return UntrustedKey(
                f"{made} is trusted for another purpose than '{purpose}'; the vendor has to sign with "
                "another key."
            )
        fitting = [key for key in fitting if key.signs(purpose, channel)]
        if not fitting:
            return UntrustedKey(
                f"{made} is not trusted for the channel '{channel}'; the vendor has to sign with another "
                "key."
            )
        if not any(all(key.is_valid(time) for time in times_sec) for key in fitting):
            return KeyExpired(
                f"{made} is trusted only {_period(fitting[0])}; get the release with another signature from "
                "the vendor."
            )
        return None


@dataclass(frozen=True, slots=True)
class KeySet:
    """One folder as it was read: its listing, and its public keys by file."""

    directory: Path
    epoch: int
    threshold: int
    keys: tuple[TrustedKey, ...]
    revoked: frozenset[str]
    files: dict[Path, bytes] = field(default_factory=dict)
    """Content of each *.asc file."""
    held: dict[Path, tuple[openpgp.PublicKey, ...]] = field(default_factory=dict)
    """Public keys in each *.asc file."""


def load(directory: Path, *, vendor: Path | None = None, min_epoch: int = 0) -> TrustStore:
    """The set that counts of the machine's in `directory` and the vendor's in the running image.

    The higher epoch wins, the machine's if they are equal; a folder without fingerprints.yaml is no set, if
    the other is one. The machine's local keys count in any case, and so does each revocation of either set;
    a public key that lies in both is the sum of its copies, so that a renewal reaches the machine at once.
    Raises ConfigError; UntrustedKey if no key is left; KeySetTooOld if the epoch is below `min_epoch`.
    """
    vendors = read(vendor) if vendor is not None and _is_set(vendor) else None
    machines = read(directory) if vendors is None or _is_set(directory) else None
    sets = [found for found in (machines, vendors) if found is not None]
    winner = max(sets, key=lambda found: found.epoch)  # the first one, if they are equal
    if winner.epoch < min_epoch:
        raise KeySetTooOld(
            f"The trusted keys in {winner.directory} are of epoch {winner.epoch}, but this machine has "
            f"relied on epoch {min_epoch} already; put the current keys of the vendor there."
        )
    keys, revoked = winner.keys, winner.revoked.union(*(found.revoked for found in sets))
    if machines is not None and machines is not winner:
        keys += tuple(key for key in machines.keys if key.local and key not in keys)
    keyring = _keyring(sets, {*(key.fingerprint for key in keys), *revoked})
    usable = tuple(key for key in keys if key.fingerprint in keyring)
    if not usable:
        raise UntrustedKey(
            "No key is trusted yet: put the vendor's public key (*.asc) and its fingerprint into "
            f"{directory}."
        )
    ring = b"".join(keyring[fingerprint] for fingerprint in sorted(keyring))
    return TrustStore(winner.directory, usable, ring, winner.epoch, winner.threshold, revoked)


def adopt(vendor: Path, directory: Path) -> bool:
    """Make the vendor's set the machine's if its epoch is higher; whether it was.

    Local keys and all revocations of the machine stay. The list is replaced last but for the removal of the
    old key files, so after a power cut the folder holds the old set or the new one, each whole. Raises
    ConfigError, FileError.
    """
    new = read(vendor) if _is_set(vendor) else None
    old = read(directory) if _is_set(directory) else None
    if new is None or (old is not None and old.epoch >= new.epoch):
        return False
    own = tuple(key for key in old.keys if key.local) if old is not None else ()
    own_fingerprints = {key.fingerprint for key in own}
    held = old.held if old is not None else {}
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be made: {error.strerror}.") from error
    # A name of its own for each epoch: the old set needs the files of the old names until the list changes.
    written = {directory / f"epoch{new.epoch}-{path.name}": data for path, data in new.files.items()}
    for path, data in written.items():
        if own_fingerprints & {key.fingerprint for key in held.get(path, ())}:
            raise ConfigError(f"{path} holds a local key, but its name is the vendor's; rename the file.")
        files.write_atomic(path, data)
    revoked = new.revoked | (old.revoked if old is not None else frozenset())
    keys = new.keys + tuple(key for key in own if key not in new.keys)
    files.write_atomic(directory / LISTING, _render(new.epoch, new.threshold, keys, revoked))
    replaced = {key.fingerprint for key in old.keys} - own_fingerprints if old is not None else set()
    for path, public_keys in held.items():
        fingerprints = {key.fingerprint for key in public_keys}
        # By its name: a power cut may have come before the removal of what an earlier set left.
        stale = fingerprints & replaced or _TAKEN_OVER.match(path.name)
        if stale and path not in written and not fingerprints & own_fingerprints:
            files.remove_durable(path)
    return True


def read(directory: Path) -> KeySet:
    """One folder by itself. Raises ConfigError, FileError."""
    section = config.load(directory / LISTING, max_bytes=_MAX_LISTING_BYTES)
    epoch = section.get_int("epoch", 1, minimum=1, maximum=_MAX_EPOCH)
    threshold = section.get_int("threshold", 1, minimum=1, maximum=_MAX_THRESHOLD)
    keys = tuple(_key(item) for item in section.sections("fingerprints"))
    revoked = frozenset(_fingerprint(section, "revoked", text) for text in section.get_strings("revoked"))
    section.finish()
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".asc")
    except OSError as error:
        raise ConfigError(f"{directory} cannot be read: {error.strerror}.") from error
    if len(paths) > MAX_KEY_FILES:
        raise ConfigError(
            f"{directory} holds {len(paths)} key files, at most {MAX_KEY_FILES} are allowed; "
            "remove those that are not listed."
        )
    contents = {path: files.read_bounded(path, MAX_KEY_FILE_BYTES) for path in paths}
    held = {path: _public_keys(data, name=str(path)) for path, data in contents.items()}
    return KeySet(directory, epoch, threshold, keys, revoked, contents, held)


def _is_set(directory: Path) -> bool:
    """Whether the folder holds a set. Raises ConfigError if that cannot be told: it is never passed over."""
    try:
        return (directory / LISTING).exists()
    except OSError as error:
        raise ConfigError(f"{directory} cannot be examined: {error.strerror}; try it as root.") from error


def _keyring(sets: Iterable[KeySet], fingerprints: Collection[str]) -> dict[str, bytes]:
    """Binary public keys by fingerprint, of those asked for that are there."""
    copies: dict[str, list[openpgp.PublicKey]] = {}
    for key in (key for found in sets for held in found.held.values() for key in held):
        if key.fingerprint in fingerprints:
            copies.setdefault(key.fingerprint, []).append(key)
    return {fingerprint: openpgp.merge(same) for fingerprint, same in copies.items()}


def _public_keys(text: bytes, *, name: str) -> tuple[openpgp.PublicKey, ...]:
    return openpgp.keys(armor.decode(text, kind="PGP PUBLIC KEY BLOCK", name=name), name=name)


def _key(item: config.Section) -> TrustedKey:
    key = TrustedKey(
        fingerprint=_fingerprint(item, "fingerprint", item.get_str("fingerprint")),
        purpose=item.get_enum("purpose", PURPOSES),
        channels=item.get_strings("channels", default=()),
        not_before_sec=item.get_time_sec("not_before", None),
        not_after_sec=item.get_time_sec("not_after", None, end_of_day=True),
        local=item.get_bool("local", default=False),
    )
    if key.not_after_sec is not None and (key.not_before_sec or 0) > key.not_after_sec:
        raise item.error("not_after", "must not lie before not_before")
    return key


def _fingerprint(section: config.Section, key: str, text: str) -> str:
    fingerprint = text.replace(" ", "").upper()
    if len(fingerprint) != 40 or not set(fingerprint) <= _HEX_DIGITS:
        raise section.error(key, f"'{text}' is not a fingerprint of 40 hexadecimal digits")
    return fingerprint


def _render(epoch: int, threshold: int, keys: Iterable[TrustedKey], revoked: Iterable[str]) -> bytes:
    """fingerprints.yaml; words are quoted, since YAML takes some of them for numbers."""
    lines = [
        "# Taken over from the system image; see trusted-keys(5). Add keys of your own with 'local: true'.",
        f"epoch: {epoch}",
        f"threshold: {threshold}",
        "fingerprints:",
    ]
    for key in keys:
        lines += [f'  - fingerprint: "{key.fingerprint}"', f"    purpose: {key.purpose}"]
        if key.channels:
            lines.append(f"    channels: [{', '.join(map(_quoted, key.channels))}]")
        for word, seconds in (("not_before", key.not_before_sec), ("not_after", key.not_after_sec)):
            if seconds is not None:
                lines.append(f'    {word}: "{duration.format_time(seconds)}"')
        if key.local:
            lines.append("    local: true")
    if listed := sorted(revoked):
        lines += ["revoked:", *(f'  - "{fingerprint}"' for fingerprint in listed)]
    return ("\n".join(lines) + "\n").encode()


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


def _period(key: TrustedKey) -> str:
    parts = []
    if key.not_before_sec is not None:
        parts.append(f"from {duration.format_time(key.not_before_sec)}")
    if key.not_after_sec is not None:
        parts.append(f"until {duration.format_time(key.not_after_sec)}")
    return " ".join(parts)
