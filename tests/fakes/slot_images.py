# SPDX-License-Identifier: Apache-2.0
"""Small but real system images and OpenPGP keys for tests: gpg, sfdisk, mtools, erofs, veritysetup, "
"objcopy."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from common import process

MIB = 1 << 20
STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
ESP_MIB, ROOT_MIB, TREE_MIB = 8, 2, 1


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


def trust(folder: Path, *keys: Key, listed: tuple[Key, ...] | None = None) -> None:
    """A trusted-keys folder with all `keys`; `listed` (default: all) are in fingerprints.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, key in enumerate(keys):
        (folder / f"key{number}.asc").write_bytes(key.public())
    lines = ["fingerprints:"] if (keys if listed is None else listed) else ["fingerprints: []"]
    for key in keys if listed is None else listed:
        lines.append(f"  - {{fingerprint: {key.fingerprint}, purpose: release, channels: [stable]}}")
    (folder / "fingerprints.yaml").write_text("\n".join(lines) + "\n")


def make_uki(path: Path, *, version: str, root_hash: str, image_id: str = "hypernet") -> Path:
    """A UKI made of systemd's real stub with our text sections."""
    work = path.parent / f".{path.name}.work"
    work.mkdir()
    texts = {
        ".osrel": f'ID=debian\nIMAGE_ID={image_id}\nIMAGE_VERSION="{version}"\n',
        ".cmdline": f"roothash={root_hash} quiet",
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


def build_image(
    folder: Path,
    version: str,
    *,
    key: Key | None = None,
    image_id: str = "hypernet",
    root_mib: int = ROOT_MIB,
    uki_root_hash: str | None = None,
    partition_root_hash: str | None = None,
    uki_names: tuple[str, ...] | None = None,
    salt: str = "-",
) -> BuiltImage:
    """A system image as the builder makes it, with its sidecars if `key` is given."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"hypernet-{version}.img"
    work = folder / f".work-{version}"
    work.mkdir()
    root_file, tree_file = work / "root", work / "tree"
    (work / "files").mkdir()
    (work / "files" / "blob").write_bytes(random.Random(version).randbytes(MIB))
    run(
        "mkfs.erofs",
        "--quiet",
        "-T0",
        "-U",
        str(uuid.uuid5(uuid.NAMESPACE_URL, version)),
        str(root_file),
        str(work / "files"),
    )
    os.truncate(root_file, root_mib * MIB)
    output = run(
        "veritysetup",
        "format",
        f"--salt={salt}",
        "--uuid",
        str(uuid.uuid5(uuid.NAMESPACE_DNS, version)),
        str(root_file),
        str(tree_file),
    )
    root_hash = next(
        line.split()[-1] for line in output.decode().splitlines() if line.startswith("Root hash")
    )
    os.truncate(tree_file, TREE_MIB * MIB)
    uki = make_uki(
        work / "uki.efi", version=version, root_hash=uki_root_hash or root_hash, image_id=image_id
    )
    esp = make_esp(work / "esp", uki, (f"hypernet_{version}.efi",) if uki_names is None else uki_names)
    identity = partition_root_hash or root_hash
    with open(path, "wb") as image:
        image.truncate((2 + ESP_MIB + root_mib + TREE_MIB) * MIB)
    script = (
        "label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\nfirst-lba: 2048\n"
        f"size={ESP_MIB}MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp\n"
        f"size={root_mib}MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root, "
        f"uuid={uuid.UUID(identity[:32])}\n"
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


def copy_image(image: BuiltImage, folder: Path) -> BuiltImage:
    """The same image with its sidecars in another folder, free to be damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("", ".sha256", ".asc"):
        name = image.path.name + suffix
        if (image.path.parent / name).exists():
            shutil.copy(image.path.parent / name, folder / name)
    return BuiltImage(
        folder / image.path.name, image.version, image.root_hash, image.root, image.tree, image.uki
    )
