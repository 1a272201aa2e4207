# SPDX-License-Identifier: Apache-2.0
"""Power is lost right before or right after each durable step of an install or a rollback: a slot that
works boots, and a new try succeeds.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from agents.slot_manager import arming, blockio, install, lifecycle, partuuid
from agents.slot_manager.medium import Medium
from agents.slot_manager.record import Store
from agents.slot_manager.state import State
from agents.slot_manager.systemd_boot import SystemdBoot
from common import files, process
from tests.fakes.slot_images import BuiltImage
from tests.fakes.slot_lab import Lab

STEPS: tuple[tuple[object, str, int], ...] = (
    (Store, "save", 1),
    (Store, "save", 2),
    (SystemdBoot, "clear", 1),
    (partuuid, "set_random", 1),
    (Medium, "flush", 1),
    (Medium, "flush", 2),
    (blockio, "flush", 1),
    (SystemdBoot, "stage", 1),
    (partuuid, "set_root_hash", 1),
    (SystemdBoot, "arm", 1),
    (SystemdBoot, "clear_overrides", 1),
    (files, "remove_durable", 1),
    (files, "rename_durable", 1),
    # mdir and mcopy come first, then sfdisk twice for the random and twice for the final identity.
    (process, "run", 3),
    (process, "run", 4),
    (process, "run", 5),
    (process, "run", 6),
)
"""Where a step is done, and which of its calls the power cut hits."""


class PowerCut(BaseException):
    """Nothing may catch this but the test."""


def _cut(target: Callable[..., Any], *, after: bool, occurrence: int) -> Callable[..., Any]:
    seen = 0

    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == occurrence and not after:
            raise PowerCut
        result = target(*args, **kwargs)
        if seen == occurrence and after:
            raise PowerCut
        return result

    return step


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name", "occurrence"), STEPS, ids=[f"{name} {number}" for _, name, number in STEPS]
)
def test_a_power_cut_at_any_step_leaves_the_old_slot_booting(
    lab: Lab,
    images: dict[str, BuiltImage],
    owner: object,
    name: str,
    occurrence: int,
    after: bool,
) -> None:
    running = lab.data("a"), lab.tree("a"), lab.root_hash("a")
    (lab.linux / "hypernet_1.5.0+0-3.efi").write_bytes(images["3.0.0"].uki)  # something to be cleared away
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(install, "_abandon", lambda *args: None)
        patch.setattr(owner, name, _cut(getattr(owner, name), after=after, occurrence=occurrence))
        with pytest.raises(PowerCut):
            install.install(lab.machine, str(images["2.0.0"].path))

    view = lab.machine.view()
    assert (lab.data("a"), lab.tree("a"), lab.root_hash("a")) == running
    assert view.slots["a"].state is State.GOOD
    armed = view.slots["b"].state is State.ARMED
    assert view.slots["b"].default == armed
    assert view.slots["a"].default != armed
    if view.slots["b"].state in (State.STAGED, State.APPROVED, State.ARMED):
        assert lab.data("b").startswith(images["2.0.0"].root)
        assert lab.tree("b").startswith(images["2.0.0"].tree)
    else:
        assert view.slots["b"].state is State.EMPTY

    install.install(lab.machine, str(images["2.0.0"].path))
    assert lab.machine.view().slots["b"].state is State.ARMED
    assert lab.names() == ["hypernet_1.0.0.efi", "hypernet_2.0.0+3.efi"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name", "occurrence"),
    [
        (Store, "save", 1),
        (SystemdBoot, "set_tries", 1),
        (SystemdBoot, "set_tries", 2),
        (SystemdBoot, "clear_overrides", 1),
    ],
    ids=["save", "set_tries 1", "set_tries 2", "clear_overrides"],
)
def test_a_power_cut_at_any_step_of_a_rollback_leaves_a_slot_that_boots(
    both_good: Lab, owner: object, name: str, occurrence: int, after: bool
) -> None:
    record = both_good.machine.store.load()
    record.proven[both_good.root_hash("a")] = 1
    both_good.machine.store.save(record)
    (both_good.linux / "hypernet_1.0.0.efi").rename(both_good.linux / "hypernet_1.0.0+5.efi")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, _cut(getattr(owner, name), after=after, occurrence=occurrence))
        with pytest.raises(PowerCut):
            lifecycle.rollback(both_good.machine, "too slow")

    slots = both_good.machine.view().slots
    assert slots["a"].state is State.GOOD
    assert slots["b" if slots["b"].default else "a"].tries_left != 0

    if slots["a"].default:
        both_good.boot("a", selected=slots["a"].entry.name if slots["a"].entry else "")
    lifecycle.bless(both_good.machine)
    view = both_good.machine.view()
    assert (view.booted.state, view.booted.default) == (State.GOOD, True)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Store, "save"),
        (SystemdBoot, "arm"),
        (SystemdBoot, "disarm"),
        (SystemdBoot, "clear_overrides"),
        (files, "rename_durable"),
        (files, "remove_durable"),
        (files, "write_atomic"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
@pytest.mark.parametrize("verb", ["arm", "disarm"])
def test_a_power_cut_at_any_step_of_arming_or_disarming_leaves_one_or_the_other(
    lab: Lab, images: dict[str, BuiltImage], verb: str, owner: object, name: str, after: bool
) -> None:
    install.install(lab.machine, str(images["2.0.0"].path), arm=verb == "disarm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, _cut(getattr(owner, name), after=after, occurrence=1))
        with suppress(PowerCut):
            getattr(arming, verb)(lab.machine)

    view = lab.machine.view()
    assert view.booted.state is State.GOOD
    assert view.other.state in (State.STAGED, State.APPROVED, State.ARMED)
    assert view.other.default == (view.other.state is State.ARMED)
    assert arming.arm(lab.machine) is State.ARMED
    assert arming.disarm(lab.machine) is State.STAGED
