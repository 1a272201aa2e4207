# SPDX-License-Identifier: Apache-2.0
"""The directories that the agents share; each is a pathlib.Path."""

from __future__ import annotations

from pathlib import Path

CONFIG = Path("/config/hypernet")
"""The administrator's configuration, on the config partition, the same for both slots."""

ESP = Path("/efi")
"""The mounted EFI system partition."""

RUNTIME = Path("/run/hypernet")
"""State that ends with this boot."""

STATE = Path("/var/lib/hypernet")
"""State that outlives a boot (the agents' StateDirectory=, on the config partition)."""

VENDOR = Path("/usr/lib/hypernet")
"""Programs and defaults of the image."""

SHARE = Path("/usr/share/hypernet")
"""Read-only data of the image."""
