# SPDX-License-Identifier: Apache-2.0
"""Message ids of boot-health's journal entries; units/catalog/hypernet-boot-health.catalog explains each."""

from __future__ import annotations

from typing import Final

CHECK_FAILED: Final = "86aa7e90c8d04d36a5f161639d617a0c"
"""A health check did not pass. Fields: CHECK, REQUIRED, RESULT, ATTEMPTS, OUTPUT."""

VERDICT_HEALTHY: Final = "73bf63d901b94b47bb7cb0733a6c724e"
"""Every check passed. Fields: TRIAL, CHECKS."""

VERDICT_DEGRADED: Final = "0d9e9f77899a41f4a0e8859da63a00e5"
"""The boot goes on without full health. Fields: TRIAL, REASON."""

VERDICT_FAILED: Final = "cb059cd8994c4f8d9c9adfce6c814687"
"""A required check failed in a trial. Fields: TRIAL, REASON."""

DECISION_STAY: Final = "feb1a846674745c4b8ebb1ee4164509a"
"""A boot without a good verdict stays as it is. Fields: REASON, BECAUSE."""

DECISION_REBOOT: Final = "1cbda3c83c124d51887e62311f932c2f"
"""A boot without a good verdict is tried again; its tries are counted by the boot loader. Fields: REASON,
BECAUSE.
"""

DECISION_ROLLBACK: Final = "493ff3d5c165472fac6ad1fc8fefc967"
"""A boot without a good verdict marks its slot bad and reboots to the other one. Fields: REASON, BECAUSE."""

DECISION_GIVE_UP: Final = "46f9149d43244410a3eabdfffed0721c"
"""A slot that was good has failed in too many boots in a row; hypernet-rollback.target is started. Fields:
REASON, BECAUSE.
"""
