# SPDX-License-Identifier: Apache-2.0
"""The errors of boot-health."""

from __future__ import annotations

from common.errors import AgentError


class ReportInvalid(AgentError):
    """The health report of this boot is there but cannot be understood."""


class SlotsInvalid(AgentError):
    """slot-manager answered with something that is no list of slots."""
