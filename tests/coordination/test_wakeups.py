"""Wake-ups reach their subscribers, in other processes too; several at once are one."""

from __future__ import annotations

import asyncio
import os

import pytest

from streamedge.coordination.wakeups import ChangeEvent, Wakeups
from tests.support.patience import PATIENCE_S


async def test_notify_at_wakes_one_subscriber_and_notify_wakes_all() -> None:
    wakeups, received = Wakeups(2), asyncio.Queue[int]()
    for number in (0, 1, wakeups.control):
        wakeups.subscribe(number, lambda number=number: received.put_nowait(number))  # type: ignore[misc]
    wakeups.notify_at(1)
    assert await received.get() == 1
    wakeups.notify()
    assert {await received.get() for _number in range(3)} == {0, 1, 2}
    assert received.empty()
    wakeups.notify(control=False)
    assert {await received.get() for _number in range(2)} == {0, 1}
    assert received.empty()
    for number in range(3):
        wakeups.unsubscribe(number)
    wakeups.close()


async def test_wakeups_from_another_process_are_received_as_one() -> None:
    wakeups, received = Wakeups(1), asyncio.Queue[int]()
    pid = os.fork()
    if pid == 0:
        for _wakeup in range(5):
            wakeups.notify_at(0)
        os._exit(0)
    await asyncio.to_thread(os.waitpid, pid, 0)
    wakeups.subscribe(0, lambda: received.put_nowait(0))
    assert await received.get() == 0
    wakeups.notify_at(0)
    assert await received.get() == 0
    assert received.empty()
    wakeups.unsubscribe(0)
    wakeups.close()


async def test_condition_is_checked_after_each_notification() -> None:
    change_event, checks = ChangeEvent(), [0]

    def is_third() -> bool:
        checks[0] += 1
        return checks[0] == 3

    waiting = asyncio.create_task(change_event.wait_for(is_third, PATIENCE_S))
    while checks[0] < 2:
        await asyncio.sleep(0)
        change_event.notify()
    change_event.notify()
    assert await waiting
    assert not await change_event.wait_for(lambda: False, 0.0)


async def test_thread_waits_for_a_condition_too() -> None:
    change_event, is_true, checked = ChangeEvent(), [False], asyncio.Event()
    loop = asyncio.get_running_loop()

    def condition() -> bool:
        loop.call_soon_threadsafe(checked.set)
        return is_true[0]

    waiting = asyncio.create_task(asyncio.to_thread(change_event.wait_in_thread, condition, 20.0))
    await checked.wait()
    is_true[0] = True
    change_event.notify()
    assert await waiting
    assert not change_event.wait_in_thread(lambda: False, 0.0)


def test_process_without_an_event_loop_waits_for_a_wakeup() -> None:
    wakeups = Wakeups(1)
    wakeups.wait(wakeups.control, 0.0)  # times out
    pid = os.fork()
    if pid == 0:
        wakeups.notify_at(wakeups.control)
        os._exit(0)
    wakeups.wait(wakeups.control, PATIENCE_S)
    os.waitpid(pid, 0)
    with pytest.raises(BlockingIOError):
        wakeups.take(wakeups.control)  # it was cleared
    wakeups.close()
