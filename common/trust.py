# SPDX-License-Identifier: Apache-2.0
"""Who may sign, and detached OpenPGP signatures streamed through gpgv.

The keys are the armoured files of one folder; fingerprints.yaml there lists which primary keys may sign for
which purpose. Data is streamed, so that one read of an image serves its hash and its signature.
common.gpgstatus decides.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from common import armor, config, files, process
from common.errors import ConfigError
from common.gpgstatus import (
    BadSignature,
    KeyExpired,
    KeyRevoked,
    NoSignature,
    Signature,
    SignatureExpired,
    UntrustedKey,
    WeakDigest,
    judge,
)

__all__ = [
    "BadSignature",
    "KeyExpired",
    "KeyRevoked",
    "NoSignature",
    "Signature",
    "SignatureExpired",
    "TrustStore",
    "TrustedKey",
    "UntrustedKey",
    "Verifier",
    "WeakDigest",
    "judge",
    "load",
]

MAX_SIGNATURE_BYTES = 16 << 10
MAX_KEY_FILE_BYTES = 256 << 10
MAX_KEY_FILES = 64


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """One line of fingerprints.yaml: 40 upper-case hex digits of a primary key and what it may sign."""

    fingerprint: str
    purpose: str
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrustStore:
    """Listed fingerprints and the binary keyring made of all *.asc files of `directory`."""

    directory: Path
    keys: tuple[TrustedKey, ...]
    keyring: bytes

    def fingerprints(self, purpose: str) -> frozenset[str]:
        return frozenset(key.fingerprint for key in self.keys if key.purpose == purpose)


def load(directory: Path) -> TrustStore:
    """Trust store in `directory` (fingerprints.yaml and *.asc).

    Raises ConfigError; UntrustedKey if it is empty.
    """
    section = config.load(directory / "fingerprints.yaml", max_bytes=64 << 10)
    keys: list[TrustedKey] = []
    for item in section.sections("fingerprints"):
        text = item.get_str("fingerprint").replace(" ", "").upper()
        if len(text) != 40 or not set(text) <= set("0123456789ABCDEF"):
            raise ConfigError(
                f"{item.where}: fingerprint: '{text}' is not a fingerprint of 40 hexadecimal digits."
            )
        keys.append(TrustedKey(text, item.get_str("purpose"), item.get_strings("channels", default=())))
        item.finish()
    section.finish()
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".asc")
    except OSError as error:
        raise ConfigError(f"{directory} cannot be read: {error.strerror}.") from error
    if len(paths) > MAX_KEY_FILES:
        raise ConfigError(f"{directory} holds {len(paths)} key files, at most {MAX_KEY_FILES} are allowed.")
    keyring = bytearray()
    for path in paths:
        text_bytes = files.read_bounded(path, MAX_KEY_FILE_BYTES)
        keyring += armor.decode(text_bytes, kind="PGP PUBLIC KEY BLOCK", name=str(path))
    if not keys or not keyring:
        raise UntrustedKey(
            "No key is trusted yet: put the vendor's public key (*.asc) and its fingerprint into "
            f"{directory}."
        )
    return TrustStore(directory, tuple(keys), bytes(keyring))


class Verifier:
    """Streams data through gpgv: `with Verifier(...) as v: v.write(chunk) ...; v.finish()`."""

    def __init__(
        self,
        store: TrustStore,
        signature: bytes,
        *,
        name: str,
        purpose: str = "release",
        timeout_sec: float = 6 * 3600,
    ) -> None:
        if len(signature) > MAX_SIGNATURE_BYTES:
            raise BadSignature(
                f"{name} has {len(signature)} bytes, at most {MAX_SIGNATURE_BYTES} are allowed."
            )
        if not signature.strip():
            raise NoSignature(f"{name} is empty; get the image and its signature again from the vendor.")
        self._allowed = store.fingerprints(purpose)
        self._name = name
        self._stack = ExitStack()
        with ExitStack() as stack:
            keyring_fd = _memory_file(stack, "keyring", store.keyring)
            signature_fd = _memory_file(stack, "signature", signature)
            weak = [
                option for digest in ("MD5", "SHA1", "RIPEMD160") for option in ("--weak-digest", digest)
            ]
            argv = ["gpgv", "--homedir", "/nonexistent", *weak, "--keyring", f"/proc/self/fd/{keyring_fd}"]
            argv += ["--status-fd", "1", "--", f"/proc/self/fd/{signature_fd}", "-"]
            feeder = process.Feeder(argv, timeout_sec=timeout_sec, pass_fds=(keyring_fd, signature_fd))
            self._feeder = stack.enter_context(feeder)
            self._stack = stack.pop_all()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, data: bytes | memoryview) -> None:
        self._feeder.write(data)

    def finish(self) -> Signature:
        """Verdict after the last byte; raises as `judge` does."""
        completed = self._feeder.finish()
        if completed.returncode < 0:
            raise BadSignature(
                f"{self._name} could not be checked: gpgv died of signal {-completed.returncode}."
            )
        return judge(
            completed.stdout.decode("utf-8", errors="replace"), allowed=self._allowed, name=self._name
        )


def _memory_file(stack: ExitStack, name: str, data: bytes) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
