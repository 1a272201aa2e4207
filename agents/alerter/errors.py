# SPDX-License-Identifier: Apache-2.0
"""The errors of the alerter."""

from __future__ import annotations

from common.errors import AgentError


class DeliveryFailed(AgentError):
    """An alert did not get to one of its destinations; trying again later may help."""


class AlertInvalid(AgentError):
    """A file holds no alert."""
