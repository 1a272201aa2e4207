# SPDX-License-Identifier: Apache-2.0
"""What the manual page gives as an example of alerts.yaml is accepted."""

from __future__ import annotations

from pathlib import Path

from agents.alerter import config
from tests.unit.manual import examples


def test_the_example_of_the_manual_page_is_accepted(tmp_path: Path) -> None:
    (text,) = examples("alerts.yaml.5", "alerts.yaml")
    path = tmp_path / "alerts.yaml"
    path.write_text(text, encoding="utf-8")

    assert len(config.load(path).destinations) == 2
