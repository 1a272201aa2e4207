# SPDX-License-Identifier: Apache-2.0
"""System image files: opened, laid out, verified and inspected. Used by slot-manager, hypernet-admin and the
release tools.

Loaded when first asked for (PEP 562): whoever needs one small module of this package at every boot does not
wait for all that an inspection needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.image.inspection import ARCHITECTURE, Inspection, inspect

__all__ = ["ARCHITECTURE", "Inspection", "inspect"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from common.image import inspection

    return getattr(inspection, name)
