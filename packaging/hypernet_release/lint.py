# SPDX-License-Identifier: Apache-2.0
"""`hypernet-image lint`: would a server that runs this image be able to update itself again?"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common import files, lint, manifest, trust
from common.errors import AgentError, InvalidArgument
from common.filesystem import FileSystemError
from common.image import compressed, content, source

DEFAULT_CHANNEL = "stable"


@dataclass(frozen=True, slots=True)
class Opened:
    """An image whose parts fit together; `root` can be read while it is open."""

    image: source.Image
    layout: source.Layout
    content: content.Content
    root: lint.RootFs


@dataclass(frozen=True, slots=True)
class Report:
    """Findings of one image; no findings: it is fit."""

    image: Path
    version: str
    root_hash: str
    findings: tuple[lint.Finding, ...]


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Open an image. Raises InvalidArgument, NotAnImage, Truncated."""
    with source.opened(str(path.absolute())) as image, files.scratch_folder() as work:
        if compressed.is_compressed(image):
            raise InvalidArgument(
                f"{image.path.name} is compressed; unpack it first, with 'zstd -d {image.path.name}'."
            )
        layout = source.layout(image)
        found = content.peek(image, layout, work, cancel=threading.Event())
        root = lint.open_root(image.fd, layout.root.offset_bytes, layout.root.size_bytes, image.path.name)
        yield Opened(image, layout, found, root)


def lint_image(path: Path, *, signer: str = "", channel: str = "") -> Report:
    """Findings for a built image and, if one lies beside it, for its manifest's signature.

    signer: primary fingerprint that is going to sign it, channel: that it is going to belong to; both come
    from the manifest if they are empty. Raises as `opened` does; ManifestInvalid, NoSignature.
    """
    now_sec = int(time.time())
    signers: tuple[str, ...] = (signer,) if signer else ()
    findings: list[lint.Finding] = []
    key_epoch = 0
    with opened(path) as image:
        stated = None if signer else source.statement(image.image)
        if stated is not None:
            release = manifest.parse(stated.raw, name=stated.name)
            channel, key_epoch = release.channel, release.key_epoch
            signature = stated.signature()
            try:
                signers = _signers(image.root, stated.raw, signature, channel, now_sec)
            except FileSystemError:
                pass  # the lint itself reports it
            except AgentError as error:
                findings.append(lint.Finding("keys", f"The key set of the image refuses it: {error}"))
        findings += lint.check(
            image.root,
            cmdline=image.content.cmdline,
            root_hash=image.content.root_hash,
            channel=channel or DEFAULT_CHANNEL,
            signers=signers,
            config_schema_here=1,
            now_sec=now_sec,
            key_epoch=key_epoch,
        )
        return Report(path, image.content.version, image.content.root_hash, tuple(findings))


def _signers(
    root: lint.RootFs, stated: bytes, signature: tuple[str, bytes], channel: str, now_sec: int
) -> tuple[str, ...]:
    """Fingerprints that signed the manifest, by the judgement of the image's own key set."""
    name, raw = signature
    keys = lint.trusted_keys(root)
    return trust.verify_bytes(keys, stated, raw, name=name, channel=channel, now_sec=now_sec).fingerprints
