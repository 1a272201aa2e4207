# SPDX-License-Identifier: Apache-2.0
"""What is to be installed, as far as it is proven before the first write.

With a manifest everything hangs on its signature: the kernel image and the ESP around it are checked here,
and the partitions are when they are written, against the hashes that it states. An image without one is read
as a whole first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agents.slot_manager import policy, preflight
from agents.slot_manager.errors import ImageUnfit
from agents.slot_manager.machine import Machine, View
from agents.slot_manager.progress import Meter
from agents.slot_manager.sources import Supply
from agents.slot_manager.wire import Wire, choose
from common import image as images
from common import lint, trust
from common.image import content, source, verity
from common.image.errors import ChecksumMismatch, NotAnImage
from common.image.origin import LocalOrigin
from common.image.verify import Verified, bind_content, bind_layout, verify, vouched
from common.manifest import Manifest, Part

Judge = Callable[[policy.Release], None]
"""Called with a genuine release as soon as it is known; what it raises ends the examination."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A genuine release. plain: its image as a file here. key_epoch: 0 without a manifest."""

    name: str
    release: policy.Release
    content: content.Content
    parts: tuple[Part, ...]
    signers: tuple[str, ...]
    signed_sec: int
    key_epoch: int
    wire: Wire
    plain: source.Image | None

    def part(self, role: str) -> Part | None:
        """The partition "root" or "root-verity"; None if it has none."""
        return next((part for part in self.parts if part.role == role), None)

    @property
    def root(self) -> Part:
        return next(part for part in self.parts if part.role == "root")

    @property
    def tree(self) -> Part | None:
        return self.part("root-verity")


def examine(
    machine: Machine,
    view: View,
    supply: Supply,
    work: Path,
    store: trust.TrustStore,
    *,
    judge: Judge,
    dry_run: bool,
    cancel: threading.Event,
    meter: Meter,
) -> Candidate:
    """Prove all that can be proven before the first write; files go to the folder `work`.

    dry_run: as nothing will be written, a plain image is read as a whole. Raises as common.image.verify, and
    the errors of `judge`.
    """
    layout = source.layout(supply.plain) if supply.plain is not None else None
    now_sec = machine.now_sec(view.record)
    if supply.statement is not None:
        manifest, accepted = vouched(supply.statement, store, now_sec)
        release = stated(manifest)
        judge(release)
        if layout is None or supply.plain is None or not dry_run:
            return _stated(view, supply, manifest, accepted, release, layout, work, cancel, meter)
    if supply.plain is None or layout is None:
        raise NotAnImage(
            f"{supply.name} cannot be installed without its manifest; copy it beside the image."
        )
    sizes = {role: part.size_bytes for role, part in layout.by_role().items()}
    preflight.require_room(view, sizes, supply.name)
    preflight.require_work_room(work, 2 * sizes["esp"])
    meter.expect(supply.plain.size_bytes + (0 if dry_run else _to_write(sizes)))
    verified = verify(
        supply.plain,
        layout,
        store,
        work,
        statement=supply.statement,
        channel=machine.settings.channel,
        now_sec=now_sec,
        cancel=cancel,
        advance=meter.advance,
    )
    release = _legacy(verified) if verified.manifest is None else stated(verified.manifest)
    judge(release)
    origin = LocalOrigin(supply.plain.fd, supply.plain.size_bytes, supply.name, supply.plain.path)
    return Candidate(
        name=supply.name,
        release=release,
        content=verified.content,
        parts=verified.parts,
        signers=verified.signers,
        signed_sec=verified.signed_sec,
        key_epoch=verified.manifest.key_epoch if verified.manifest else 0,
        wire=Wire(origin),
        plain=supply.plain,
    )


