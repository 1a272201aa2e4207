# SPDX-License-Identifier: Apache-2.0
"""An authority on a private bus that answers like polkit, without its rules, agents and sessions."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

from common import bus
from tests.fakes.private_bus import Serving, serving


class Authority(bus.Interface):
    """Answers each question with ``answer`` = (authorized, challenge) and remembers it in ``asked``."""

    INTERFACE = "org.freedesktop.PolicyKit1.Authority"

    def __init__(self, answer: tuple[bool, bool], *, hangs: bool = False) -> None:
        self.answer = answer
        self.hangs = hangs
        self.asked: list[tuple[Any, ...]] = []

    @bus.method("CheckAuthorization", "(sa{sv})sa{ss}us", "(bba{ss})")
    async def check_authorization(
        self,
        subject: list[Any],
        action: str,
        details: dict[str, str],
        flags: int,
        cancellation_id: str,
    ) -> tuple[tuple[bool, bool, dict[str, str]]]:
        """Answer as org.freedesktop.PolicyKit1 does."""
        self.asked.append((subject, action, details, flags, cancellation_id))
        if self.hangs:
            await asyncio.Event().wait()
        return ((*self.answer, {}),)


def polkit(authority: Authority) -> AbstractAsyncContextManager[Serving]:
    """Put the authority where polkit is."""
    return serving(
        "org.freedesktop.PolicyKit1",
        lambda service: service.export("/org/freedesktop/PolicyKit1/Authority", authority),
    )
