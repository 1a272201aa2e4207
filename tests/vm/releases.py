# SPDX-License-Identifier: Apache-2.0
"""System images for the VM tests, built by the real release tools: good ones, one for each way to fail."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypernet_release.cache import file_digest, tree_digest
from hypernet_release.signing import Signer

REPOSITORY = Path(__file__).resolve().parents[2]
EXPIRED_FROM = "20250101T000000"  # an instant at which the expired key was valid

START = "0.1.0"
GOOD = "0.2.0"
UNHEALTHY = "0.3.0"
PANIC = "0.4.0"
NO_ROOT = "0.5.0"
SQUASHFS = "0.6.0"
WITHOUT_VERITY = "0.7.0"

TEST_UNITS = "/config/test-units"

_BROKEN_CHECK = """health_checks:
  - name: application
    command: /bin/false
    retries: 0
"""
# Unit files for one version, which the tests write to TEST_UNITS/VERSION on the machine, so that one image
# fails in every way. The initrd has mounted /config by then.
_GENERATOR = f"""#!/bin/sh
. /etc/os-release
units="{TEST_UNITS}/$IMAGE_VERSION"
[ ! -d "$units" ] || cp -r --no-dereference "$units/." "$2/"
"""
# What makes a version fail: a health check, a kernel without any init, an initrd without a disk driver.
KERNEL_ARGS: Mapping[str, Sequence[str]] = {
    PANIC: ("rdinit=/nonexistent",),
    NO_ROOT: ("modprobe.blacklist=virtio_blk",),
}
# What other versions have in place of a line of the image's configuration.
CONFIGURATION: Mapping[str, Mapping[str, str]] = {
    SQUASHFS: {"filesystem: erofs": "filesystem: squashfs"},
    WITHOUT_VERITY: {"filesystem: erofs": "filesystem: ext4", "verity: true": "verity: false"},
}


@dataclass(frozen=True)
class Releases:
    """folder: hypernet-VERSION.img with sidecars; the guests see it. keys: name to GnuPG home."""

    folder: Path
    keys: Mapping[str, Path]

    def image(self, version: str) -> Path:
        return self.folder / f"hypernet-{version}.img"

    def sign(self, image: Path, key: str) -> None:
        """Sign with the key "release", "stranger" (not trusted) or "expired" (trusted once)."""
        if key != "expired":
            Signer(self.keys[key], "").sign(image)
            return
        gpg = ["gpg", "--batch", "--quiet", "--yes", "--homedir", str(self.keys[key])]
        gpg += ["--faked-system-time", f"{EXPIRED_FROM}!", "--armor", "--detach-sign"]
        subprocess.run([*gpg, str(image)], check=True, timeout=300)


def prepare(cache: Path, versions: Sequence[str] = (START, GOOD, UNHEALTHY, PANIC, NO_ROOT)) -> Releases:
    """Build what is missing in the cache folder or was made of other sources; one process at a time."""
    cache.mkdir(parents=True, exist_ok=True)
    releases = Releases(
        cache / "releases", {name: cache / f"gnupg-{name}" for name in ("release", "stranger", "expired")}
    )
    with _locked(cache / "lock"):
        _make_keys(releases)
        inputs = file_digest(Path(__file__)) + "".join(
            tree_digest(REPOSITORY / name) for name in ("agents", "common", "packaging", "units")
        )
        for version in versions:
            stamp = releases.folder / f"{version}.inputs"
            if not stamp.exists() or stamp.read_text() != inputs:
                build(releases, version, output=releases.folder, cache=cache / "steps")
                stamp.write_text(inputs)
    return releases


def build(releases: Releases, version: str, *, output: Path, cache: Path | None) -> Path:
    """Run `hypernet-image build` for one version and return the image. cache: folder for finished steps."""
    argv = [
        sys.executable,
        "-m",
        "hypernet_release",
        "build",
        str(_configuration(releases, version)),
    ]
    argv += ["--version", version, "--output", str(output), "--gnupg-home", str(releases.keys["release"])]
    argv += ["--compression-level", "3"]
    argv += ["--package", "qemu-guest-agent", "--overlay", str(REPOSITORY / "packaging/image/demo")]
    argv += [f"--overlay={overlay}" for overlay in _overlays(releases, version)]
    argv += [f"--kernel-arg={argument}" for argument in KERNEL_ARGS.get(version, ())]
    if cache:
        argv += ["--cache", str(cache)]
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "packaging")])
    subprocess.run(argv, check=True, timeout=1200, env={**os.environ, "PYTHONPATH": path})
    return output / f"hypernet-{version}.img"


def _configuration(releases: Releases, version: str) -> Path:
    """The image's configuration, with the lines of a version."""
    path = REPOSITORY / "packaging/image/build-config.yaml"
    if version not in CONFIGURATION:
        return path
    text = path.read_text().replace("  - rootfs\n", f"  - {path.with_name('rootfs')}\n")
    for old, new in CONFIGURATION[version].items():
        assert f"\n{old}\n" in text
        text = text.replace(f"\n{old}\n", f"\n{new}\n")
    changed = releases.folder.parent / f"configuration-{version}/build-config.yaml"
    changed.parent.mkdir(exist_ok=True)
    changed.write_text(text)
    return changed


def _overlays(releases: Releases, version: str) -> Iterator[Path]:
    folder = releases.folder.parent
    yield _trusted_overlay(releases, folder)
    generator = folder / "generator/usr/lib/systemd/system-generators/test-units"
    generator.parent.mkdir(parents=True, exist_ok=True)
    generator.write_text(_GENERATOR)
    generator.chmod(0o755)
    yield folder / "generator"
    if version == UNHEALTHY:
        check = folder / "unhealthy/usr/lib/hypernet/health.d/90-application.yaml"
        check.parent.mkdir(parents=True, exist_ok=True)
        check.write_text(_BROKEN_CHECK)
        yield folder / "unhealthy"


def _trusted_overlay(releases: Releases, cache: Path) -> Path:
    """Trusted keys of the images: the release key, and one that has expired since."""
    overlay = cache / "trusted"
    folder = overlay / "usr/share/hypernet/trusted-keys"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["epoch: 1", "threshold: 1", "fingerprints:"]
    for name in ("release", "expired"):
        signer = Signer(releases.keys[name], "")
        (folder / f"{name}.asc").write_text(signer.public_key())
        lines += [f'  - fingerprint: "{signer.fingerprint}"', "    purpose: release"]
        lines += ["    channels: [stable]"]
    (folder / "fingerprints.yaml").write_text("\n".join([*lines, ""]))
    return overlay


def _make_keys(releases: Releases) -> None:
    for name, home in releases.keys.items():
        if home.exists():
            continue
        home.mkdir(mode=0o700, parents=True)
        gpg = ["gpg", "--batch", "--quiet", "--homedir", str(home), "--passphrase="]
        lifetime = "never"
        if name == "expired":
            gpg += ["--faked-system-time", f"{EXPIRED_FROM}!"]
            lifetime = "30d"
        user = f"Hypernet test {name} <{name}@example.org>"
        subprocess.run(
            [*gpg, "--quick-generate-key", user, "ed25519", "sign", lifetime], check=True, timeout=120
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
