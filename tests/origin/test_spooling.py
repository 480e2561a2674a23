"""Spooled bodies, and calls in threads that outlast their cancelled caller."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator

import pytest
from aiofiles.os import wrap

from streamedge.origin.spooling import SPOOL_MEMORY_BYTES, Spool, in_thread, to_its_end
from tests.support.patience import PATIENCE_S


async def pieces_of(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


@pytest.mark.parametrize("size_bytes", [0, 1, SPOOL_MEMORY_BYTES, 3 * SPOOL_MEMORY_BYTES + 7])
async def test_spool_returns_the_bytes_that_filled_it(size_bytes: int) -> None:
    data = random.Random(size_bytes).randbytes(size_bytes)
    spool, observed = Spool(), bytearray()
    await spool.fill(pieces_of(data), observed.extend)
    assert spool.size_bytes == size_bytes
    assert b"".join([piece async for piece in spool.pieces()]) == data
    assert observed == data
    await spool.close()


async def test_spool_that_was_not_filled_can_be_closed() -> None:
    await Spool().close()


@pytest.mark.parametrize("is_wrapped", [False, True])
async def test_cancelled_caller_waits_for_its_thread(is_wrapped: bool) -> None:
    began, may_end, has_ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        may_end.wait(PATIENCE_S)
        has_ended.set()

    call = to_its_end(wrap(work)()) if is_wrapped else in_thread(work)
    caller = asyncio.create_task(call)
    await asyncio.to_thread(began.wait, 20)
    caller.cancel()
    for _turn in range(10):
        await asyncio.sleep(0)
    assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert has_ended.is_set()
