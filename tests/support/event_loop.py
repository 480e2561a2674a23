"""Waiting for a condition in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.support.patience import PATIENCE_S


async def until(condition: Callable[[], bool]) -> None:
    """Runs the event loop until ``condition`` holds. Raises TimeoutError after PATIENCE_S."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - for conditions without an event
            await asyncio.sleep(0)
