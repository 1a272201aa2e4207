# SPDX-License-Identifier: Apache-2.0
"""What is to be installed, opened once: a file, descriptors of another process, or a URL.

The manifest and the other files of a release are sought beside the image. A URL is read by ranges; whether a
host may be asked is settled by updates.yaml.
"""

from __future__ import annotations

import fcntl
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agents.slot_manager.errors import NoManifest
from agents.slot_manager.settings import FILE, Settings
from common import files, manifest, paths, trust
from common.errors import AgentError, ConfigError, InvalidArgument
from common.image import httpwire, remote, source
from common.image.errors import ChecksumMismatch, DownloadFailed, NoSuchFile
from common.image.origin import LocalOrigin, Origin
from common.image.verify import Statement
from common.manifest import Manifest, Transport

PLAIN: Final = ".img"
COMPRESSED: Final = ".img.zst"
MAX_TOKEN_BYTES: Final = 4 << 10
_ZSTD: Final = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1


@dataclass(frozen=True, slots=True)
class Stated:
    """A manifest and its signature in memory, see common.image.verify.Statement."""

    name: str
    raw: bytes
    asc: bytes

    def signature(self) -> tuple[str, bytes]:
        return f"{self.name}.asc", self.asc


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """An image that another process has opened, with its manifest; the descriptor belongs to this object.

    name: path of the image, as well as it is known.
    """

    name: str
    image_fd: int
    statement: Stated

    def close(self) -> None:
        os.close(self.image_fd)


class Supply(ABC):
    """An open source. name: of the image, for messages. statement: its manifest, if it has one.

    plain: the image as a file of this machine, uncompressed; None if it has to be fetched or decompressed.
    """

    name: str
    statement: Statement | None
    plain: source.Image | None = None

    @abstractmethod
    def compressed(self, manifest: Manifest) -> Origin | None:
        """The compressed form of the image, if there is one. Raises AgentError."""

    def archive(self, manifest: Manifest) -> Origin | None:
        """The other compressed form, if there is one. Raises AgentError."""
        return None

    @abstractmethod
    def raw(self, manifest: Manifest) -> Origin | None:
        """The image itself, if it can be had. Raises AgentError."""

    def beside(self, name: str) -> Origin | None:
        """Another file of the release, if it can be had by itself. Raises AgentError."""
        return None

    @property
    def fetched_bytes(self) -> int:
        """What came over the network so far."""
        return 0


class _File(Supply):
    """A file: the plain image, or its compressed form."""

    def __init__(self, image: source.Image, statement: Statement | None) -> None:
        self.name, self.statement = image.path.name, statement
        self._origin = LocalOrigin(image.fd, image.size_bytes, self.name, image.path)
        if self._origin.read(0, min(len(_ZSTD), image.size_bytes)) != _ZSTD:
            self.plain = image

    def compressed(self, manifest: Manifest) -> Origin | None:
        if self.plain is not None:
            return None
        if manifest.transport is None:
            raise InvalidArgument(
                f"The manifest of {self.name} describes no compressed image; install the {PLAIN} file."
            )
        _require_size(self._origin, manifest.transport.size_bytes)
        return self._origin

    def raw(self, manifest: Manifest) -> Origin | None:
        if self.plain is None:
            return None
        _require_size(self._origin, manifest.image_bytes)
        return self._origin


class _Web(Supply):
    """An image on a server; other files of its release are beside it."""

    def __init__(self, url: str, rules: remote.Rules, stack: ExitStack, cancel: threading.Event) -> None:
        self._folder, _, self.name = url.rpartition("/")
        self._rules, self._stack, self._cancel = rules, stack, cancel
        self._open: list[remote.Source] = []
        stem = self.name.removesuffix(".zst").removesuffix(PLAIN)
        self.statement = self._stated(stem + manifest.SUFFIX)

    def compressed(self, manifest: Manifest) -> Origin | None:
        return self._form(manifest.transport)

    def archive(self, manifest: Manifest) -> Origin | None:
        return self._form(manifest.archive)

    def raw(self, manifest: Manifest) -> Origin | None:
        origin = self.beside(manifest.image_name)
        if origin is not None:
            _require_size(origin, manifest.image_bytes)
        return origin

    def beside(self, name: str) -> Origin | None:
        try:
            opened = remote.opened(f"{self._folder}/{name}", self._rules, cancel=self._cancel)
            origin = self._stack.enter_context(opened)
        except NoSuchFile:
            return None
        self._open.append(origin)
        return origin

    def _form(self, form: Transport | None) -> Origin | None:
        origin = self.beside(form.name) if form else None
        if origin is not None and form is not None:
            _require_size(origin, form.size_bytes)
        return origin

    @property
    def fetched_bytes(self) -> int:
        return sum(origin.fetched_bytes for origin in self._open)

    def _stated(self, name: str) -> Statement:
        raw = self._small(name, manifest.MAX_BYTES)
        if raw is None:
            raise NoManifest(
                f"There is no {name} beside {self.name} on the server, and from a server nothing is "
                "installed without; publish the manifest and its .asc there."
            )
        asc = self._small(f"{name}.asc", trust.MAX_SIGNATURE_BYTES)
        if asc is None:
            raise trust.NoSignature(
                f"There is no {name}.asc beside the manifest on the server, so nothing vouches for it; "
                "publish it there."
            )
        return Stated(name, raw, asc)

    def _small(self, name: str, max_bytes: int) -> bytes | None:
        origin = self.beside(name)
        if origin is None:
            return None
        if origin.size_bytes > max_bytes:
            raise DownloadFailed(
                f"{name} on the server has more than {max_bytes} bytes, which no such file has; publish it "
                "again."
            )
        return origin.read(0, origin.size_bytes)


