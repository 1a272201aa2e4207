# SPDX-License-Identifier: Apache-2.0
"""Releases with a manifest: each rule once with a release that breaks it, which changes nothing but the note
about its refusal, and once with one that keeps it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.slot_manager import arming, install, preflight
from agents.slot_manager.errors import (
    BelowFloor,
    ChecksumMismatch,
    Denied,
    Downgrade,
    ImageUnfit,
    ManifestExpired,
    NeedsSteppingStone,
    NoManifest,
    NoSpace,
    SameVersion,
    Truncated,
    WrongArchitecture,
    WrongChannel,
    WrongProduct,
)
from agents.slot_manager.record import Denied as DeniedRelease
from agents.slot_manager.record import Floor, Record
from agents.slot_manager.state import State
from common import armor, trust
from common.errors import AgentError
from common.manifest import ManifestInvalid
from common.trust import KeySetTooOld
from tests.fakes import slot_images
from tests.fakes.slot_images import BuiltImage, Key, build_image, copy_image, describe, make_key, vouch
from tests.fakes.slot_lab import Lab, make_lab

DAY_USEC = 86_400_000_000
MANIFEST, SIGNATURE = ".manifest.json", ".manifest.json.asc"


def refuse(
    lab: Lab, image: BuiltImage, error: type[AgentError], match: str | None = None, **options: Any
) -> None:
    """Install, and demand this very error, one sentence, and a machine that is as it was."""
    before = lab.condition()
    with pytest.raises(error, match=match) as caught:
        install.install(lab.machine, str(image.path), **options)
    assert type(caught.value) is error
    assert str(caught.value).endswith(".")
    assert len(str(caught.value).splitlines()) == 1
    assert lab.condition() == before
    assert list(lab.machine.cache.glob("*")) == []


def accept(lab: Lab, image: BuiltImage, **options: Any) -> None:
    """Install, and demand that the image is armed."""
    done = install.install(lab.machine, str(image.path), **options)
    assert (done.slot, done.version, done.state) == ("b", image.version, State.ARMED)
    view = lab.machine.view()
    assert (view.other.state, view.other.version) == (State.ARMED, image.version)


def remember(lab: Lab, **changes: Any) -> None:
    """Change the machine's record."""
    lab.machine.store.save(replace(lab.machine.store.load(), **changes))


@pytest.fixture
def release(releases: dict[str, BuiltImage], tmp_path: Path) -> BuiltImage:
    """3.0.0 with its signed manifest, free to be changed."""
    return copy_image(releases["3.0.0"], tmp_path / "release")


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return make_key(tmp_path_factory.mktemp("gpg-second") / "home", "second")


def test_a_release_with_a_good_manifest_is_installed_and_its_facts_are_kept_for_the_bless(
    lab: Lab, release: BuiltImage
) -> None:
    accept(lab, release)
    pending, stated = lab.machine.store.load().pending, describe(release)
    assert pending is not None
    assert (pending.serial, pending.key_epoch, pending.min_version) == (stated.serial, 1, "0.0.0")
    assert pending.signed_usec >= stated.issued_sec * 1_000_000
    assert len(pending.digest) == 64
    assert lab.machine.store.load().refused == ()


def edited(release: BuiltImage, key: Key, edit: Callable[[dict[str, Any]], object]) -> BuiltImage:
    """The release with a changed manifest that is signed all the same."""
    path = release.beside(MANIFEST)
    fields = json.loads(path.read_bytes())
    edit(fields)
    path.write_text(json.dumps(fields))
    key.sign(path)
    return release


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda fields: fields.update(format=3), "format 3"),
        (lambda fields: fields.update(crit_boot="x"), "crit_boot"),
        (lambda fields: fields["image"].update(sha256=""), "sha256"),
        (lambda fields: fields.pop("root_hash"), "root_hash"),
    ],
)
def test_a_manifest_that_this_system_does_not_understand_is_refused(
    lab: Lab, release: BuiltImage, key: Key, edit: Callable[[dict[str, Any]], object], match: str
) -> None:
    refuse(lab, edited(release, key, edit), ManifestInvalid, match)


