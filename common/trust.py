# SPDX-License-Identifier: Apache-2.0
"""Detached OpenPGP signatures, streamed through gpgv and judged by the trusted keys.

Data is streamed, so that one read of an image serves its hash and its signature. common.trustset says who
may sign, common.gpgstatus what gpgv's answer means.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from types import TracebackType

from common import keylife, process
from common.errors import AgentError
from common.gpgstatus import (
    Accepted,
    BadSignature,
    KeyExpired,
    KeyRevoked,
    NoSignature,
    Signature,
    SignatureExpired,
    TooFewSignatures,
    UntrustedKey,
    WeakDigest,
    judge,
    key_expired,
)
from common.trustset import (
    MAX_KEY_FILE_BYTES,
    MAX_KEY_FILES,
    KeySetTooOld,
    TrustedKey,
    TrustStore,
    adopt,
    load,
)

__all__ = [
    "MAX_KEY_FILES",
    "MAX_KEY_FILE_BYTES",
    "MAX_SIGNATURE_BYTES",
    "Accepted",
    "BadSignature",
    "KeyExpired",
    "KeyRevoked",
    "KeySetTooOld",
    "NoSignature",
    "SignatureExpired",
    "TooFewSignatures",
    "TrustStore",
    "TrustedKey",
    "UntrustedKey",
    "Verifier",
    "WeakDigest",
    "adopt",
    "load",
    "verify_bytes",
]

MAX_SIGNATURE_BYTES = 16 << 10

_WEAK_DIGESTS = ("MD5", "SHA1", "RIPEMD160")
_BYTES_TIMEOUT_SEC = 60.0


class Verifier:
    """Streams data through gpgv: `with Verifier(...) as v: v.write(chunk) ...; v.finish()`."""

    def __init__(
        self,
        store: TrustStore,
        signature: bytes,
        *,
        name: str,
        purpose: str = "release",
        channel: str = "",
        now_sec: float | None = None,
        timeout_sec: float = 6 * 3600,
    ) -> None:
        """Start to verify the content of the signature file `name`.

        purpose and channel: what the keys have to be trusted for; "" for any channel. now_sec: the time, for
        a caller that knows better than the clock. Raises NoSignature, BadSignature, ProcessError.
        """
        if len(signature) > MAX_SIGNATURE_BYTES:
            raise BadSignature(
                f"{name} has {len(signature)} bytes, at most {MAX_SIGNATURE_BYTES} are allowed; get it "
                "again from the vendor."
            )
        if not signature.strip():
            raise NoSignature(f"{name} is empty; get the release and its signature again from the vendor.")
        self._store = store
        self._name = name
        self._purpose = purpose
        self._channel = channel
        self._knows_time = now_sec is not None
        self._now_sec = time.time() if now_sec is None else now_sec
        self._stack = ExitStack()
        with ExitStack() as stack:
            keyring_fd = _memory_file(stack, "keyring", store.keyring)
            signature_fd = _memory_file(stack, "signature", signature)
            weak = [option for digest in _WEAK_DIGESTS for option in ("--weak-digest", digest)]
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

    def finish(self) -> Accepted:
        """Verdict after the last byte; raises as common.gpgstatus.judge does."""
        try:
            completed = self._feeder.finish()
        except process.ProcessError as error:
            raise BadSignature(f"{self._name} could not be checked: {error}") from error
        if completed.returncode < 0:
            raise BadSignature(
                f"{self._name} could not be checked: gpgv died of signal {-completed.returncode}; try again."
            )
        return judge(
            completed.stdout.decode("utf-8", errors="replace"),
            objection=self._objection,
            name=self._name,
            now_sec=self._now_sec,
            threshold=self._store.signatures_needed(self._purpose),
        )

    def _objection(self, signature: Signature) -> AgentError | None:
        now_sec = max(self._now_sec, signature.created_sec)
        # Both times: a stolen key can date its signatures back, a new one must not vouch for old releases.
        refusal = self._store.objection(
            signature.fingerprint,
            self._purpose,
            self._channel,
            (signature.created_sec, now_sec),
            name=self._name,
        )
        if refusal is None and self._knows_time:
            # gpgv goes by the clock, which may lie behind what the caller knows.
            alive = keylife.signing_keys(self._store.keyring, at_sec=int(now_sec), name="the keyring")
            if signature.fingerprint not in alive:
                return key_expired(self._name, signature.fingerprint)
        return refusal


def verify_bytes(
    store: TrustStore,
    data: bytes,
    signature: bytes,
    *,
    name: str,
    purpose: str = "release",
    channel: str = "",
    now_sec: float | None = None,
) -> Accepted:
    """Verdict about a small file, such as a manifest; parameters and errors as for Verifier."""
    with Verifier(
        store,
        signature,
        name=name,
        purpose=purpose,
        channel=channel,
        now_sec=now_sec,
        timeout_sec=_BYTES_TIMEOUT_SEC,
    ) as verifier:
        verifier.write(data)
        return verifier.finish()


def _memory_file(stack: ExitStack, name: str, data: bytes) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
