"""Whether an attack disturbs other viewers, or makes the process grow.

async with undisturbed(edge, partial(http.fetch, edge)):
    ...  # the attack
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.http.http_viewer import Response
from tests.support.http.web_edge import WebEdge

GROWTH_MAX_BYTES = 64 << 20  # of edge, attacker and origin together, which are one process
PATH, BODY = "/undisturbed", b"for others" * 100


def resident_bytes() -> int:
    """The memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def undisturbed(
    edge: WebEdge, fetch: Callable[[str], Awaitable[Response]]
) -> AsyncIterator[None]:
    """While the block runs, ``fetch`` gets one hit after the other, and the process stays small.

    Its request to the origin is not in ``edge.origin.requests``.
    """
    edge.origin.put(PATH[1:], BODY, etag='"u"', headers=(("Cache-Control", "max-age=3600"),))
    assert (await fetch(PATH)).body == BODY
    edge.origin.requests.pop()
    before_bytes, largest_bytes, is_over = resident_bytes(), 0, False

    async def fetch_hits() -> None:
        nonlocal largest_bytes
        has_ended = False
        while not has_ended:
            has_ended = is_over  # one more afterwards
            response = await fetch(PATH)
            assert (response.status, response.body) == (200, BODY)
            largest_bytes = max(largest_bytes, resident_bytes())

    fetching = asyncio.create_task(fetch_hits(), name="another viewer")
    try:
        yield
    finally:
        is_over = True
        await fetching
    assert largest_bytes - before_bytes < GROWTH_MAX_BYTES
    assert not any(seen.path == PATH for seen in edge.origin.requests)
