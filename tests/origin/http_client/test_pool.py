"""The slots of a connection pool: who gets one, and what a cancelled wait leaves behind."""

from __future__ import annotations

import asyncio

import pytest

from streamedge.origin.http_client.pool import Slots


async def test_slot_goes_to_the_longest_waiting_request() -> None:
    slots = Slots(1)
    assert slots.take()
    assert not slots.take()
    order: list[int] = []

    async def use(number: int) -> None:
        await slots.acquire()
        order.append(number)

    tasks = [asyncio.create_task(use(number)) for number in range(3)]
    await asyncio.sleep(0)
    for task in tasks:
        slots.release()
        assert not slots.take()  # it is not free: a request waits for it
        await task
    assert order == [0, 1, 2]
    slots.release()
    assert slots.take()


@pytest.mark.parametrize("is_given", [False, True])
async def test_slot_of_a_cancelled_wait_is_not_lost(is_given: bool) -> None:
    slots = Slots(1)
    assert slots.take()
    waiting = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    if is_given:
        slots.release()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    if not is_given:
        slots.release()
    assert slots.take()
    assert slots.are_taken
