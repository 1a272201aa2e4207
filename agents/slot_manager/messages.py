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
INSTALL_REFUSED: Final = "d76997a149754e0aa15ca0b380e5115a"
POST_UPDATE_FAILED: Final = "f97215c2884e44f8af9c7bae479e6d8d"
SLOT_APPROVED: Final = "96dbd04e330e445f9e2d3c2021425a4e"
SLOT_ARMED: Final = "62bad70d25f44769ba5b0dba544546de"
SLOT_DISARMED: Final = "01dae73d070040bb8c9eb52024f4fcc2"
DENIAL_CLEARED: Final = "5a525ebb078b41628936f050ae7e1e59"
TRY_GIVEN_BACK: Final = "275ff3f4e8c24bc292879c87124331ac"
TRY_KEPT: Final = "ae0b49425f0b43969d5a7b92149f6d05"
