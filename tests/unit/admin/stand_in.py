# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for slot-manager and boot-health on a private bus: `python stand_in.py slots|health SCRIPT`.

SCRIPT is a JSON file: "slots" and "health" are property values, "refuse" maps a method to an error's name
and sentence, "job" is the list of property changes that an install goes through, "stage_sec" apart, "after"
maps a method to slot property values that hold once it was called, "verdicts" are the property changes of
boot health that follow the first question, "result" is that of a check. Each method call is appended to a
file beside it, with the suffix .calls, as one line of JSON.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from common import bus
from common.errors import AgentError

SLOT_MANAGER = "io.hypernet.SlotManager1"
BOOT_HEALTH = "io.hypernet.BootHealth1"
JOB = "/io/hypernet/SlotManager1/job/1"


class Script:
    def __init__(self, path: Path) -> None:
        self.values: dict[str, Any] = json.loads(path.read_text())
        self._calls = path.with_suffix(".calls")

    def called(self, member: str, *arguments: Any) -> None:
        with self._calls.open("a") as file:
            print(json.dumps([member, *arguments]), file=file)
        if refusal := self.values.get("refuse", {}).get(member):
            error = AgentError(refusal[1])
            error.dbus_name = f"io.hypernet.Error.{refusal[0]}"
            raise error
        self.values["slots"] |= self.values.get("after", {}).get(member, {})


class Job(bus.Interface):
    INTERFACE = f"{SLOT_MANAGER}.Job"

    def __init__(self, script: Script) -> None:
        super().__init__()
        self._script = script
        self._now: dict[str, Any] = {}
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        for stage in self._script.values["job"]:
            self._now = stage
            self.changed(*stage)
            await asyncio.sleep(self._script.values.get("stage_sec", 0.0))

    @bus.prop("Stage", "s")
    def stage(self) -> str:
        return str(self._now.get("Stage", "check"))

    @bus.prop("Slot", "s")
    def slot(self) -> str:
        return "b"

    @bus.prop("Version", "s")
    def version(self) -> str:
        return "0.2.0"

    @bus.prop("Progress", "d")
    def progress(self) -> float:
        return float(self._now.get("Progress", 0.0))

    @bus.prop("BytesTotal", "t")
    def bytes_total(self) -> int:
        return 3 << 20

    @bus.prop("BytesFetched", "t")
    def bytes_fetched(self) -> int:
        return int(self._now.get("BytesFetched", 0))

    @bus.prop("Rate", "t")
    def rate(self) -> int:
        return int(self._now.get("Rate", 0))

    @bus.prop("Remaining", "t")
    def remaining(self) -> int:
        return int(self._now.get("Remaining", (1 << 64) - 1))

    @bus.prop("Result", "s")
    def result(self) -> str:
        return str(self._now.get("Result", ""))

    @bus.prop("ErrorName", "s")
    def error_name(self) -> str:
        return str(self._now.get("ErrorName", ""))

    @bus.prop("ErrorMessage", "s")
    def error_message(self) -> str:
        return str(self._now.get("ErrorMessage", ""))

    @bus.method("Cancel", "", "")
    def cancel(self) -> None:
        self._script.called("Cancel")
        self._now = {"Result": "cancelled"}
        self.changed(*self._now)


