# SPDX-License-Identifier: Apache-2.0
"""What a caller may ask of an install besides its image: a dry run, a certain slot, work before the first
write; and what the journal is told.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from agents.slot_manager import install, messages
from agents.slot_manager.errors import PreUpdateFailed, SlotBooted, WrongArchitecture
from agents.slot_manager.install import Stage
from agents.slot_manager.state import State
from agents.slot_manager.topology import SlotDevices, Topology
from common import journal
from common.errors import AgentError, Cancelled, InvalidArgument
from tests.fakes.slot_images import BuiltImage, Key, copy_image, vouch
from tests.fakes.slot_lab import Lab


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Journal entries with a MESSAGE_ID."""
    entries: list[dict[str, Any]] = []

    def send(message: str, *, priority: int = 6, message_id: str | None = None, **fields: Any) -> None:
        if message_id is not None:
            entries.append({"message": message, "message_id": message_id, **fields})

    monkeypatch.setattr(journal, "send", send)
    return entries


@pytest.fixture
def wrong(releases: dict[str, BuiltImage], tmp_path: Path, key: Key) -> BuiltImage:
    """A release that this machine refuses."""
    image = copy_image(releases["3.0.0"], tmp_path / "wrong")
    vouch(image, key, arch="arm64")
    return image


def test_a_dry_run_checks_everything_and_changes_nothing(
    armed: Lab, releases: dict[str, BuiltImage]
) -> None:
    before = armed.snapshot()
    stages: list[Stage] = []
    versions: list[str] = []
    done = install.install(
        armed.machine,
        str(releases["3.0.0"].path),
        dry_run=True,
        progress=lambda stage, count, total: stages.append(stage),
        found=versions.append,
        before_write=lambda: pytest.fail("a dry run prepares nothing"),
    )
    assert (done.slot, done.version, done.state, done.dry_run) == ("b", "3.0.0", State.ARMED, True)
    assert versions == ["3.0.0"]
    assert list(dict.fromkeys(stages)) == [Stage.CHECK, Stage.VERIFY, Stage.DONE]
    assert armed.snapshot() == before


def test_the_progress_of_a_dry_run_ends_complete(lab: Lab, releases: dict[str, BuiltImage]) -> None:
    seen: list[tuple[Stage, int, int]] = []
    path = str(releases["2.0.0"].path)
    install.install(lab.machine, path, dry_run=True, progress=lambda *step: seen.append(step))
    assert seen[-1][1] == seen[-1][2]


def test_a_refusal_in_a_dry_run_is_not_even_noted(
    lab: Lab, wrong: BuiltImage, told: list[dict[str, Any]]
) -> None:
    before = lab.snapshot()
    with pytest.raises(WrongArchitecture):
        install.install(lab.machine, str(wrong.path), dry_run=True)
    assert lab.snapshot() == before
    assert told == []


def test_a_dry_run_notices_a_slot_that_is_in_use(lab: Lab, releases: dict[str, BuiltImage]) -> None:
    top = lab.topology
    slots = {"a": top.slots["a"], "b": SlotDevices("b", top.slots["a"].data, top.slots["b"].tree)}
    object.__setattr__(lab.machine, "topology", Topology(top.disk, slots, "a", top.esp, top.efivars))
    with pytest.raises(SlotBooted):
        install.install(lab.machine, str(releases["2.0.0"].path), dry_run=True)


def test_the_caller_may_name_the_slot_that_is_the_target_anyway(
    lab: Lab, releases: dict[str, BuiltImage]
) -> None:
    assert install.install(lab.machine, str(releases["2.0.0"].path), slot="b").slot == "b"


@pytest.mark.parametrize("slot", ["a", "c", "B"])
def test_any_other_slot_is_refused(lab: Lab, releases: dict[str, BuiltImage], slot: str) -> None:
    before = lab.snapshot()
    with pytest.raises(InvalidArgument, match=f"not into '{slot}'"):
        install.install(lab.machine, str(releases["2.0.0"].path), slot=slot)
    assert lab.snapshot() == before


def test_the_work_before_the_first_write_finds_the_machine_untouched_and_the_image_verified(
    armed: Lab, releases: dict[str, BuiltImage]
) -> None:
    before = armed.snapshot()
    versions: list[str] = []
    seen: list[tuple[dict[str, str], list[str]]] = []
    install.install(
        armed.machine,
        str(releases["3.0.0"].path),
        found=versions.append,
        before_write=lambda: seen.append((armed.snapshot(), list(versions))),
    )
    assert seen == [(before, ["3.0.0"])]


@pytest.mark.parametrize("error", [PreUpdateFailed("The backup failed; see its log."), ValueError("defect")])
def test_a_failure_before_the_first_write_leaves_everything_as_it_was(
    armed: Lab, releases: dict[str, BuiltImage], error: Exception
) -> None:
    before = armed.snapshot()

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        install.install(armed.machine, str(releases["3.0.0"].path), before_write=fail)
    assert armed.snapshot() == before
    assert list(armed.machine.cache.iterdir()) == []


def test_an_install_that_is_cancelled_while_others_prepare_changes_nothing(
    armed: Lab, releases: dict[str, BuiltImage]
) -> None:
    before = armed.snapshot()
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        install.install(armed.machine, str(releases["3.0.0"].path), cancel=cancel, before_write=cancel.set)
    assert armed.snapshot() == before


def test_the_journal_tells_of_start_and_success(
    lab: Lab, releases: dict[str, BuiltImage], told: list[dict[str, Any]]
) -> None:
    image = releases["2.0.0"]
    install.install(lab.machine, str(image.path), fields={"job": 7})
    pending = lab.machine.store.load().pending
    assert pending is not None
    assert [entry["message_id"] for entry in told] == [messages.INSTALL_STARTED, messages.UPDATE_INSTALLED]
    for entry in told:
        assert (entry["slot"], entry["version"], entry["roothash"]) == ("b", "2.0.0", image.root_hash)
        assert (entry["digest"], entry["job"]) == (pending.digest, 7)


def test_the_journal_tells_of_a_refusal(lab: Lab, wrong: BuiltImage, told: list[dict[str, Any]]) -> None:
    with pytest.raises(WrongArchitecture) as caught:
        install.install(lab.machine, str(wrong.path))
    (entry,) = told
    assert (entry["message_id"], entry["reason"]) == (messages.INSTALL_REFUSED, str(caught.value))
    assert (entry["version"], entry["roothash"]) == ("3.0.0", wrong.root_hash)
    assert entry["error_name"] == "io.hypernet.Error.WrongArchitecture"


def test_the_journal_tells_of_a_failure(
    lab: Lab,
    releases: dict[str, BuiltImage],
    told: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object) -> None:
        raise AgentError("The ESP is broken.")

    monkeypatch.setattr(type(lab.machine.loader), "stage", fail)
    with pytest.raises(AgentError):
        install.install(lab.machine, str(releases["2.0.0"].path))
    assert [entry["message_id"] for entry in told] == [messages.INSTALL_STARTED, messages.INSTALL_FAILED]
    assert told[-1]["reason"] == "The ESP is broken."


def test_an_image_that_is_only_staged_is_not_approved(lab: Lab, releases: dict[str, BuiltImage]) -> None:
    done = install.install(lab.machine, str(releases["2.0.0"].path), arm=False)
    pending = lab.machine.store.load().pending
    assert done.state is State.STAGED
    assert pending is not None
    assert (pending.tries, pending.approved_usec) == (0, 0)