def test_an_unknown_key_that_is_not_critical_is_no_reason_to_refuse(
    lab: Lab, release: BuiltImage, key: Key
) -> None:
    accept(lab, edited(release, key, lambda fields: fields.update(rollout=[])))


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"version": "4.0.0"}, ManifestInvalid, "version"),
        ({"root_hash": "ab" * 32}, ChecksumMismatch, "another hash tree"),
        ({"uki_sha256": "ab" * 32}, ManifestInvalid, "kernel image"),
        ({"uki_bytes": 5}, ManifestInvalid, "kernel image"),
        ({"image_bytes": 1 << 40}, Truncated, "bytes but"),
    ],
)
def test_a_manifest_that_does_not_describe_the_image_is_refused(
    lab: Lab,
    release: BuiltImage,
    key: Key,
    changes: dict[str, Any],
    error: type[AgentError],
    match: str,
) -> None:
    vouch(release, key, **changes)
    refuse(lab, release, error, match)


@pytest.mark.parametrize("role", ["root", "root-verity"])
def test_a_partition_that_is_not_the_signed_one_is_not_made_bootable(
    lab: Lab, release: BuiltImage, key: Key, role: str
) -> None:
    parts = describe(release).parts
    vouch(release, key, parts=tuple(replace(p, sha256="ab" * 32) if p.role == role else p for p in parts))

    with pytest.raises(ChecksumMismatch, match="SHA-256 that was signed"):
        install.install(lab.machine, str(release.path))

    view = lab.machine.view()
    assert (view.other.state, view.booted.default) == (State.EMPTY, True)
    assert lab.root_hash("b") != release.root_hash


def test_an_esp_that_is_not_the_signed_one_is_refused(lab: Lab, release: BuiltImage, key: Key) -> None:
    parts = describe(release).parts
    vouch(release, key, parts=tuple(replace(p, sha256="ab" * 32) if p.role == "esp" else p for p in parts))
    refuse(lab, release, ChecksumMismatch, "another ESP")


@pytest.mark.parametrize("role", ["esp", "root", "root-verity"])
def test_a_dry_run_checks_every_partition(lab: Lab, release: BuiltImage, key: Key, role: str) -> None:
    parts = describe(release).parts
    vouch(release, key, parts=tuple(replace(p, sha256="ab" * 32) if p.role == role else p for p in parts))
    refuse(lab, release, ManifestInvalid, f"partition {role}", dry_run=True)


def test_a_manifest_with_a_wrong_place_of_a_partition_is_refused(
    lab: Lab, release: BuiltImage, key: Key
) -> None:
    parts = describe(release).parts
    vouch(release, key, parts=(replace(parts[0], size_bytes=4096), *parts[1:]))
    refuse(lab, release, ChecksumMismatch, "partition esp at another place")


def test_bytes_behind_the_signed_size_are_refused(lab: Lab, release: BuiltImage) -> None:
    os.truncate(release.path, release.path.stat().st_size + 1)
    refuse(lab, release, ChecksumMismatch, "more than")


def test_the_manifest_of_another_image_is_refused(
    lab: Lab, release: BuiltImage, releases: dict[str, BuiltImage]
) -> None:
    for suffix in (MANIFEST, SIGNATURE):
        release.beside(suffix).write_bytes(releases["2.0.0"].beside(suffix).read_bytes())
    refuse(lab, release, ChecksumMismatch, r"another hash tree than hypernet-3\.0\.0\.manifest\.json")


def test_a_manifest_without_a_signature_is_refused(lab: Lab, release: BuiltImage) -> None:
    release.beside(SIGNATURE).unlink()
    refuse(lab, release, trust.NoSignature, "There is no hypernet-3.0.0.manifest.json.asc")


def test_a_manifest_without_a_signature_does_not_fall_back_to_that_of_the_image(
    lab: Lab, images: dict[str, BuiltImage], release: BuiltImage, tmp_path: Path
) -> None:
    both = copy_image(images["3.0.0"], tmp_path / "both")
    both.beside(MANIFEST).write_bytes(release.beside(MANIFEST).read_bytes())
    refuse(lab, both, trust.NoSignature)


def test_a_manifest_that_was_changed_after_signing_is_refused(lab: Lab, release: BuiltImage) -> None:
    path = release.beside(MANIFEST)
    path.write_bytes(path.read_bytes().replace(b'"stable"', b'"staple"'))
    refuse(lab, release, trust.BadSignature)


def test_a_manifest_that_is_signed_by_an_untrusted_key_is_refused(
    lab: Lab, release: BuiltImage, second: Key
) -> None:
    vouch(release, second)
    refuse(lab, release, trust.UntrustedKey, second.fingerprint)


