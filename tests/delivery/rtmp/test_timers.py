"""Calls at common ticks: together, in order, independent of each other's exceptions."""

from __future__ import annotations

import asyncio
import math

from streamedge.delivery.rtmp.timers import TICK_S, CoalescedTimers


async def test_calls_of_one_tick_run_together_and_not_too_early() -> None:
    loop = asyncio.get_running_loop()
    timers = CoalescedTimers(loop)
    came: list[str] = []
    all_called = asyncio.Event()
    now_s = loop.time()
    first = math.floor(now_s / TICK_S + 2) * TICK_S
    timers.call_at(first - TICK_S / 3, lambda: came.append("late in the beat"))
    timers.call_at(first - TICK_S / 2, lambda: came.append("early in the beat"))
    timers.call_at(first + TICK_S / 2, all_called.set)
    await all_called.wait()
    assert came == ["late in the beat", "early in the beat"]
    assert loop.time() >= first + TICK_S / 2


async def test_cancelled_call_does_not_run() -> None:
    loop = asyncio.get_running_loop()
    timers = CoalescedTimers(loop)
    came: list[str] = []
    over = asyncio.Event()
    timers.call_at(loop.time(), lambda: came.append("cancelled")).cancel()
    timers.call_at(loop.time() + 2 * TICK_S, over.set)
    await over.wait()
    assert came == []


async def test_exception_of_one_call_does_not_stop_the_others() -> None:
    loop = asyncio.get_running_loop()
    timers = CoalescedTimers(loop)
    failures: list[str] = []
    loop.set_exception_handler(lambda _loop, context: failures.append(str(context["exception"])))
    over = asyncio.Event()

    def fail() -> None:
        raise RuntimeError("one viewer's")

    when_s = loop.time()
    timers.call_at(when_s, fail)
    timers.call_at(when_s, over.set)
    await over.wait()
    assert failures == ["one viewer's"]
