# SPDX-License-Identifier: Apache-2.0
"""Bounded reading and durable writing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from common import files


def test_a_file_is_read_whole_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert files.read_bounded(path, 5) == b"12345"
    with pytest.raises(files.FileTooLarge, match=f"^Cannot read {path}: it is larger than 4 bytes"):
        files.read_bounded(path, 4)


def test_a_file_that_lies_about_its_size_is_read() -> None:
    assert files.read_bounded(Path("/proc/self/stat"), 10_000).startswith(str(os.getpid()).encode())


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(files.FileUnreadable, match="it is not a regular file"):
        files.read_bounded(Path("/dev/zero"), 100)


def test_a_file_system_that_gives_less_than_was_asked_for_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 9p, FUSE and network file systems may."""
    path, whole = tmp_path / "file", bytes(range(256)) * 40
    path.write_bytes(whole)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 1000), offset))

    with path.open("rb") as file:
        assert files.read_at(file.fileno(), 5000, 100) == whole[100:5100]
        assert files.read_at(file.fileno(), 5000, 9000) == whole[9000:]
        assert files.read_at(file.fileno(), 10, 1 << 40) == b""


def test_a_fifo_does_not_block_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(files.FileUnreadable, match="it is not a regular file"):
        files.read_bounded(tmp_path / "fifo", 100)


def test_a_missing_file_is_told_from_an_unreadable_one(tmp_path: Path) -> None:
    with pytest.raises(files.FileMissing):
        files.read_bounded(tmp_path / "file", 100)
    with pytest.raises(files.FileUnreadable, match=r"Is a directory|not a regular file") as caught:
        files.read_bounded(tmp_path, 100)
    assert not isinstance(caught.value, files.FileMissing)


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    (tmp_path / ".file.tmp").write_text("left behind by a power cut")
    os.umask(os.umask(0o077))
    files.write_atomic(path, b"new", mode=0o640)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_the_content_is_on_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    steps = []
    fsync, rename = os.fsync, os.rename

    def record_fsync(fd: int) -> None:
        steps.append("fsync " + os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    def record_rename(old: str, new: str) -> None:
        steps.append(f"rename {new}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    files.write_atomic(path, b"new")
    assert steps == [f"fsync {tmp_path}/.file.tmp", f"rename {path}", f"fsync {tmp_path}"]


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(files.FileSystemFull, match=f"^Cannot write {path}: No space left") as caught:
        files.write_atomic(path, b"new")
    assert caught.value.exit_status == 18
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_does_not_exist_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(files.FileUnwritable, match=r"^Cannot write .*: No such file or directory") as caught:
        files.write_atomic(tmp_path / "folder" / "file", b"")
    assert caught.value.errno == errno.ENOENT


def test_renaming_does_not_overwrite(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")
    new.write_text("new")
    with pytest.raises(files.FileUnwritable, match=f"^Cannot rename {old} to {new}: File exists") as caught:
        files.rename_durable(old, new)
    assert caught.value.errno == errno.EEXIST
    assert (old.read_text(), new.read_text()) == ("old", "new")
    new.unlink()
    files.rename_durable(old, new)
    assert os.listdir(tmp_path) == ["new"]


def test_renaming_between_folders_moves_the_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    files.rename_durable(tmp_path / "file", tmp_path / "folder" / "file")
    assert os.listdir(tmp_path) == ["folder"]


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    files.remove_durable(tmp_path / "file")
    files.remove_durable(tmp_path / "file")
    files.remove_durable(tmp_path / "folder" / "file")
    with pytest.raises(files.FileUnwritable, match=r"^Cannot remove"):
        files.remove_durable(tmp_path)


def test_a_file_system_is_flushed(tmp_path: Path) -> None:
    files.sync_filesystem(tmp_path)
    with pytest.raises(files.FileUnwritable, match=r"^Cannot flush"):
        files.sync_filesystem(tmp_path / "missing")


def test_a_scratch_folder_is_gone_afterwards() -> None:
    with files.scratch_folder() as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_bytes(b"x")
    assert not folder.exists()


def test_no_place_for_a_scratch_folder_is_a_complaint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with (
        pytest.raises(files.FileUnwritable, match="cannot be made: No such file or directory; make room"),
        files.scratch_folder(),
    ):
        pass