class SlotManager(bus.Interface):
    INTERFACE = SLOT_MANAGER

    def __init__(self, script: Script, service: bus.Service) -> None:
        super().__init__()
        self._script = script
        self._service = service
        self._slots = script.values["slots"]

    @bus.prop("Slots", "aa{sv}")
    def slots(self) -> list[dict[str, Any]]:
        return list(self._slots["Slots"])

    @bus.prop("BootedSlot", "s")
    def booted_slot(self) -> str:
        return str(self._slots["BootedSlot"])

    @bus.prop("DefaultSlot", "s")
    def default_slot(self) -> str:
        return str(self._slots["DefaultSlot"])

    @bus.prop("LastRollback", "a{sv}")
    def last_rollback(self) -> dict[str, Any]:
        return dict(self._slots.get("LastRollback", {}))

    @bus.prop("LastGood", "a{sv}")
    def last_good(self) -> dict[str, Any]:
        return dict(self._slots.get("LastGood", {}))

    @bus.prop("Floor", "a{sv}")
    def floor(self) -> dict[str, Any]:
        return dict(self._slots.get("Floor", {}))

    @bus.prop("Releases", "aa{sv}")
    def releases(self) -> list[dict[str, Any]]:
        return list(self._slots.get("Releases", []))

    @bus.prop("Denied", "aa{sv}")
    def denied(self) -> list[dict[str, Any]]:
        return list(self._slots.get("Denied", []))

    @bus.prop("Transitions", "aa{sv}")
    def transitions(self) -> list[dict[str, Any]]:
        return list(self._slots.get("Transitions", []))

    @bus.method("InstallFile", "hhha{sv}", "o")
    def install_file(self, image: int, manifest: int, signature: int, options: dict[str, Any]) -> str:
        texts = [os.pread(fd, 100, 0).decode() for fd in (image, manifest, signature)]
        self._script.called("InstallFile", *texts, options)
        self._service.export(JOB, Job(self._script))
        return JOB

    @bus.method("Install", "sa{sv}", "o")
    def install(self, source: str, options: dict[str, Any]) -> str:
        self._script.called("Install", source, options)
        self._service.export(JOB, Job(self._script))
        return JOB

    @bus.method("Approve", "", "")
    def approve(self) -> None:
        self._script.called("Approve")

    @bus.method("Arm", "a{sv}", "")
    def arm(self, options: dict[str, Any]) -> None:
        self._script.called("Arm", options)

    @bus.method("Disarm", "", "")
    def disarm(self) -> None:
        self._script.called("Disarm")

    @bus.method("ClearDenied", "s", "u")
    def clear_denied(self, version: str) -> int:
        self._script.called("ClearDenied", version)
        return 2 if version == "all" else 1

    @bus.method("Rollback", "a{sv}", "s")
    def rollback(self, options: dict[str, Any]) -> str:
        self._script.called("Rollback", options)
        return "b"

    @bus.method("MarkGood", "s", "")
    def mark_good(self, slot: str) -> None:
        self._script.called("MarkGood", slot)

    @bus.method("MarkBad", "ss", "")
    def mark_bad(self, slot: str, reason: str) -> None:
        self._script.called("MarkBad", slot, reason)


class BootHealth(bus.Interface):
    INTERFACE = BOOT_HEALTH

    def __init__(self, script: Script) -> None:
        super().__init__()
        self._script = script
        self._health = script.values["health"]
        self._task: asyncio.Task[None] | None = None

    @bus.prop("State", "s")
    def state(self) -> str:
        return str(self._health["State"])

    @bus.prop("Reason", "s")
    def reason(self) -> str:
        return str(self._health["Reason"])

    @bus.prop("Checks", "aa{sv}")
    def checks(self) -> list[dict[str, Any]]:
        # Whoever has asked is told of what comes next.
        if self._task is None and "verdicts" in self._script.values:
            self._task = asyncio.get_running_loop().create_task(self._change())
        return list(self._health["Checks"])

    @bus.prop("ConsecutiveFailures", "u")
    def consecutive_failures(self) -> int:
        return int(self._health.get("ConsecutiveFailures", 0))

    async def _change(self) -> None:
        for verdict in self._script.values["verdicts"]:
            await asyncio.sleep(0.1)
            self._health |= verdict
            self.changed(*verdict)

    @bus.method("Run", "s", "a{sv}")
    def run(self, name: str) -> dict[str, Any]:
        self._script.called("Run", name)
        return dict(self._script.values["result"])


async def main(which: str, script: Script) -> int:
    def slots(service: bus.Service) -> None:
        service.export("/io/hypernet/SlotManager1", SlotManager(script, service))

    def health(service: bus.Service) -> None:
        service.export("/io/hypernet/BootHealth1", BootHealth(script))

    if which == "slots":
        return await bus.serve(SLOT_MANAGER, slots, idle_exit_sec=None, descriptors=True)
    return await bus.serve(BOOT_HEALTH, health, idle_exit_sec=None)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], Script(Path(sys.argv[2])))))
