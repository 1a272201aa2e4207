# SPDX-License-Identifier: Apache-2.0
"""What systemd thinks of our units, and what they say about each other."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from common import process

from .conftest import ROOT, SYSTEM_UNITS, UNITS, VENDOR, drop_ins, services, settings, unit_files, values

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")

MAN = ROOT / "packaging/man"
DEPENDENCIES = {
    *("Requires", "Requisite", "Wants", "BindsTo", "PartOf", "Upholds", "Conflicts", "After", "Before"),
    *("OnFailure", "OnSuccess", "WantedBy", "RequiredBy", "Also", "Service", "Unit"),
}
OUR_FILES = [*unit_files(), *drop_ins()]


def name(path: Path) -> str:
    return str(path.relative_to(UNITS))


def verify(path: Path) -> process.Completed:
    # A trailing colon appends systemd's own directories. --recursive-errors=no makes unknown keys and bad
    # values of this file an error; without it they are only warnings.
    return process.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", str(path)],
        timeout_sec=60,
        env={"SYSTEMD_UNIT_PATH": f"{path.parent}:"},
        success=None,
    )


@pytest.mark.parametrize("path", unit_files(), ids=name)
def test_systemd_finds_no_fault_in_a_unit(path: Path, staged: Path) -> None:
    done = verify(staged / path.name)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", drop_ins(), ids=name)
def test_systemd_finds_no_fault_in_a_unit_with_our_drop_in(path: Path, staged: Path) -> None:
    done = verify(staged / path.parent.stem)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_fault_in_a_drop_in_would_be_found(staged: Path, tmp_path: Path) -> None:
    shutil.copytree(staged, tmp_path / "system")
    drop_in = tmp_path / "system/boot-complete.target.d/10-hypernet.conf"
    drop_in.write_text("[Unit]\nOnFailur=hypernet-boot-failed.service\n", encoding="utf-8")
    assert verify(tmp_path / "system/boot-complete.target").returncode == 1


@pytest.mark.parametrize("path", services(), ids=name)
def test_a_service_is_sandboxed(path: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(path)]
    done = process.run(command, timeout_sec=60, success=None)
    assert done.returncode == 0, done.stdout.decode().splitlines()[-1]


@pytest.mark.parametrize("path", OUR_FILES, ids=name)
def test_the_documentation_of_a_unit_is_a_manual_page_of_ours_that_exists(path: Path) -> None:
    pages = values(path, "Documentation")
    assert pages
    for page in pages:
        match = re.fullmatch(r"man:([a-z0-9.-]+)\(([1-8])\)", page)
        assert match, page
        assert (MAN / f"{match[1]}.{match[2]}").is_file(), page


@pytest.mark.parametrize("path", OUR_FILES, ids=name)
def test_every_unit_that_a_unit_names_exists(path: Path) -> None:
    for _, key, value in settings(path):
        for other in value.split() if key in DEPENDENCIES else ():
            known = (UNITS / other).exists() or (SYSTEM_UNITS / other).exists() or "@" in other
            # The package systemd-boot brings this one; boot images have it, build machines may not.
            assert known or other.startswith("systemd-bless-boot"), f"{key}={other}"


@pytest.mark.parametrize("path", services(), ids=name)
def test_every_file_of_ours_that_a_service_runs_exists(path: Path) -> None:
    for _, key, value in settings(path):
        for word in value.split() if key.startswith("Exec") else ():
            target = word.lstrip("-@:+!")
            if not target.startswith(VENDOR):
                continue
            file = target.removeprefix(VENDOR)
            agent = ROOT / "agents" / file.replace("-", "_") / "__main__.py"
            assert (ROOT / file).is_file() or agent.is_file(), target


@pytest.mark.parametrize("path", services(), ids=name)
def test_a_service_has_a_limit_for_its_start(path: Path) -> None:
    if values(path, "Type") == ["oneshot"]:
        assert values(path, "TimeoutStartSec")


@pytest.mark.parametrize("path", OUR_FILES, ids=name)
def test_a_unit_uses_nothing_that_systemd_252_does_not_know(path: Path) -> None:
    newer = {"ImportCredential", "RestartMode", "RestartSteps", "RestartMaxDelaySec", "MemoryPressureWatch"}
    assert not newer & {key for _, key, _ in settings(path)}
    assert "notify-reload" not in values(path, "Type")


def test_every_unit_that_can_be_enabled_is_in_the_preset_and_back() -> None:
    decided = set()
    for path in (UNITS / "presets").glob("*.preset"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(("enable hypernet", "disable hypernet")):
                decided.add(line.split()[1])
    installable = {
        path.name for path in unit_files() if any(item[0] == "Install" for item in settings(path))
    }
    assert decided == installable


def test_the_interface_for_programs_written_for_rauc_is_off_until_somebody_enables_it() -> None:
    unit = UNITS / "hypernet-rauc.service"
    assert values(unit, "Alias") == ["dbus-de.pengutronix.rauc.service"]
    assert not {"WantedBy", "RequiredBy"} & {key for _, key, _ in settings(unit)}
    assert "disable hypernet-rauc.service" in (UNITS / "presets/90-hypernet.preset").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("path", sorted((UNITS / "system.conf.d").glob("*.conf")), ids=name)
def test_systemd_knows_the_settings_of_its_manager(path: Path) -> None:
    program = Path("/lib/systemd/systemd").read_bytes()
    for section, key, value in settings(path):
        assert section == "Manager"
        assert key.encode() in program
        process.run(["systemd-analyze", "timespan", value], timeout_sec=30)


@pytest.mark.parametrize("kind", ["tmpfiles", "sysusers"])
def test_systemd_accepts_the_files_that_create_directories_and_users(kind: str, tmp_path: Path) -> None:
    for path in (UNITS / kind).glob("*.conf"):
        create = ["--create"] if kind == "tmpfiles" else []
        done = process.run([f"systemd-{kind}", f"--root={tmp_path}", *create, str(path)], timeout_sec=60)
        assert done.stderr == ""


def test_the_folder_of_the_machines_keys_is_made_and_its_content_left_alone(tmp_path: Path) -> None:
    command = ["systemd-tmpfiles", f"--root={tmp_path}", "--create", str(UNITS / "tmpfiles/hypernet.conf")]
    process.run(command, timeout_sec=60)
    listing = tmp_path / "config/hypernet/trusted-keys/fingerprints.yaml"
    listing.write_text("fingerprints: [mine]\n", encoding="utf-8")
    process.run(command, timeout_sec=60)
    assert listing.read_text(encoding="utf-8") == "fingerprints: [mine]\n"


def test_only_what_blesses_a_system_may_take_over_its_trusted_keys() -> None:
    keys = "-/config/hypernet/trusted-keys"
    writers = {path.name for path in services() if keys in " ".join(values(path, "ReadWritePaths")).split()}
    assert writers == {"hypernet-bless.service"}


def test_what_runs_in_emergency_mode_pulls_in_no_mount() -> None:
    for unit in ("hypernet-emergency.service", "hypernet-boot-failed.service"):
        keys = {key for _, key, _ in settings(UNITS / unit)}
        assert not keys & {
            "PrivateTmp",
            "RequiresMountsFor",
            "StateDirectory",
            "CacheDirectory",
            "LogsDirectory",
        }
        assert values(UNITS / unit, "DefaultDependencies") == ["no"]


def test_the_deadlines_of_a_boot_lie_one_behind_the_other() -> None:
    from agents.boot_health.config import DEFAULT_DEADLINE_SEC, MAX_DEADLINE_SEC
    from common.duration import parse_sec

    (start,) = values(UNITS / "hypernet-boot-health.service", "TimeoutStartSec")
    (backstop,) = values(UNITS / "boot-complete.target.d/10-hypernet.conf", "JobTimeoutSec")
    limits = [DEFAULT_DEADLINE_SEC, MAX_DEADLINE_SEC, parse_sec(start), parse_sec(backstop)]
    assert limits == sorted(set(limits))


@pytest.mark.parametrize("when", ["pre", "post"])
def test_the_targets_of_an_update_start_everything_again_each_time_and_have_an_end(when: str) -> None:
    keys = {key: value for _, key, value in settings(UNITS / f"hypernet-{when}-update.target")}
    assert keys["StopWhenUnneeded"] == "yes"
    assert "JobTimeoutSec" in keys
    assert "RefuseManualStart" not in keys
