# SPDX-License-Identifier: Apache-2.0
"""Small but real system images, manifests and OpenPGP keys for tests: gpg, sfdisk, mtools, erofs,
veritysetup, objcopy.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common import manifest, process
from common.manifest import Manifest, Part
from tests.fakes import root_images

MIB = 1 << 20
STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
ESP_MIB, ROOT_MIB, TREE_MIB = 8, 2, 1
SIDECARS = (".img", ".img.sha256", ".img.asc", ".manifest.json", ".manifest.json.asc")
DAY_SEC = 86400


def run(*argv: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> bytes:
    return process.run(argv, timeout_sec=60, stdin=stdin, env=env or {}).stdout


@dataclass(frozen=True)
class Key:
    """A signing key in a GnuPG home of its own."""

    home: Path
    fingerprint: str

    def gpg(self, *argv: str, stdin: bytes = b"") -> bytes:
        base = ("gpg", "--batch", "--yes", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", "")
        return run(*base, *argv, stdin=stdin, env={"GNUPGHOME": str(self.home)})

    def public(self) -> bytes:
        return self.gpg("--armor", "--export", self.fingerprint)

    def sign(self, path: Path, *options: str, output: Path | None = None) -> Path:
        output = output or path.with_name(path.name + ".asc")
        self.gpg(
            *options,
            "--armor",
            "--local-user",
            self.fingerprint,
            "--output",
            str(output),
            "--detach-sign",
            str(path),
        )
        return output


def make_key(home: Path, name: str, *options: str, expire: str = "never", algorithm: str = "ed25519") -> Key:
    """A new key; `options` go to gpg (such as --faked-system-time)."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = Key(home, "")
    key.gpg(*options, "--quick-gen-key", f"{name} <{name}@test.invalid>", algorithm, "sign", expire)
    listing = key.gpg(*options, "--with-colons", "--list-keys", f"{name}@test.invalid").decode()
    fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
    return Key(home, fingerprint)


def trust(
    folder: Path,
    *keys: Key,
    listed: tuple[Key, ...] | None = None,
    channels: str = "stable",
    epoch: int = 1,
    threshold: int = 1,
    revoked: tuple[Key, ...] = (),
) -> None:
    """A trusted-keys folder with all `keys`; `listed` (default: all) are in fingerprints.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, key in enumerate(keys):
        (folder / f"key{number}.asc").write_bytes(key.public())
    names = keys if listed is None else listed
    lines = [f"epoch: {epoch}", f"threshold: {threshold}"]
    lines.append(f"revoked: [{', '.join(key.fingerprint for key in revoked)}]")
    lines.append("fingerprints:" if names else "fingerprints: []")
    for key in names:
        lines.append(f'  - {{fingerprint: "{key.fingerprint}", purpose: release, channels: [{channels}]}}')
    (folder / "fingerprints.yaml").write_text("\n".join(lines) + "\n")


def make_uki(
    path: Path,
    *,
    version: str,
    root_hash: str,
    image_id: str = "hypernet",
    options: str = "quiet panic=10 rd.shell=0 rd.emergency=reboot",
    verity: bool = True,
) -> Path:
    """A UKI made of systemd's real stub with our text sections; `options` follow what names the root."""
    root = f"roothash={root_hash}"
    if not verity:
        root = f"root=PARTUUID={uuid.UUID(root_hash[:32])} hypernet.rootsha256={root_hash}"
    work = path.parent / f".{path.name}.work"
    work.mkdir()
    texts = {
        ".osrel": f'ID=debian\nIMAGE_ID={image_id}\nIMAGE_VERSION="{version}"\n',
        ".cmdline": f"{root} {options}",
        ".linux": f"kernel of {version}" * 500,
    }
    argv = ["objcopy"]
    for number, (section, text) in enumerate(texts.items()):
        file = work / section[1:]
        file.write_text(text)
        argv += [
            "--add-section",
            f"{section}={file}",
            "--change-section-vma",
            f"{section}={0x20000 + number * 0x20000:#x}",
        ]
    run(*argv, str(STUB), str(path))
    shutil.rmtree(work)
    return path


@dataclass(frozen=True)
class BuiltImage:
    path: Path
    version: str
    root_hash: str
    root: bytes
    tree: bytes
    uki: bytes

    def beside(self, suffix: str) -> Path:
        """The image or a file beside it; `suffix` is one of SIDECARS."""
        return self.path.with_name(self.path.name.removesuffix(".img") + suffix)


