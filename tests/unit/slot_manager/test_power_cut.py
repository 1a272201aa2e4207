# SPDX-License-Identifier: Apache-2.0
"""Power is lost at any moment of an install: each write to the disk is recorded, and every disk that could
be left after one of them is judged.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents.slot_manager import arming, install, partuuid
from agents.slot_manager.install import Stage
from agents.slot_manager.machine import Machine
from agents.slot_manager.state import State
from agents.slot_manager.systemd_boot import SystemdBoot
from common.errors import Cancelled
from tests.fakes import web_server
from tests.fakes.cut_judge import Judge
from tests.fakes.cuts import Cut, Recording
from tests.fakes.faulty_machine import make_full
from tests.fakes.power_cut import record
from tests.fakes.slot_images import BuiltImage, Key
from tests.fakes.slot_lab import Lab

SEED = 1
VARIANTS = 6
NEW = "3.0.0"

Work = Callable[[Machine], object]


@pytest.fixture
def full(tmp_path: Path, images: dict[str, BuiltImage], key: Key) -> Lab:
    """2.0.0 runs in slot a and is good; slot b, which holds the good 1.0.0, is the target."""
    return make_full(tmp_path / "lab", images["2.0.0"], images["1.0.0"], key)


@pytest.fixture(params=["image", "release", "server"])
def source(
    request: pytest.FixtureRequest,
    full: Lab,
    images: dict[str, BuiltImage],
    releases: dict[str, BuiltImage],
) -> Iterator[str]:
    """3.0.0 as an image with its signature, as a release with its manifest, and on a server."""
    if request.param != "server":
        yield str((images if request.param == "image" else releases)[NEW].path)
        return
    web = web_server.WebServer(folder=releases[NEW].path.parent)
    stop = web_server.start(web)
    full.configure(f'hosts: ["{web.host}"]\n')
    yield web.url_of(releases[NEW].path.name)
    stop()


def _installing(source: str) -> Work:
    return lambda machine: install.install(machine, source)


def _survey(recording: Recording, judge: Judge, *, least: int) -> Counter[State]:
    """Judge all cuts; returns how often the target was in each state."""
    states: Counter[State] = Counter()
    for cut in recording.cuts(SEED, VARIANTS):
        try:
            states[judge.judge(cut).other] += 1
        except AssertionError as error:
            event = recording.events[cut.after - 1]
            where = f"after {event.kind} of {event.path} at {event.offset} (cut {cut.name})"
            raise AssertionError(f"{where}: {error}") from error
    assert states.total() >= least
    return states


def test_no_power_cut_during_an_install_leaves_a_machine_without_a_whole_system_to_boot(
    full: Lab, images: dict[str, BuiltImage], source: str, tmp_path: Path
) -> None:
    recording = record(full.machine, tmp_path / "machine", _installing(source))

    judge = Judge(tmp_path / "judge", recording, tuple(images.values()))
    states = _survey(recording, judge, least=2000)

    assert {State.GOOD, State.EMPTY, State.ARMED} <= states.keys()
    assert recording.strays("b", "config", "table") == []


def test_no_power_cut_while_the_running_slot_gives_way_to_an_older_one_costs_it(
    images: dict[str, BuiltImage], key: Key, tmp_path: Path
) -> None:
    lab = make_full(tmp_path / "lab", images[NEW], images["1.0.0"], key)

    def work(machine: Machine) -> None:
        install.install(machine, str(images["2.0.0"].path), allow_downgrade=True)

    recording = record(lab.machine, tmp_path / "machine", work)

    judge = Judge(tmp_path / "judge", recording, tuple(images.values()))
    states = _survey(recording, judge, least=2000)
    assert {State.GOOD, State.EMPTY, State.ARMED} <= states.keys()


def test_no_power_cut_while_a_staged_slot_is_armed_costs_either(
    full: Lab, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    install.install(full.machine, str(images[NEW].path), arm=False)

    recording = record(full.machine, tmp_path / "machine", arming.arm)

    judge = Judge(tmp_path / "judge", recording, tuple(images.values()))
    states = _survey(recording, judge, least=100)
    assert states.keys() == {State.STAGED, State.APPROVED, State.ARMED}


def test_no_power_cut_while_an_install_is_cancelled_leaves_less(
    full: Lab, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    def work(machine: Machine) -> None:
        cancel = threading.Event()

        def progress(stage: Stage, done: int, total: int) -> None:
            if stage is Stage.WRITE and done > total // 2:
                cancel.set()

        with pytest.raises(Cancelled):
            install.install(machine, str(images[NEW].path), cancel=cancel, progress=progress)

    recording = record(full.machine, tmp_path / "machine", work)

    judge = Judge(tmp_path / "judge", recording, tuple(images.values()))
    states = _survey(recording, judge, least=800)

    assert states.keys() == {State.GOOD, State.EMPTY}
    assert recording.strays("b", "config", "table") == []


def _again(judge: Judge, cut: Cut, image: BuiltImage, source: str) -> None:
    """The next install succeeds, and what is there already is not written once more."""
    machine = judge.machine(cut)
    begun = machine.view().record.begun

    done = install.install(machine, source)

    view = machine.view()
    assert (view.other.state, view.other.version, view.other.default) == (State.ARMED, NEW, True)
    assert (view.booted.state, view.record.begun) == (State.GOOD, None)
    devices = machine.topology.slots["b"]
    assert devices.data.read_bytes().startswith(image.root)
    assert devices.tree.read_bytes().startswith(image.tree)
    assert done.statistics is not None
    if begun is not None:
        assert done.statistics.skipped >= judge.held_bytes(cut, "b", image)


def test_an_install_after_a_power_cut_succeeds_and_goes_on_where_the_first_one_was(
    full: Lab, images: dict[str, BuiltImage], source: str, tmp_path: Path
) -> None:
    recording = record(full.machine, tmp_path / "machine", _installing(source))
    judge = Judge(tmp_path / "judge", recording, tuple(images.values()))

    resumed = []
    for number, cut in enumerate(recording.cuts(SEED, VARIANTS)):
        if number % 97 == 0 and judge.judge(cut).other is not State.ARMED:
            _again(judge, cut, images[NEW], source)
            resumed.append(judge.held_bytes(cut, "b", images[NEW]))

    assert len(resumed) >= 15
    assert len(set(resumed)) >= 5
    assert max(resumed) > 1_000_000


def test_a_second_power_cut_does_not_cost_the_partition_table_that_the_first_one_left(
    full: Lab, images: dict[str, BuiltImage], tmp_path: Path
) -> None:
    """The first one tore the table at the start of the disk, so the one at its end is all there is."""
    work = _installing(str(images[NEW].path))
    first = record(full.machine, tmp_path / "first", work)
    judge = Judge(tmp_path / "judge", first, tuple(images.values()))
    torn = next(cut for cut in first.cuts(SEED, VARIANTS) if judge.judge(cut).from_backup)

    second = record(judge.machine(torn), tmp_path / "second", work, table=torn.read("table"))

    again = Judge(tmp_path / "again", second, tuple(images.values()))
    _survey(second, again, least=1500)


@pytest.mark.parametrize(
    ("owner", "name"), [(SystemdBoot, "clear"), (partuuid, "set_random")], ids=["clear", "set_random"]
)
def test_the_judge_sees_an_install_that_leaves_out_a_step(
    full: Lab,
    images: dict[str, BuiltImage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
) -> None:
    monkeypatch.setattr(owner, name, lambda *args: None)
    recording = record(full.machine, tmp_path / "machine", _installing(str(images[NEW].path)))

    judge = Judge(tmp_path / "judge", recording, tuple(images.values()))
    with pytest.raises(AssertionError, match=r"without its content|in no slot"):
        _survey(recording, judge, least=0)
