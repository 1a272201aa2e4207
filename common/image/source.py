# SPDX-License-Identifier: Apache-2.0
"""The image file and the files beside it: opened once, bounded, and laid out as a system image must be."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common import files, gpt, manifest, trust
from common.errors import AgentError, InvalidArgument
from common.image.errors import ChecksumMismatch, NoSpace, NotAnImage, Truncated

MAX_SHA256_BYTES = 4 << 10
MAX_ESP_BYTES = 512 << 20

_SHA256_LINE = re.compile(r"\\?([0-9A-Fa-f]{64}) [ *](.+)")


@dataclass(frozen=True, slots=True)
class Layout:
    """The partitions of a system image, and the size of the whole file in bytes.

    tree is None for an image without dm-verity.
    """

    size_bytes: int
    esp: gpt.Partition
    root: gpt.Partition
    tree: gpt.Partition | None

    def by_role(self) -> dict[str, gpt.Partition]:
        """The partitions by the names that they have in a manifest."""
        parts = {"esp": self.esp, "root": self.root}
        return parts if self.tree is None else parts | {"root-verity": self.tree}


@dataclass(frozen=True, slots=True)
class Image:
    """An open image file; `fd` stays the one descriptor for all reading."""

    path: Path
    fd: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Statement:
    """The manifest beside an image as it was read; nothing of it is verified yet."""

    path: Path
    raw: bytes

    @property
    def name(self) -> str:
        return self.path.name

    def signature(self) -> tuple[str, bytes]:
        """(file name, content) of the manifest's .asc. Raises NoSignature."""
        return _signature_of(self.path, "the manifest")


@contextmanager
def opened(path_text: str) -> Iterator[Image]:
    """The image at an absolute path, open for reading. Raises InvalidArgument, NotAnImage, AgentError."""
    if not path_text.startswith("/") or "\0" in path_text:
        raise InvalidArgument(
            f"'{path_text}' is no absolute path; name the image as /folder/hypernet-X.Y.Z.img."
        )
    path = Path(path_text)
    fd = _open_regular(path)
    try:
        size = os.fstat(fd).st_size
        if not size:
            raise NotAnImage(f"{path} is empty; copy or download the image again.")
        yield Image(path, fd, size)
    finally:
        os.close(fd)


def layout(image: Image) -> Layout:
    """Partitions of the image. Raises NotAnImage, Truncated; NoSpace if its ESP is absurdly large."""
    name = image.path.name
    try:
        table = gpt.read(image.fd, name=name, size_bytes=image.size_bytes)
    except gpt.NoPartitionTable as error:
        raise NotAnImage(f"{name} is not a system image: {str(error)[0].lower()}{str(error)[1:]}") from error
    esp, root = _only(table, gpt.ESP, "esp", name), _only(table, gpt.ROOT_X86_64, "root", name)
    tree = None
    if table.by_type(gpt.ROOT_X86_64_VERITY):
        tree = _only(table, gpt.ROOT_X86_64_VERITY, "root-verity", name)
    needed = max(table.end_bytes, *(part.end_bytes for part in (esp, root, tree) if part is not None))
    if needed > image.size_bytes:
        raise Truncated(
            f"{name} has {image.size_bytes} bytes but should have {needed}; copy or download it again."
        )
    if esp.size_bytes > MAX_ESP_BYTES:
        raise NoSpace(f"{name}: its ESP has {esp.size_bytes} bytes, at most {MAX_ESP_BYTES} are allowed.")
    return Layout(image.size_bytes, esp, root, tree)


def _only(table: gpt.Table, kind: uuid.UUID, what: str, name: str) -> gpt.Partition:
    partitions = table.by_type(kind)
    if len(partitions) != 1:
        raise NotAnImage(
            f"{name} is not a system image: it has {len(partitions)} {what} partitions, one is needed."
        )
    return partitions[0]


def expected_sha256(image: Image) -> str:
    """The hash that IMG.sha256 (sha256sum's format) gives for the image. Raises ChecksumMismatch."""
    path = image.path.with_name(image.path.name + ".sha256")
    raw = _sidecar(path, MAX_SHA256_BYTES)
    if raw is None:
        raise ChecksumMismatch(f"There is no {path.name} beside the image; copy it there, too.")
    found = {}
    for line in raw.decode("utf-8", errors="replace").splitlines():
        match = _SHA256_LINE.fullmatch(line)
        if match:
            found[Path(match[2]).name] = match[1].lower()
    if image.path.name in found:
        return found[image.path.name]
    if len(found) == 1:
        return next(iter(found.values()))
    raise ChecksumMismatch(f"{path.name} holds no SHA-256 of {image.path.name}; copy or download it again.")


def signature(image: Image) -> tuple[str, bytes]:
    """(file name, content) of IMG.asc. Raises NoSignature."""
    return _signature_of(image.path, "the image")


def statement(image: Image) -> Statement | None:
    """hypernet-X.Y.Z.manifest.json beside hypernet-X.Y.Z.img; None if there is none."""
    path = image.path.with_name(image.path.name.removesuffix(".img") + ".manifest.json")
    raw = _sidecar(path, manifest.MAX_BYTES)
    return None if raw is None else Statement(path, raw)


def _signature_of(signed: Path, what: str) -> tuple[str, bytes]:
    path = signed.with_name(signed.name + ".asc")
    raw = _sidecar(path, trust.MAX_SIGNATURE_BYTES)
    if raw is None:
        raise trust.NoSignature(
            f"There is no {path.name} beside {what}, so nothing vouches for it; copy it there."
        )
    return path.name, raw


def _sidecar(path: Path, max_bytes: int) -> bytes | None:
    """Content of a file beside the image; None if there is none, InvalidArgument if it is no small regular
    file.
    """
    try:
        fd = _open_regular(path)
    except InvalidArgument as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    try:
        raw = files.read_at(fd, max_bytes + 1, 0)
    except OSError as error:
        raise AgentError(f"{path} cannot be read: {error.strerror}.") from error
    finally:
        os.close(fd)
    if len(raw) > max_bytes:
        raise InvalidArgument(
            f"{path} has more than {max_bytes} bytes, which no such file has; get it again."
        )
    return raw


def _open_regular(path: Path) -> int:
    """Descriptor of a regular file that only its owner can write; symbolic links are not followed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidArgument(f"{path} is a symbolic link; name the file itself.") from error
        raise InvalidArgument(f"{path} cannot be opened: {error.strerror}.") from error
    try:
        require_regular(fd, str(path))
    except InvalidArgument:
        os.close(fd)
        raise
    return fd


def require_regular(fd: int, name: str) -> None:
    """Raises InvalidArgument unless a regular file, writable by its owner only, is open for reading."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidArgument(f"{name} is not a regular file.")
    if fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH) not in (os.O_RDONLY, os.O_RDWR):
        raise InvalidArgument(f"{name} is not open for reading.")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidArgument(f"{name} can be written by group or others; run 'chmod go-w' on it first.")
