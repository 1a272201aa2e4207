# SPDX-License-Identifier: Apache-2.0
"""Built-in check ``configuration``: what lies in /config/hypernet can be read by this image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agents.boot_health.builtins.outcome import Outcome, Probe
from common import config, files, paths
from common.errors import AgentError, ConfigError

SCHEMA: Final = paths.CONFIG.parent / "version"
IMAGE_SCHEMA: Final = paths.SHARE / "config/version"
_MAX_FILES: Final = 500
_MAX_FINDINGS: Final = 10
_MAX_NUMBER_BYTES: Final = 64


def build(_section: config.Section) -> Probe:
    """Return the check, which has no options."""

    def probe(_limit_sec: float) -> Outcome:
        return judge(paths.CONFIG, SCHEMA, IMAGE_SCHEMA)

    return probe


def judge(folder: Path, schema: Path, image_schema: Path) -> Outcome:
    """folder: where all YAML files are read. schema, image_schema: files with the number of the schema that
    the configuration has, and that the image knows; either may be missing.
    """
    findings: list[str] = []
    found = list(_yaml_files(folder))
    if len(found) > _MAX_FILES:
        return Outcome(False, f"{folder} has more than {_MAX_FILES} YAML files; remove what is not needed.")
    for path in found:
        try:
            config.load(path)
        except ConfigError as error:
            findings.append(str(error))
    try:
        findings += _compare(_number(schema), _number(image_schema), schema)
    except AgentError as error:
        findings.append(str(error))
    if not findings:
        return Outcome(True, f"All {len(found)} YAML files in {folder} can be read.")
    more = len(findings) - _MAX_FINDINGS
    return Outcome(False, "\n".join(findings[:_MAX_FINDINGS] + ([f"{more} more."] if more > 0 else [])))


def _compare(has: int | None, knows: int | None, where: Path) -> list[str]:
    if has is None or knows is None or has <= knows:
        return []
    return [f"{where}: the configuration has schema {has}, this image knows schemas up to {knows}."]


def _number(path: Path) -> int | None:
    try:
        data = files.read_bounded(path, _MAX_NUMBER_BYTES).strip()
    except files.FileMissing:
        return None
    if not data.isdigit() or int(data) < 1:
        raise ConfigError(f"{path}:1: must be the number of a schema, such as 1.")
    return int(data)


def _yaml_files(folder: Path) -> Iterator[Path]:
    # Hidden ones are copies of editors and of whoever is writing at this moment.
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith((".yaml", ".yml")) and not name.startswith("."):
                yield Path(parent, name)
