# SPDX-License-Identifier: Apache-2.0
"""Starting programs."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from common import process


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_a_program_gets_its_input_and_gives_its_output() -> None:
    completed = process.run(shell("cat; echo note >&2"), timeout_sec=10, stdin=b"data")
    assert completed == process.Completed(tuple(shell("cat; echo note >&2")), 0, b"data", "note\n")


def test_input_and_output_larger_than_the_pipes_pass() -> None:
    data = os.urandom(1 << 20)
    assert process.run(["cat"], timeout_sec=10, stdin=data).stdout == data


def test_nothing_of_our_environment_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    completed = process.run(["env"], timeout_sec=10, env={"EXTRA": "1"})
    assert sorted(completed.stdout.decode().split()) == [
        "EXTRA=1",
        "LC_ALL=C.UTF-8",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    ]


def test_a_failure_names_command_status_and_last_words() -> None:
    with pytest.raises(process.ProcessError) as caught:
        process.run(shell("echo one >&2; echo 'two words.' >&2; exit 3"), timeout_sec=10)
    script = "'echo one >&2; echo '\"'\"'two words.'\"'\"' >&2; exit 3'"
    assert str(caught.value) == f"'sh -c {script}' failed with status 3: two words."
    assert caught.value.completed is not None
    assert caught.value.completed.returncode == 3


def test_a_program_killed_by_a_signal_is_reported_by_its_name() -> None:
    with pytest.raises(process.ProcessError, match=r"was killed by SIGTERM\.$"):
        process.run(shell("kill $$"), timeout_sec=10)


def test_other_statuses_can_be_success() -> None:
    assert process.run(["false"], timeout_sec=10, success=(0, 1)).returncode == 1
    assert process.run(shell("exit 9"), timeout_sec=10, success=None).returncode == 9


def test_a_missing_program_is_an_error_in_one_sentence() -> None:
    with pytest.raises(
        process.ProcessError, match=r"^Cannot start 'nonexistent -v': No such file"
    ) as caught:
        process.run(["nonexistent", "-v"], timeout_sec=10)
    assert caught.value.completed is None


def test_a_program_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(process.ProcessError, match=r"took longer than 0\.2 s and was killed") as caught:
        process.run(shell("sleep 60 & echo $! > child; wait"), timeout_sec=0.2, cwd=tmp_path)
    assert time.monotonic() - started < 3
    assert caught.value.completed is None
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_endless_output_is_cut_off() -> None:
    with pytest.raises(process.ProcessError, match="wrote more than 1000000 bytes and was killed"):
        process.run(["yes"], timeout_sec=20, max_output_bytes=1_000_000)


def test_of_endless_complaints_the_end_is_kept() -> None:
    completed = process.run(shell("yes error | head -c 1000000 >&2; echo last >&2"), timeout_sec=20)
    assert len(completed.stderr) == process.MAX_STDERR_BYTES
    assert completed.stderr.endswith("last\n")


def test_a_descriptor_can_be_passed() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as stream:
        process.run(shell(f"echo hello > /dev/fd/{writer}"), timeout_sec=10, pass_fds=[writer])
        os.close(writer)
        assert stream.read() == b"hello\n"


def test_a_stream_is_fed_in_pieces() -> None:
    with process.Feeder(["sha256sum"], timeout_sec=10) as feeder:
        for _ in range(3):
            feeder.write(memoryview(b"abc" * 100_000))
        completed = feeder.finish()
    assert completed.returncode == 0
    assert completed.stdout.split()[0].decode() == hashlib.sha256(b"abc" * 300_000).hexdigest()
    assert not feeder.broken


def test_a_program_that_stops_reading_does_not_stop_the_writer() -> None:
    with process.Feeder(shell("head -c 10; exit 4"), timeout_sec=10) as feeder:
        for _ in range(10):
            feeder.write(b"x" * 1_000_000)
        completed = feeder.finish()
    assert feeder.broken
    assert (completed.returncode, completed.stdout) == (4, b"x" * 10)


def test_a_program_that_never_reads_does_not_block_the_writer_for_ever() -> None:
    with process.Feeder(["sleep", "60"], timeout_sec=0.2) as feeder:
        feeder.write(b"x" * 10_000_000)
        with pytest.raises(process.ProcessError, match="took longer"):
            feeder.finish()


def test_leaving_a_feeder_early_ends_the_program() -> None:
    with process.Feeder(["sleep", "60"], timeout_sec=60) as feeder:
        started = time.monotonic()
    assert time.monotonic() - started < 3
    assert feeder._process.returncode == -9
