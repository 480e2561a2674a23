"""streamedge/ops/threads.py: work beside an event loop while no thread can be started."""

from __future__ import annotations

import asyncio
import threading

import pytest

from streamedge.ops.threads import Threads
from tests.support.patience import PATIENCE_S


def _fail(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def wait_for(event: threading.Event) -> bool:
    return event.wait(PATIENCE_S)


async def test_work_waits_for_running_threads_while_none_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asyncio.get_running_loop().set_default_executor(Threads(4))
    begun, go_on = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return wait_for(go_on)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _fail)
        first = asyncio.ensure_future(asyncio.to_thread(work))
        others = [asyncio.ensure_future(asyncio.to_thread(int, number)) for number in range(3)]
        await asyncio.sleep(0)  # all of them are submitted
        assert wait_for(begun)
        assert not any(task.done() for task in others)
        go_on.set()
        assert await asyncio.gather(*others) == [0, 1, 2]
        assert await first
    # Further threads are started once that is possible.
    both = threading.Barrier(2)
    meetings = (asyncio.to_thread(both.wait, PATIENCE_S) for _ in range(2))
    assert sorted(await asyncio.gather(*meetings)) == [0, 1]


def test_pool_without_any_thread_is_refused_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            Threads(1)
    with Threads(1) as threads:
        assert threads.submit(int, 3).result(PATIENCE_S) == 3
