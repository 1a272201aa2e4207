# SPDX-License-Identifier: Apache-2.0
"""System image files: opened, laid out, verified and inspected. Used by slot-manager, hypernet-admin and the
release tools.
"""

from __future__ import annotations

from common.image.inspection import ARCHITECTURE, Inspection, inspect

__all__ = ["ARCHITECTURE", "Inspection", "inspect"]
