# SPDX-License-Identifier: Apache-2.0
"""`hypernet-image build`: from build-config.yaml to hypernet-X.Y.Z.img, its compressed forms, manifest
and signatures.

Reproducible: the same configuration, packages and SOURCE_DATE_EPOCH give the same image
(https://reproducible-builds.org/specs/source-date-epoch/). Signatures and the time in the manifest differ.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import files, gpt, trust, uki
from hypernet_release import boot, disk, lint, rootfs, statement, tools, transport
from hypernet_release.cache import Cache, file_digest, tree_digest
from hypernet_release.config import BuildConfig
from hypernet_release.errors import BuildError, ImageUnfit, ToolError
from hypernet_release.framecache import FrameCompressor
from hypernet_release.signing import Signer, write_checksum, write_trusted_keys
from hypernet_release.tools import step

DEFAULT_EPOCH = 1_735_689_600  # 2025-01-01T00:00:00Z, where SOURCE_DATE_EPOCH is not set
LOG = "build.log"
_CODE = Path(__file__).parent
_DEB_BUILDER = Path(__file__).parents[1] / "build-deb"
_TOOLS = (
    "dpkg-deb",
    "dpkg-query",
    "gpg",
    "mcopy",
    "mdir",
    "mkfs.vfat",
    "mmdebstrap",
    "objcopy",
    "sfdisk",
    "systemctl",
    "tar",
    "unshare",
    "veritysetup",
)


@dataclass(frozen=True, slots=True)
class Request:
    """What one build is asked for.

    agents_deb: hypernet-agents for the image; None: built from the repository that this code is in.
    image_data: folder with dracut/ (packaging/image of the repository). gnupg_home: None for the user's own.
    cache: folder for the results of the slow steps, None: not kept. overlays: folders copied over the tree
    after the configuration's own. kernel_args: behind those of the configuration. epoch: seconds since 1970
    that all times in the image get. issued_sec: seconds since 1970, the time in the manifest; None: now.
    """

    config: BuildConfig
    version: str
    agents_deb: Path | None
    image_data: Path
    output: Path
    gnupg_home: Path | None
    cache: Path | None
    overlays: tuple[Path, ...]
    kernel_args: tuple[str, ...]
    epoch: int
    issued_sec: int | None = None


def build(request: Request) -> Path:
    """Build, lint and sign the image; returns its path. Only a whole image appears in `output`.

    What a failed program said is in `output`/build.log. Raises BuildError, ToolError, ConfigError, OSError;
    ImageUnfit with the findings on standard error.
    """
    tools.require((*_TOOLS, *disk.FILESYSTEMS[request.config.filesystem]))
    statement.check(request.config.statement, request.version)
    if request.config.trusted_keys is not None:
        trust.load(request.config.trusted_keys)
    signer = Signer(request.gnupg_home, request.config.signing_key)
    output = request.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    log = output / LOG
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=".hypernet-image-", dir=output) as name:
        try:
            image = _make_image(request, signer, Path(name))
        except ToolError as error:
            if not error.log:
                raise
            files.write_atomic(log, error.log.encode())
            raise BuildError(f"{str(error).rstrip('.')}; {log} has all that it said.") from error
        image.chmod(0o644)  # nobody else may write what is about to be signed, whatever the umask is
        with step("Linting"):
            _lint(image, signer, request.config.statement.channel)
        with step("Compressing"):
            compressor = FrameCompressor(
                request.config.compression_level,
                request.cache.absolute() / "frames" if request.cache else None,
            )
            compressed, archive = transport.write(image, compressor)
            compressor.prune()
        with step("Signing"):
            issued_sec = int(time.time()) if request.issued_sec is None else request.issued_sec
            manifest = statement.write_manifest(
                image,
                request.config.statement,
                issued_sec=issued_sec,
                transport=compressed,
                archive=archive,
            )
            sidecars = [image.with_name(form.name) for form in (compressed, archive)]
            sidecars += [write_checksum(image), signer.sign(image), manifest, signer.sign(manifest)]
        _publish(image, sidecars, output)
    return output / image.name


def _lint(image: Path, signer: Signer, channel: str) -> None:
    """Raises ImageUnfit."""
    report = lint.lint_image(image, signer=signer.fingerprint, channel=channel)
    for finding in report.findings:
        print(finding.message, file=sys.stderr)
    if report.findings:
        raise ImageUnfit(
            f"{image.name} was not kept, since servers that run it could not update themselves again; mend "
            "what is listed above and build it again."
        )


def _publish(image: Path, sidecars: list[Path], output: Path) -> None:
    """Move the files to the output folder, the image last: it never lies there with sidecars of another."""
    for path in (image, *sidecars):
        # Servers refuse files that somebody else could have changed, and web servers those they cannot read.
        path.chmod(0o644)
    files.sync_filesystem(image)
    (output / image.name).unlink(missing_ok=True)
    for path in (*sidecars, image):
        path.replace(output / path.name)
    files.sync_directory(output)


def _make_image(request: Request, signer: Signer, work: Path) -> Path:
    system, initrd = _system(request, work)
    tree = work / "tree"
    with step("Unpacking the system"):
        rootfs.unpack(system, tree)
        kernel = boot.find_kernel(tree).image.rename(work / "vmlinuz")
        keys = request.config.trusted_keys
        if keys is None:
            keys = work / "trusted-keys"
            write_trusted_keys(signer, keys, request.config.statement.channel)
        shutil.copytree(keys, tree / "usr/share/hypernet/trusted-keys")
        rootfs.settle(tree, request.config, request.overlays, request.version)
    root, hash_tree, verity = work / "root", work / "root.verity", request.config.verity
    with step("Making root file system and hash tree" if verity else "Making root file system"):
        disk.make_root(tree, root, request.epoch, request.config.filesystem)
        root_hash = disk.make_hash_tree(root, hash_tree) if verity else disk.plain_root_hash(root)
    with step("Making the unified kernel image and the disk image"):
        command_line = [*uki.root_arguments(root_hash, verity=verity), "ro"]
        command_line += [*request.config.kernel_args, *request.kernel_args]
        boot.make_uki(tree, kernel, initrd, " ".join(command_line), work / "uki.efi", request.epoch)
        boot.make_esp(tree, work / "uki.efi", request.version, work / "esp.fat", request.epoch)
        root_uuid, tree_uuid = disk.part_uuids(root_hash)
        parts = [
            disk.Part("esp", gpt.ESP, disk.esp_uuid(root_hash), work / "esp.fat"),
            disk.Part("root", gpt.ROOT_X86_64, root_uuid, root),
        ]
        if verity:
            parts.append(disk.Part("root-verity", gpt.ROOT_X86_64_VERITY, tree_uuid, hash_tree))
        image = work / f"hypernet-{request.version}.img"
        disk.assemble(parts, image, root_hash)
    return image


def _system(request: Request, work: Path) -> tuple[Path, Path]:
    """The slow steps, cached: tar of the installed system with its bytecode, and the initrd."""
    config = request.config
    cache = Cache(request.cache.absolute() if request.cache else work / "cache")
    agents_deb = request.agents_deb or _build_agents(work / "deb")
    dependencies = rootfs.depends(agents_deb)

    def make_base(target: Path) -> None:
        with step("Bootstrapping the base system"):
            rootfs.bootstrap(config, dependencies, target, work, request.epoch)

    recipe = [*rootfs.bootstrap_argv(config, dependencies, Path("base.tar")), str(request.epoch)]
    base = cache.get("base.tar", recipe, make_base)

    def make_system(target: Path) -> None:
        tree = work / "system"
        with step("Installing agents and Python packages"):
            rootfs.unpack(base, tree)
            rootfs.install_agents(tree, agents_deb, request.epoch)
            rootfs.install_dependencies(tree, config, request.epoch)
            rootfs.compile_bytecode(tree, config.python_version, request.epoch)
            rootfs.pack(tree, target)
            shutil.rmtree(tree)

    system_inputs = [base.name, file_digest(agents_deb), config.python_version, *config.dependencies]
    system_inputs.append(file_digest(_CODE / "rootfs.py"))
    system = cache.get("system.tar", system_inputs, make_system)

    module = request.image_data / "dracut/90hypernet"

    def make_initrd(target: Path) -> None:
        tree = work / "initrd"
        with step("Building the initrd"):
            rootfs.unpack(base, tree)
            boot.make_initrd(tree, module, target, request.epoch)
            shutil.rmtree(tree)

    initrd_inputs = [base.name, tree_digest(module), file_digest(_CODE / "boot.py")]
    initrd = cache.get("initrd", initrd_inputs, make_initrd)
    return system, initrd


def _build_agents(folder: Path) -> Path:
    """Build hypernet-agents from the repository; returns the .deb."""
    if not _DEB_BUILDER.exists():
        raise BuildError("The image needs the .deb of hypernet-agents; name it with --agents.")
    with step("Building hypernet-agents"):
        tools.run(
            [str(_DEB_BUILDER), str(folder)], timeout_sec=600, env={"HOME": str(folder)}, name="build-deb"
        )
    return next(folder.glob("hypernet-agents_*.deb"))
