# SPDX-License-Identifier: Apache-2.0
"""MESSAGE_IDs of slot-manager's journal entries; texts for people are in units/catalog (journalctl -x)."""

from __future__ import annotations

from typing import Final

INSTALL_STARTED: Final = "277266199d95489a814f9634487976ce"
UPDATE_INSTALLED: Final = "e30345ad16224652993bb12eff7d3a3d"
INSTALL_FAILED: Final = "1fcf268673dc4683abab7ad7bb277995"
UPDATE_SUCCEEDED: Final = "fe67318c3130488bb8bfe6e31255ad29"
TRIAL_FAILED: Final = "9075299a97064de3acd75dd566791239"
SLOT_MARKED: Final = "f0025ff92be54ebf9188bb9a02e77954"
ROLLED_BACK: Final = "220e443d18794f5685ca43ab696cf6f9"
UNCOUNTED_BOOT: Final = "8a7feb24010e4ccba4f0faef0a38cc24"
