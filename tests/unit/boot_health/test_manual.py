# SPDX-License-Identifier: Apache-2.0
"""What the manual pages give as examples of health.yaml is accepted beside the checks of the image."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.boot_health.config import load
from tests.unit.manual import examples

IMAGE_CHECKS = Path(__file__).parents[3] / "units/health.d"


@pytest.mark.parametrize(("page", "checks"), [("health.yaml.5", 4), ("hypernet-boot.7", 1)])
def test_the_example_of_a_manual_page_is_accepted(page: str, checks: int, tmp_path: Path) -> None:
    (text,) = examples(page, "health.yaml")
    admin_file = tmp_path / "health.yaml"
    admin_file.write_text(text, encoding="utf-8")

    config = load(admin_file, IMAGE_CHECKS)

    assert config.errors == ()
    assert len([check for check in config.checks if check.where.startswith(str(admin_file))]) == checks


def test_health_yaml_names_every_check_of_the_image_and_whether_it_is_required(tmp_path: Path) -> None:
    config = load(tmp_path / "missing", IMAGE_CHECKS)

    required = {check.name for check in config.checks if check.required}
    assert required == {"slot-manager", "mounts"}
    assert {check.name for check in config.checks} - required == {"mounts-nofail", "units"}