def test_a_key_on_the_machines_list_of_revoked_ones_is_refused(
    lab: Lab, release: BuiltImage, key: Key, second: Key
) -> None:
    slot_images.trust(lab.machine.trusted_keys, key, second, revoked=(key,))
    refuse(lab, release, trust.KeyRevoked)


def test_too_few_signatures_are_refused_and_enough_accepted(
    lab: Lab, release: BuiltImage, key: Key, second: Key
) -> None:
    slot_images.trust(lab.machine.trusted_keys, key, second, threshold=2)
    refuse(lab, release, trust.TooFewSignatures)

    raw = b""
    for signer in (key, second):
        text = signer.sign(release.beside(MANIFEST)).read_bytes()
        raw += armor.decode(text, kind="PGP SIGNATURE", name="signature")
    release.beside(SIGNATURE).write_bytes(raw)
    accept(lab, release)


def test_a_release_of_another_product_is_refused(lab: Lab, key: Key, tmp_path: Path) -> None:
    image = build_image(tmp_path / "alien", "3.0.0", key=key, image_id="alien")
    vouch(image, key, product="alien")
    refuse(lab, image, WrongProduct, "alien")


def test_a_manifest_that_hides_the_product_of_its_image_is_refused(
    lab: Lab, key: Key, tmp_path: Path
) -> None:
    image = build_image(tmp_path / "alien", "3.0.0", key=key, image_id="alien")
    vouch(image, key, product="hypernet")
    refuse(lab, image, ManifestInvalid, "product")


def test_a_release_for_another_architecture_is_refused(lab: Lab, release: BuiltImage, key: Key) -> None:
    vouch(release, key, arch="arm64")
    refuse(lab, release, WrongArchitecture, "arm64")


def test_a_key_must_not_sign_for_a_channel_that_is_not_its_own(
    lab: Lab, release: BuiltImage, key: Key
) -> None:
    vouch(release, key, channel="beta")
    refuse(lab, release, trust.UntrustedKey, "beta")


def test_a_release_of_another_channel_is_refused_and_that_of_the_own_accepted(
    lab: Lab, key: Key, tmp_path: Path
) -> None:
    slot_images.trust(lab.machine.trusted_keys, key, channels="stable, beta")
    image = build_image(tmp_path / "beta", "3.0.0", key=key, trusted=lab.machine.trusted_keys)
    vouch(image, key, channel="beta")
    refuse(lab, image, WrongChannel, "channel 'beta'")
    lab.configure("channel: beta\n")
    accept(lab, image)


def test_an_expired_release_is_refused(lab: Lab, release: BuiltImage, key: Key) -> None:
    vouch(release, key, issued_sec=1_600_000_000, expires_sec=1_700_000_000)
    refuse(lab, release, ManifestExpired, "expired on 2023-11-14")


def test_a_clock_that_was_set_back_does_not_bring_an_expired_release_back(
    lab: Lab, release: BuiltImage
) -> None:
    later_usec = (describe(release).expires_sec + 10) * 1_000_000
    remember(lab, known_usec=later_usec)
    refuse(lab, release, ManifestExpired)


def test_a_release_for_an_older_key_set_is_refused_and_one_for_this_accepted(
    lab: Lab, release: BuiltImage, key: Key
) -> None:
    remember(lab, floor=Floor(serial=0, min_version="", signed_usec=0, key_epoch=2))
    refuse(lab, release, KeySetTooOld)  # the machine's own set is too old

    slot_images.trust(lab.machine.trusted_keys, key, epoch=2)
    refuse(lab, release, KeySetTooOld, "key set 1")
    vouch(release, key, key_epoch=2)
    accept(lab, release)


def test_a_release_that_failed_here_is_refused_until_somebody_clears_it(
    lab: Lab, release: BuiltImage
) -> None:
    failed = DeniedRelease(version="3.0.0", digest="", reason="it did not boot", since_usec=DAY_USEC)
    remember(lab, denied={release.root_hash: failed})
    refuse(lab, release, Denied, "it did not boot")
    arming.clear_denied(lab.machine, "3.0.0")
    accept(lab, release)


def test_a_release_below_the_floor_is_refused_unless_a_downgrade_is_asked_for(
    lab: Lab, release: BuiltImage
) -> None:
    remember(lab, floor=Floor(serial=4 * 10**12, min_version="", signed_usec=0, key_epoch=0))
    refuse(lab, release, BelowFloor, "serial")
    accept(lab, release, allow_downgrade=True)


