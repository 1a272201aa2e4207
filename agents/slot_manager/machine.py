# SPDX-License-Identifier: Apache-2.0
"""One machine: its disk, its boot loader and its record, seen together, and the lock for changing them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agents.slot_manager import state, topology
from agents.slot_manager.loader import REARM_TRIES, UNCOUNTED, BootLoader, Entry, Facts
from agents.slot_manager.record import Record, Store, Transition
from agents.slot_manager.systemd_boot import SystemdBoot
from common import paths
from common.errors import AgentError, Busy

LOCK_POLL_SEC = 0.5


@dataclass(frozen=True, slots=True)
class View:
    """Everything about both slots at one moment."""

    slots: Mapping[str, state.Slot]
    partitions: Mapping[str, topology.SlotPartitions]
    entries: tuple[Entry, ...]
    record: Record
    facts: Facts
    booted: state.Slot
    other: state.Slot


@dataclass(frozen=True, slots=True)
class Machine:
    """The parts that the engine works on; `cache` is the folder for spool files."""

    topology: topology.Topology
    loader: BootLoader
    store: Store
    trusted_keys: Path
    cache: Path

    def view(self, *, installing: str = "") -> View:
        """Both slots as they are now. Raises TopologyError, LoaderError."""
        partitions = self.topology.partitions()
        entries = self.loader.entries()
        record = self.store.load()
        facts = self.loader.facts()
        slots = state.derive(
            {name: parts.root_hash for name, parts in partitions.items()},
            entries,
            record,
            facts,
            booted=self.topology.booted,
            installing=installing,
        )
        booted, other = slots[self.topology.booted], slots[self.topology.other]
        return View(slots, partitions, entries, record, facts, booted, other)

    def keep_running_slot(self, view: View) -> None:
        """Make sure that the running slot can be booted again and again; call it before the other one is
        lost or begins a trial.

        Of two entries without tries the loader takes the newer one, for ever, even if it was never good.
        """
        entry = view.booted.entry
        if entry is not None and entry.tries_left != UNCOUNTED:
            self.loader.set_tries(entry, UNCOUNTED if view.booted.state is state.State.GOOD else REARM_TRIES)

    def transition(
        self, record: Record, slot: str, version: str, root_hash: str, new: str, reason: str
    ) -> Record:
        """`record` with one more transition, at this moment."""
        return record.with_transition(
            Transition(self.store.clock(), slot, version, root_hash, new, reason[:1000])
        )

    @contextmanager
    def lock(self, *, wait_sec: float = 0.0) -> Iterator[None]:
        """The right to change slots, for one process at a time. Raises Busy after `wait_sec`."""
        path = self.store.folder / "lock"
        try:
            os.makedirs(self.store.folder, mode=0o700, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise AgentError(f"{path} cannot be opened: {error.strerror}.") from error
        try:
            deadline = time.monotonic() + wait_sec
            while not _try_lock(fd):
                if time.monotonic() >= deadline:
                    raise Busy("Another installation or change of slots is running; wait for its end.")
                time.sleep(LOCK_POLL_SEC)
            yield
        finally:
            os.close(fd)


def this_machine() -> Machine:
    """The machine that runs this program; folders come from systemd's environment. Raises TopologyError."""
    found = topology.discover()
    return Machine(
        topology=found,
        loader=SystemdBoot(found.esp, found.efivars),
        store=Store(_folder("STATE_DIRECTORY", paths.STATE / "slot-manager")),
        trusted_keys=paths.CONFIG / "trusted-keys",
        cache=_folder("CACHE_DIRECTORY", Path("/var/cache/hypernet/slot-manager")),
    )


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable, "").partition(":")[0] or default)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