def _stated(
    view: View,
    supply: Supply,
    manifest: Manifest,
    accepted: trust.Accepted,
    release: policy.Release,
    layout: source.Layout | None,
    work: Path,
    cancel: threading.Event,
    meter: Meter,
) -> Candidate:
    assert supply.statement is not None
    name = supply.name
    sizes = {part.role: part.size_bytes for part in manifest.parts}
    preflight.require_room(view, sizes, name)
    if layout is not None and supply.plain is not None:
        bind_layout(manifest, supply.statement.name, supply.plain, layout)
    # Of the hash tree there may be two, one by a static delta that led nowhere.
    spooled = 0 if layout is not None else 2 * sizes.get("root-verity", 0)
    if layout is None and manifest.transport is not None:
        spooled += manifest.transport.index.size_bytes
    preflight.require_work_room(work, 2 * sizes["esp"] + spooled)
    meter.expect(sizes["esp"] + _to_write(sizes))
    wire = choose(supply, manifest)
    if layout is not None and layout.tree is not None:
        head = wire.part(manifest.part("root-verity")).read(0, verity.HEAD_BYTES)
        if content.tree_root_hash(name, sizes["root"], head) != manifest.root_hash:
            raise _unlike(name, "hash tree", supply.statement.name)
    esp = work / "esp.img"
    sha256 = content.spool(wire.part(manifest.part("esp")), esp, cancel=cancel, advance=meter.advance)
    if sha256 != manifest.part("esp").sha256:
        raise _unlike(name, "ESP", supply.statement.name)
    found = content.judge(name, esp, work, root_hash=manifest.root_hash, layout=layout)
    bind_content(manifest, supply.statement.name, name, found)
    return Candidate(
        name=name,
        release=release,
        content=found,
        parts=manifest.parts,
        signers=accepted.fingerprints,
        signed_sec=accepted.created_sec,
        key_epoch=manifest.key_epoch,
        wire=wire,
        plain=supply.plain,
    )


def unfitness(
    machine: Machine,
    view: View,
    candidate: Candidate,
    root_fd: int,
    root_offset: int,
    *,
    key_epoch_here: int,
) -> policy.Decision | None:
    """The refusal of a release after which this machine could not update or save itself again.

    root_fd, root_offset: where its root file system can be read. key_epoch_here: of the keys that this
    machine relies on and keeps. Raises FileUnwritable.
    """
    local, name = machine.local(view), candidate.name
    root = lint.open_root(root_fd, root_offset, candidate.root.size_bytes, name)
    findings = lint.check(
        root,
        cmdline=candidate.content.cmdline,
        root_hash=candidate.content.root_hash,
        channel=local.channel,
        signers=candidate.signers,
        config_schema_here=local.config_schema,
        now_sec=machine.now_sec(view.record),
        key_epoch=candidate.key_epoch if candidate.key_epoch > key_epoch_here else 0,
    )
    if not findings:
        return None
    first, more = findings[0].message.rstrip("."), len(findings) - 1
    also = f" ('hypernet-image lint' lists {more} more)" if more else ""
    reason = f"{name} is unfit for this machine: {first[0].lower()}{first[1:]}{also}."
    return policy.Decision(f"lint-{findings[0].rule}", ok=False, reason=reason, error=ImageUnfit)


def stated(manifest: Manifest) -> policy.Release:
    """What a genuine manifest says of its image."""
    return policy.Release(
        manifest.product,
        manifest.arch,
        manifest.version,
        manifest.root_hash,
        channel=manifest.channel,
        serial=manifest.serial,
        issued_sec=manifest.issued_sec,
        expires_sec=manifest.expires_sec,
        min_version=manifest.min_version,
        min_from_version=manifest.min_from_version,
        key_epoch=manifest.key_epoch,
        config_schema=manifest.config_schema,
        digest=manifest.digest,
    )


def _legacy(verified: Verified) -> policy.Release:
    """What the rules have to know about an image; without a manifest that is little."""
    found = verified.content
    return policy.Release(
        found.product,
        images.ARCHITECTURE,
        found.version,
        found.root_hash,
        digest=verified.sha256,
        legacy=True,
    )


def _to_write(sizes: dict[str, int]) -> int:
    return sizes["root"] + sizes.get("root-verity", 0)


def _unlike(name: str, what: str, manifest_name: str) -> ChecksumMismatch:
    return ChecksumMismatch(
        f"{name} has another {what} than {manifest_name} says; copy or download both again."
    )