def test_a_revoked_release_is_refused_even_if_a_downgrade_is_asked_for(
    lab: Lab, release: BuiltImage
) -> None:
    remember(lab, floor=Floor(serial=0, min_version="3.0.1", signed_usec=0, key_epoch=0))
    refuse(lab, release, BelowFloor, "revoked", allow_downgrade=True)
    remember(lab, floor=Floor(serial=0, min_version="3.0.0", signed_usec=0, key_epoch=0))
    accept(lab, release)


def test_an_older_release_is_refused_unless_a_downgrade_is_asked_for(
    releases: dict[str, BuiltImage], key: Key, tmp_path: Path
) -> None:
    lab = make_lab(tmp_path / "newer", releases["3.0.0"], key)
    refuse(lab, releases["2.0.0"], Downgrade, "older than the running 3.0.0")
    accept(lab, releases["2.0.0"], allow_downgrade=True)


def test_a_release_that_needs_a_newer_system_is_refused_and_one_that_does_not_accepted(
    lab: Lab, release: BuiltImage, key: Key
) -> None:
    vouch(release, key, min_from_version="2.0.0")
    refuse(lab, release, NeedsSteppingStone, "install 2.0.0 first")
    vouch(release, key, min_from_version="1.0.0")
    accept(lab, release)


def test_an_image_after_which_no_update_is_possible_is_refused(lab: Lab, key: Key, tmp_path: Path) -> None:
    options = {"leave_out": ("usr/lib/hypernet/slot-manager",)}
    image = build_image(tmp_path / "unfit", "3.0.0", key=key, root_options=options)
    vouch(image, key)
    refuse(lab, image, ImageUnfit, "unfit for this machine: the image has no /usr/lib/hypernet/slot-manager")
    assert [entry.rule for entry in lab.machine.store.load().refused] == ["lint-agents"]


def test_an_image_whose_kernel_would_not_reboot_after_a_panic_is_refused(
    lab: Lab, key: Key, tmp_path: Path
) -> None:
    image = build_image(tmp_path / "unfit", "3.0.0", key=key, uki_options="rd.emergency=reboot")
    refuse(lab, image, ImageUnfit, "panic")


def test_a_config_partition_without_room_for_the_record_is_refused(
    lab: Lab, release: BuiltImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "RECORD_ROOM_BYTES", 1 << 62)
    refuse(lab, release, NoSpace, "partition config")
    monkeypatch.undo()
    accept(lab, release)


def test_an_image_without_a_manifest_is_refused_where_one_is_demanded(
    lab: Lab, images: dict[str, BuiltImage], release: BuiltImage
) -> None:
    lab.configure("require_manifest: true\n")
    refuse(lab, images["3.0.0"], NoManifest, "updates.yaml")
    accept(lab, release)


def test_a_manifest_that_goes_while_the_image_is_looked_at_does_not_make_do_with_less(
    lab: Lab, release: BuiltImage, key: Key
) -> None:
    def progress(stage: install.Stage, done: int, total: int) -> None:
        if stage is install.Stage.VERIFY:
            release.beside(MANIFEST).unlink(missing_ok=True)

    vouch(release, key, arch="arm64")
    slot_images.seal(release, key)
    refuse(lab, release, WrongArchitecture, progress=progress)


def test_a_release_whose_manifest_is_ahead_of_its_own_key_set_is_unfit(
    lab: Lab, release: BuiltImage, key: Key
) -> None:
    vouch(release, key, key_epoch=2)
    refuse(lab, release, ImageUnfit, "refuse their own key set")


def test_an_image_without_a_manifest_raises_the_floor_as_one_with_it_does(
    lab: Lab, images: dict[str, BuiltImage]
) -> None:
    accept(lab, images["3.0.0"])
    pending = lab.machine.store.load().pending
    assert pending is not None
    assert pending.serial == 3 * 10**12


def test_status_can_tell_which_rule_refused_a_release(lab: Lab, release: BuiltImage, key: Key) -> None:
    vouch(release, key, arch="arm64")
    for _ in range(2):
        with pytest.raises(WrongArchitecture):
            install.install(lab.machine, str(release.path))
    (entry,) = lab.machine.store.load().refused
    assert (entry.version, entry.root_hash, entry.rule) == ("3.0.0", release.root_hash, "arch")
    assert "arm64" in entry.reason


def test_the_running_release_is_not_listed_as_refused(lab: Lab, releases: dict[str, BuiltImage]) -> None:
    refuse(lab, releases["1.0.0"], SameVersion, "nothing to do")
    assert lab.machine.store.load() == Record()