def build_image(
    folder: Path,
    version: str,
    *,
    key: Key | None = None,
    trusted: Path | None = None,
    image_id: str = "hypernet",
    root_mib: int = ROOT_MIB,
    root_options: Mapping[str, Any] = {},
    uki_root_hash: str | None = None,
    uki_options: str = "quiet panic=10 rd.shell=0 rd.emergency=reboot",
    partition_root_hash: str | None = None,
    uki_names: tuple[str, ...] | None = None,
    salt: str = "-",
    verity: bool = True,
) -> BuiltImage:
    """A system image as the builder makes it, signed as a whole if `key` is given.

    trusted: its key set, by default one with `key`. root_options: more arguments of root_images.make_root.
    verity: whether it has a hash tree; else its root hash is the SHA-256 of its root.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"hypernet-{version}.img"
    work = folder / f".work-{version}"
    work.mkdir()
    if key and not trusted:
        trusted = work / "trusted-keys"
        trust(trusted, key)
    root_file, tree_file = work / "root", work / "tree"
    content = {"usr/share/blob": random.Random(version).randbytes(MIB)}
    content["usr/lib/os-release"] = f"ID=debian\nIMAGE_ID={image_id}\nIMAGE_VERSION={version}\n".encode()
    root_images.make_root(root_file, trusted=trusted, **{"extra": content, **root_options})
    os.truncate(root_file, root_mib * MIB)
    root_hash = hashlib.sha256(root_file.read_bytes()).hexdigest()
    if verity:
        root_hash = _make_tree(root_file, tree_file, version, salt)
    else:
        tree_file.touch()
    uki = make_uki(
        work / "uki.efi",
        version=version,
        root_hash=uki_root_hash or root_hash,
        image_id=image_id,
        options=uki_options,
        verity=verity,
    )
    esp = make_esp(work / "esp", uki, (f"hypernet_{version}.efi",) if uki_names is None else uki_names)
    identity = partition_root_hash or root_hash
    with open(path, "wb") as image:
        image.truncate((2 + ESP_MIB + root_mib + (TREE_MIB if verity else 0)) * MIB)
    script = (
        "label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\nfirst-lba: 2048\n"
        f"size={ESP_MIB}MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp\n"
        f"size={root_mib}MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root, "
        f"uuid={uuid.UUID(identity[:32])}\n"
    )
    if verity:
        script += (
            f"size={TREE_MIB}MiB, type=2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5, name=root-verity, "
            f"uuid={uuid.UUID(identity[32:])}\n"
        )
    run("sfdisk", "--quiet", str(path), stdin=script.encode())
    with open(path, "r+b") as image:
        for offset, part in ((1, esp), (1 + ESP_MIB, root_file), (1 + ESP_MIB + root_mib, tree_file)):
            image.seek(offset * MIB)
            image.write(part.read_bytes())
    built = BuiltImage(
        path, version, root_hash, root_file.read_bytes(), tree_file.read_bytes(), uki.read_bytes()
    )
    shutil.rmtree(work)
    if key:
        seal(built, key)
    return built


def _make_tree(root: Path, tree: Path, version: str, salt: str) -> str:
    """Write the hash tree of a root file system; returns the root hash."""
    name = str(uuid.uuid5(uuid.NAMESPACE_DNS, version))
    output = run("veritysetup", "format", f"--salt={salt}", "--uuid", name, str(root), str(tree))
    os.truncate(tree, TREE_MIB * MIB)
    return next(line.split()[-1] for line in output.decode().splitlines() if line.startswith("Root hash"))


def make_esp(path: Path, uki: Path, names: tuple[str, ...]) -> Path:
    """A FAT file system with `uki` under each of `names` in EFI/Linux."""
    with open(path, "wb") as esp:
        esp.truncate(ESP_MIB * MIB)
    run("mkfs.vfat", "-n", "ESP", str(path))
    run("mmd", "-i", str(path), "::/EFI", "::/EFI/Linux", "::/EFI/BOOT")
    for name in names:
        run("mcopy", "-i", str(path), str(uki), f"::/EFI/Linux/{name}")
    return path


def seal(image: BuiltImage, key: Key, *options: str) -> None:
    """Write the image's .sha256 and .asc."""
    digest = hashlib.sha256(image.path.read_bytes()).hexdigest()
    image.path.with_name(image.path.name + ".sha256").write_text(f"{digest}  {image.path.name}\n")
    key.sign(image.path, *options)


def describe(image: BuiltImage, **changes: Any) -> Manifest:
    """The manifest that a builder writes for the image; `changes` replace fields of it."""
    raw = image.path.read_bytes()
    root_mib = len(image.root) // MIB
    places = (
        ("esp", 1, ESP_MIB),
        ("root", 1 + ESP_MIB, root_mib),
        ("root-verity", 1 + ESP_MIB + root_mib, TREE_MIB),
    )
    numbers = [int(number) for number in image.version.partition("~")[0].split(".")]
    now_sec = int(time.time())
    fields = Manifest(
        product="hypernet",
        arch="x86-64",
        channel="stable",
        version=image.version,
        serial=numbers[0] * 10**12 + numbers[1] * 10**6 + numbers[2],
        issued_sec=now_sec - DAY_SEC,
        expires_sec=now_sec + 365 * DAY_SEC,
        min_version="0.0.0",
        min_from_version="0.0.0",
        key_epoch=1,
        config_schema=1,
        root_hash=image.root_hash,
        image_name=image.path.name,
        image_bytes=len(raw),
        image_sha256=hashlib.sha256(raw).hexdigest(),
        parts=tuple(
            Part(
                role,
                offset * MIB,
                size * MIB,
                hashlib.sha256(raw[offset * MIB : (offset + size) * MIB]).hexdigest(),
            )
            for role, offset, size in places
            if role != "root-verity" or image.tree
        ),
        uki_bytes=len(image.uki),
        uki_sha256=hashlib.sha256(image.uki).hexdigest(),
        notes_url="",
        digest="",
    )
    return replace(fields, **changes)


def vouch(image: BuiltImage, key: Key | None, **changes: Any) -> Manifest:
    """Write the image's manifest, signed if `key` is given, in place of its .sha256 and .asc; returns it as
    it is read back.
    """
    path = image.beside(".manifest.json")
    path.write_bytes(manifest.render(describe(image, **changes)))
    for suffix in (".img.sha256", ".img.asc", ".manifest.json.asc"):
        image.beside(suffix).unlink(missing_ok=True)
    if key:
        key.sign(path)
    return manifest.parse(path.read_bytes(), name=path.name)


def copy_image(image: BuiltImage, folder: Path) -> BuiltImage:
    """The same image with all that is beside it in another folder, free to be damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in SIDECARS:
        path = image.beside(suffix)
        if path.exists():
            shutil.copy(path, folder / path.name)
    return replace(image, path=folder / image.path.name)
