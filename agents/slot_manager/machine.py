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

from agents.slot_manager import policy, state, topology
from agents.slot_manager import settings as updates
from agents.slot_manager.loader import REARM_TRIES, UNCOUNTED, BootLoader, Entry, Facts
from agents.slot_manager.record import Record, Store, Transition
from agents.slot_manager.systemd_boot import SystemdBoot
from common import files, paths
from common.errors import AgentError, Busy

LOCK_POLL_SEC = 0.5

_USEC = 1_000_000


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
    """The parts that the engine works on.

    trusted_keys: the machine's key set; vendor_keys: the one of the running image. cache: folder for spool
    files. config: folder of updates.yaml; the schema version stands beside it. built: a file that is as old
    as the running image.
    """

    topology: topology.Topology
    loader: BootLoader
    store: Store
    trusted_keys: Path
    cache: Path
    vendor_keys: Path = paths.SHARE / "trusted-keys"
    config: Path = paths.CONFIG
    built: Path = Path("/usr/lib/os-release")

    @property
    def settings(self) -> updates.Settings:
        """What updates.yaml says now; read when needed, so that a mistake in it stops installs and nothing
        else. Raises ConfigError.
        """
        return updates.load(self.config)

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

    def local(self, view: View) -> policy.Local:
        """What the rules for releases compare with. Raises ConfigError."""
        return policy.Local(
            channel=self.settings.channel,
            running_version=view.booted.version,
            running_root_hash=view.booted.root_hash,
            config_schema=self._config_schema(),
        )

    def now_sec(self, record: Record) -> int:
        """Seconds since 1970: what the clock says, but never earlier than what is known to have passed."""
        known_usec = max(record.known_usec, record.floor.signed_usec)
        return max(self.store.clock(), known_usec, self.built_usec()) // _USEC

    def _config_schema(self) -> int:
        """Schema of the configuration of this machine; 0 if that is not known."""
        try:
            return int(files.read_bounded(self.config.parent / "version", 64))
        except (files.FileError, ValueError):
            return 0

    def built_usec(self) -> int:
        """When the running image was built, in microseconds since 1970; 0 if that is not known."""
        try:
            return self.built.stat().st_mtime_ns // 1000
        except OSError:
            return 0

    def keep_running_slot(self, view: View) -> None:
        """Make sure that the running slot can be booted again and again; call it before the other one is
        lost or begins a trial.

        Of two entries without tries the loader takes the newer one, for ever, even if it was never good.
        """
        entry = view.booted.entry
        if entry is not None and entry.tries_left != UNCOUNTED:
            self.loader.set_tries(entry, UNCOUNTED if view.booted.state is state.State.GOOD else REARM_TRIES)

    def give_way(self) -> View:
        """Let an armed slot be tried even if it is older than the running one; returns the view after it.

        Of two entries with tries the loader takes the newer one, so the running one has to step aside.
        """
        view = self.view()
        entry = view.booted.entry
        if (
            entry is not None
            and (view.booted.state, view.other.state) == (state.State.GOOD, state.State.ARMED)
            and view.booted.default
        ):
            self.loader.set_tries(entry, 0)
            view = self.view()
        return view

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
