# SPDX-License-Identifier: Apache-2.0
"""Message ids of the alerter's journal entries; units/catalog/hypernet-alerter.catalog explains each."""

from __future__ import annotations

from typing import Final

DELIVERED: Final = "fdfbc783b9674936b8c144fb5d0e3a15"
"""An alert got to a destination. Fields: ALERT, KIND, SUMMARY, DESTINATION."""

DELIVERY_FAILED: Final = "9e8d94fb6ce148d4a98e4c4c612956e7"
"""An alert did not get everywhere and is tried again. Fields: ALERT, KIND, SUMMARY, DESTINATION, REASON,
ATTEMPTS.
"""

DROPPED: Final = "d35ab10923fd4ac3a692a8cc0c325620"
"""An alert is given up. Fields: ALERT, KIND, SUMMARY, REASON."""
