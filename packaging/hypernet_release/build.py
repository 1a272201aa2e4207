# SPDX-License-Identifier: Apache-2.0
"""`hypernet-image build`: from build-config.yaml to hypernet-X.Y.Z.img, .sha256 and .asc.

Reproducible: the same configuration, packages and SOURCE_DATE_EPOCH give the same bytes
(https://reproducible-builds.org/specs/source-date-epoch/).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common import files, gpt, process
from hypernet_release import boot, disk, rootfs
from hypernet_release.cache import Cache, tree_digest
from hypernet_release.config import BuildConfig
from hypernet_release.errors import BuildError
from hypernet_release.signing import Signer, write_checksum, write_trusted_keys

DEFAULT_EPOCH = 1_735_689_600  # 2025-01-01T00:00:00Z, where SOURCE_DATE_EPOCH is not set
TOOLS = ("mmdebstrap", "mkfs.erofs", "mkfs.vfat", "mcopy", "veritysetup", "sfdisk", "objcopy", "gpg", "unshare")


@dataclass(frozen=True, slots=True)
class Request:
    """What one build is asked for.

    image_data: folder with dracut/ (packaging/image of the repository). overlays: folders copied over
    the tree after the configuration's own. epoch: seconds since 1970 that all times in the image get.
    """

    config: BuildConfig
    version: str
    agents_deb: Path
    image_data: Path
    output: Path
    gnupg_home: Path | None
    cache: Path | None
    overlays: tuple[Path, ...]
    kernel_args: tuple[str, ...]
    epoch: int


def build(request: Request) -> Path:
    """Build and sign the image; returns its path. Writes nothing to `output` before all is done.

    Raises BuildError, common.process.ProcessError or common.errors.ConfigError.
    """
    check_tools()
    signer = Signer(request.gnupg_home, request.config.signing_key)
    request.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".hypernet-image-", dir=request.output) as name:
        work = Path(name)
        image = _make_image(request, signer, work)
        write_checksum(image)
        signer.sign(image)
        for path in sorted(work.glob(image.name + "*")):
            path.replace(request.output / path.name)
    files.sync_directory(request.output)
    return request.output / image.name


def check_tools() -> None:
    """Raise BuildError naming the first program that the build needs and that is not installed."""
    for tool in TOOLS:
        if shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            raise BuildError(f"{tool} is not installed; the package hypernet-release depends on all that a build needs")


def _make_image(request: Request, signer: Signer, work: Path) -> Path:
    cache = Cache(request.cache or work / "cache")
    system, initrd = _system(request, cache, work)
    tree = work / "tree"
    with _step("Unpacking the system"):
        rootfs.unpack(system, tree)
        kernel = boot.find_kernel(tree).image.rename(work / "vmlinuz")
        overlays = list(request.overlays)
        keys = request.config.trusted_keys
        if keys is None:
            keys = work / "trusted-keys"
            write_trusted_keys(signer, keys)
        shutil.copytree(keys, tree / "usr/share/hypernet/trusted-keys")
        rootfs.settle(tree, request.config, overlays, request.version)
    with _step("Making root file system and hash tree"):
        disk.make_root(tree, work / "root.erofs", request.epoch)
        root_hash = disk.make_hash_tree(work / "root.erofs", work / "root.verity")
    with _step("Making the unified kernel image and the disk image"):
        command_line = [f"roothash={root_hash}", "ro", *request.config.kernel_args, *request.kernel_args]
        boot.make_uki(tree, kernel, initrd, " ".join(command_line), work / "uki.efi", request.epoch)
        boot.make_esp(tree, work / "uki.efi", request.version, work / "esp.fat", request.epoch)
        root_uuid, tree_uuid = disk.part_uuids(root_hash)
        parts = [
            disk.Part("esp", gpt.ESP, disk.esp_uuid(root_hash), work / "esp.fat"),
            disk.Part("root", gpt.ROOT_X86_64, root_uuid, work / "root.erofs"),
            disk.Part("root-verity", gpt.ROOT_X86_64_VERITY, tree_uuid, work / "root.verity"),
        ]
        image = work / f"hypernet-{request.version}.img"
        disk.assemble(parts, image, root_hash)
    return image


def _system(request: Request, cache: Cache, work: Path) -> tuple[Path, Path]:
    """The two slow steps, cached: tar of the installed system with its bytecode, and the initrd."""
    config = request.config
    epoch = str(request.epoch)
    base_inputs = [config.base_os.suite, config.mirror, epoch, *config.packages, *config.exclude]
    base_inputs += rootfs.depends(request.agents_deb)
    tool = tree_digest(Path(__file__).parent)

    def make_base(target: Path) -> None:
        with _step("Bootstrapping the base system"):
            rootfs.bootstrap(config, request.agents_deb, target, request.epoch)

    base = cache.get("base.tar", [*base_inputs, tool], make_base)
    agents = process.run(["sha256sum", str(request.agents_deb)], timeout_sec=60).stdout.decode().split()[0]
    system_inputs = [base.name, agents, config.python_version, *config.dependencies]

    def make_system(target: Path) -> None:
        tree = work / "system"
        with _step("Installing agents and Python packages"):
            rootfs.unpack(base, tree)
            rootfs.install_agents(tree, request.agents_deb, request.epoch)
            rootfs.install_dependencies(tree, config, request.epoch)
            rootfs.compile_bytecode(tree, request.epoch)
            rootfs.pack(tree, target)
            shutil.rmtree(tree)

    module = request.image_data / "dracut/90hypernet"

    def make_initrd(target: Path) -> None:
        tree = work / "initrd"
        with _step("Building the initrd"):
            rootfs.unpack(base, tree)
            boot.make_initrd(tree, module, target, request.epoch)
            shutil.rmtree(tree)

    system = cache.get("system.tar", system_inputs, make_system)
    initrd = cache.get("initrd", [base.name, tree_digest(module)], make_initrd)
    return system, initrd


@contextmanager
def _step(title: str) -> Iterator[None]:
    print(f"{title} ...", file=sys.stderr, flush=True)
    yield


def kernel_args(values: Sequence[str]) -> tuple[str, ...]:
    """Check additional kernel arguments: each one word of printable ASCII. Raises BuildError."""
    for value in values:
        if not value.isascii() or not value.isprintable() or " " in value or not value:
            raise BuildError(f"kernel argument {value!r}: one word of printable ASCII is allowed")
    return tuple(values)