@contextmanager
def opened(wanted: str | OpenFiles, settings: Settings, cancel: threading.Event) -> Iterator[Supply]:
    """The source with this path or URL, or of these files.

    Raises InvalidArgument, NotAnImage, NoManifest, NoSignature, DownloadFailed, ConfigError, AgentError.
    """
    with ExitStack() as stack:
        if isinstance(wanted, OpenFiles):
            size = os.fstat(wanted.image_fd).st_size
            yield _File(source.Image(Path(wanted.name), wanted.image_fd, size), wanted.statement)
        elif is_url(wanted):
            yield _Web(wanted, rules_for(wanted, settings), stack, cancel)
        else:
            image = stack.enter_context(source.opened(wanted))
            plain = replace(image, path=image.path.with_name(image.path.name.removesuffix(".zst")))
            yield _File(image, source.statement(plain))


def adopt(image_fd: int, manifest_fd: int, signature_fd: int) -> OpenFiles:
    """The files of another process, each open for reading, and all regular and writable by the owner only.

    The descriptors stay the caller's: that of the image is duplicated. Raises InvalidArgument, AgentError.
    """
    name = _name_of(image_fd)
    raw = _content_of(manifest_fd, "manifest", manifest.MAX_BYTES)
    asc = _content_of(signature_fd, "signature", trust.MAX_SIGNATURE_BYTES)
    source.require_regular(image_fd, name)
    stem = Path(name).name.removesuffix(".zst").removesuffix(PLAIN)
    stated = Stated(stem + manifest.SUFFIX, raw, asc)
    return OpenFiles(name, fcntl.fcntl(image_fd, fcntl.F_DUPFD_CLOEXEC, 3), stated)


def is_url(text: str) -> bool:
    """Whether a source is an address and not a path."""
    return text.lower().startswith(("http://", "https://"))


def shown(wanted: str | OpenFiles) -> str:
    """How a source is named to everyone: a URL without what may be secret in it."""
    if isinstance(wanted, OpenFiles):
        return wanted.name
    if not is_url(wanted):
        return wanted
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return "an address that is no URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def rules_for(url: str, settings: Settings) -> remote.Rules:
    """The rules for a download from `url`, an address of an image.

    Without a list of hosts in updates.yaml any https server will do, since what it gives is judged by its
    signed manifest, but it may not send us to others. Raises InvalidArgument, ConfigError.
    """
    address = httpwire.Address(url)
    parts = urlsplit(url)
    if parts.query or parts.fragment or not parts.path.endswith((PLAIN, COMPRESSED)):
        raise InvalidArgument(
            f"The address of {address.name} has to end in {PLAIN} or {COMPRESSED}, since the other files of "
            "the release are sought beside it."
        )
    host = f"[{address.host}]" if ":" in address.host else address.host
    here = f"{host}:{address.port}"
    hosts = settings.hosts
    if hosts is None:
        hosts = (here,) if address.secure else ()
    if not address.is_listed(hosts):
        why = "it is not an https address" if settings.hosts is None else "the list is without it"
        raise InvalidArgument(
            f"Nothing is installed from {here}: {why}; add the host to 'hosts' in {paths.CONFIG / FILE} if "
            "you trust it."
        )
    return remote.Rules(hosts=hosts, ca_file=settings.ca_file, token=_token(settings))


def _name_of(fd: int) -> str:
    """Path of an open file; a plain word if the kernel knows none that can be shown."""
    try:
        path = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        path = ""
    return path if path.startswith("/") and path.isprintable() else "image"


def _content_of(fd: int, what: str, max_bytes: int) -> bytes:
    source.require_regular(fd, f"The {what}")
    try:
        raw = files.read_at(fd, max_bytes + 1, 0)
    except OSError as error:
        raise InvalidArgument(f"The {what} cannot be read: {error.strerror}.") from error
    if len(raw) > max_bytes:
        raise InvalidArgument(f"The {what} has more than {max_bytes} bytes, which none has; get it again.")
    return raw


def _require_size(origin: Origin, size_bytes: int) -> None:
    if origin.size_bytes != size_bytes:
        raise ChecksumMismatch(
            f"{origin.name} has {origin.size_bytes} bytes but its manifest says {size_bytes}; copy or "
            "publish both again."
        )


def _token(settings: Settings) -> str:
    """Content of the token file; never part of a message. Raises ConfigError."""
    if settings.token_file is None:
        return ""
    try:
        token = files.read_bounded(settings.token_file, MAX_TOKEN_BYTES).decode("ascii").strip()
    except (AgentError, ValueError) as error:
        raise ConfigError(
            f"token_file in {paths.CONFIG / FILE}: {settings.token_file} cannot be used; put one line of at "
            f"most {MAX_TOKEN_BYTES} ASCII characters there."
        ) from error
    if not token.isprintable() or " " in token:
        raise ConfigError(
            f"token_file in {paths.CONFIG / FILE}: {settings.token_file} has to hold one word."
        )
    return token
