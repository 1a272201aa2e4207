# SPDX-License-Identifier: Apache-2.0
"""A read-only ext4 of a root tree: the same tree gives the same bytes on every host.

mke2fs(8) could fill the file system itself, but in the order in which the host's file system lists folders
and with the times of the host's inodes; debugfs(8) does as it is told.
"""

from __future__ import annotations

import os
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypernet_release import tools
from hypernet_release.errors import BuildError, ToolError

BLOCK_BYTES = 4096
_INODE_BYTES = 256
_RESERVED_INODES = 11
# No journal, since nothing is ever written, and nothing that only a growing file system needs.
_FEATURES = (
    "none,64bit,dir_index,dir_nlink,ext_attr,extent,extra_isize,filetype,flex_bg,huge_file,large_file,"
    "metadata_csum,sparse_super"
)
_GROUP_BLOCKS = 8 * BLOCK_BYTES
_MIN_GROUP_BLOCKS = 1024  # mke2fs leaves a shorter last group out
_STEP_BLOCKS = (1 << 20) // BLOCK_BYTES
_MAX_OUTPUT_BYTES = 256 << 20  # debugfs repeats every command


def make(tree: Path, target: Path, epoch: int, uuid: str) -> None:
    """Make the file system; all times in it are `epoch` (seconds since 1970), it can only be mounted ro.

    Files that are hard links of each other become files of their own. Raises BuildError, ToolError.
    """
    with tempfile.TemporaryDirectory(prefix=".ext4-", dir=target.parent) as folder:
        script = Path(folder) / "script"
        with script.open("wb") as stream:
            inodes = blocks = 0
            for count, commands in _commands(tree, Path(folder)):
                inodes, blocks = inodes + 1, blocks + count
                stream.write(os.fsencode("".join(f"{command}\n" for command in commands)))
        # Once with room to spare, to see what is needed, then as small as that.
        inodes += _RESERVED_INODES
        _fill(target, script, epoch, uuid, inodes, _size(blocks + blocks // 16 + 16 * _STEP_BLOCKS))
        _fill(target, script, epoch, uuid, inodes, _size(_used_blocks(target)))
    # Lets the kernel refuse to mount it for writing.
    tools.run(["tune2fs", "-O", "read-only", str(target)], timeout_sec=60, env=_env(epoch))


def _size(blocks: int) -> int:
    blocks = -(-blocks // _STEP_BLOCKS) * _STEP_BLOCKS
    rest = blocks % _GROUP_BLOCKS
    return blocks + _MIN_GROUP_BLOCKS - rest if 0 < rest < _MIN_GROUP_BLOCKS else blocks


def _fill(target: Path, script: Path, epoch: int, uuid: str, inodes: int, blocks: int) -> None:
    target.unlink(missing_ok=True)
    argv = ["mke2fs", "-q", "-F", "-b", str(BLOCK_BYTES), "-I", str(_INODE_BYTES), "-N", str(inodes)]
    argv += ["-m", "0", "-O", _FEATURES, "-U", uuid]
    argv += ["-E", f"hash_seed={uuid},lazy_itable_init=0,nodiscard,root_owner=0:0", str(target), str(blocks)]
    tools.run(argv, timeout_sec=300, env=_env(epoch))
    argv = ["debugfs", "-w", "-f", str(script), str(target)]
    done = tools.run(argv, timeout_sec=900, env=_env(epoch), max_output_bytes=_MAX_OUTPUT_BYTES)
    complaints = done.stderr.splitlines()[1:]  # the first line is its version
    if complaints:
        log = "\n".join([f"$ {' '.join(argv)}", *complaints, ""])
        raise ToolError(f"debugfs failed: {complaints[0].strip().rstrip('.')}.", log)


def _used_blocks(image: Path) -> int:
    with image.open("rb") as stream:
        stream.seek(1024)
        blocks, free = struct.unpack("<4xI4xI", stream.read(16))
    return int(blocks) - int(free)


def _env(epoch: int) -> dict[str, str]:
    # What the host's /etc/mke2fs.conf says must not matter.
    return {"E2FSPROGS_FAKE_TIME": str(epoch), "MKE2FS_CONFIG": "/dev/null"}


def _commands(tree: Path, folder: Path) -> Iterator[tuple[int, list[str]]]:
    """For the root and all below it, in order: blocks that its content takes, and debugfs's commands.

    folder: for the values of extended attributes.
    """
    yield 1, [f"rmdir {_quoted('/lost+found')}", *_settings(tree, "/", folder)]
    for path in sorted(tree.rglob("*"), key=lambda path: os.fsencode(path.relative_to(tree))):
        inside = f"/{path.relative_to(tree)}"
        name = _quoted(inside)
        status = path.lstat()
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            command = f"symlink {name} {_quoted(os.readlink(path))}"
        elif stat.S_ISDIR(mode):
            command = f"mkdir {name}"
        elif stat.S_ISREG(mode):
            command = f"write {_quoted(str(path))} {name}"
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            kind = "c" if stat.S_ISCHR(mode) else "b"
            major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
            command = _node(inside, f"{kind} {major} {minor}")
        elif stat.S_ISFIFO(mode):
            command = _node(inside, "p")
        else:
            raise BuildError(f"{inside} in the root tree is a socket; remove it.")
        # A block more than the content, for directories, long links and extents.
        blocks = 1 + (status.st_size // BLOCK_BYTES if stat.S_ISREG(mode) else 0)
        yield blocks + 1, [command, *_settings(path, inside, folder)]


def _node(inside: str, kind: str) -> str:
    folder, _, name = inside.rpartition("/")  # mknod takes no path
    return f"cd {_quoted(folder or '/')}\nmknod {_quoted(name)} {kind}\ncd /"


def _settings(path: Path, inside: str, folder: Path) -> Iterator[str]:
    status = path.lstat()
    name = _quoted(inside)
    if not stat.S_ISLNK(status.st_mode):
        yield f"set_inode_field {name} mode 0{status.st_mode:o}"
    for field, number in (("uid", status.st_uid), ("gid", status.st_gid)):
        if number:
            yield f"set_inode_field {name} {field} {number}"
    if stat.S_ISLNK(status.st_mode):
        return
    for attribute in sorted(os.listxattr(path)):
        value = folder / f"value{len(os.listdir(folder))}"
        value.write_bytes(os.getxattr(path, attribute))
        yield f"ea_set -f {_quoted(str(value))} {name} {_quoted(attribute)}"


def _quoted(text: str) -> str:
    if not text.isprintable():
        raise BuildError(f"The root tree has the name {text!r}, which ext4 images cannot have; rename it.")
    return '"' + text.replace('"', '""') + '"'
