"""The body of a request: its pieces, its end, and the calls for flow control."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from streamedge.delivery.http.request.body import RequestBody


class Flow:
    """Counts the calls for flow control."""

    def __init__(self) -> None:
        self.needed = 0
        self.consumed_bytes = 0
        self.body = RequestBody(self._needs_more, self._consumed)

    def _needs_more(self) -> None:
        self.needed += 1

    def _consumed(self, count: int) -> None:
        self.consumed_bytes += count


async def test_bytes_count_as_consumed_when_they_are_read() -> None:
    flow = Flow()
    flow.body.received(b"ab")
    flow.body.received(b"cd")
    assert (flow.body.unread_bytes, flow.consumed_bytes, flow.needed) == (4, 0, 0)
    assert await anext(flow.body) == b"abcd"
    assert (flow.body.unread_bytes, flow.consumed_bytes, flow.needed) == (0, 4, 0)
    flow.body.end()
    assert [piece async for piece in flow.body] == []


async def test_more_is_needed_while_the_handler_waits() -> None:
    flow = Flow()
    assert not flow.body.is_waited_for
    reading = asyncio.ensure_future(anext(flow.body))
    await asyncio.sleep(0)
    assert flow.needed == 1
    assert flow.body.is_waited_for
    flow.body.received(b"a")
    assert not flow.body.is_waited_for
    assert await reading == b"a"


async def test_cancelled_read_loses_nothing() -> None:
    flow = Flow()
    reading = asyncio.ensure_future(anext(flow.body))
    await asyncio.sleep(0)
    flow.body.received(b"a")
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading
    assert await anext(flow.body) == b"a"


async def test_cut_body_is_no_complete_one() -> None:
    """What it has not delivered counts as consumed, and what still comes does, too."""
    flow = Flow()
    flow.body.received(b"ab")
    flow.body.cut()
    flow.body.received(b"cde")
    assert flow.consumed_bytes == 5
    with pytest.raises(ConnectionResetError):
        await anext(flow.body)
