"""Waiting in tests for what other tasks or processes do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable

GENEROUS_S = 60.0
"""For a slow machine that does other work: nothing is measured by it."""


async def until(
    holds: Callable[[], object] | Callable[[], Awaitable[object]], timeout_s: float = GENEROUS_S
) -> None:
    """Wait until ``holds`` does, looking again and again. Raises TimeoutError when it never does."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = holds()
            if await found if isawaitable(found) else found:
                return
            await asyncio.sleep(0.002)
