"""Bells wake whom they are for, in other processes too, once for several rings."""

from __future__ import annotations

import asyncio
import os

from streamedge.coordination.wakeups import Bells, Rings


async def test_a_ring_wakes_its_own_alone_and_ring_wakes_all() -> None:
    bells, heard = Bells(2), asyncio.Queue[int]()
    for number in (0, 1, bells.control):
        bells.answer(number, lambda number=number: heard.put_nowait(number))  # type: ignore[misc]
    bells.ring_at(1)
    assert await heard.get() == 1
    bells.ring()
    assert {await heard.get() for _bell in range(3)} == {0, 1, 2}
    assert heard.empty()
    for number in range(3):
        bells.hush(number)
    bells.close()


async def test_rings_before_a_look_are_one_and_come_from_any_process() -> None:
    bells, heard = Bells(1), asyncio.Queue[int]()
    pid = os.fork()
    if pid == 0:
        for _ring in range(5):
            bells.ring_at(0)
        os._exit(0)
    await asyncio.to_thread(os.waitpid, pid, 0)
    bells.answer(0, lambda: heard.put_nowait(0))
    assert await heard.get() == 0
    bells.ring_at(0)
    assert await heard.get() == 0
    assert heard.empty()
    bells.hush(0)
    bells.close()


async def test_who_waits_for_rings_looks_after_each() -> None:
    rings, looks = Rings(), [0]

    def is_third() -> bool:
        looks[0] += 1
        return looks[0] == 3

    waiting = asyncio.create_task(rings.until(is_third, 20.0))
    while looks[0] < 2:
        await asyncio.sleep(0)
        rings.rung()
    rings.rung()
    assert await waiting
    assert not await rings.until(lambda: False, 0.0)
