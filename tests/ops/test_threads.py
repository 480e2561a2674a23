"""streamedge/ops/threads.py: work beside an event loop while no thread can be started."""

from __future__ import annotations

import asyncio
import threading

import pytest

from streamedge.ops.threads import Threads
from tests.support.patience import PATIENCE_S


def _fail(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


async def test_all_threads_work_while_no_further_one_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asyncio.get_running_loop().set_default_executor(Threads(3))
    meeting = threading.Barrier(3)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _fail)
        works = [asyncio.to_thread(meeting.wait, PATIENCE_S) for _ in range(6)]
        assert sorted(await asyncio.gather(*works)) == [0, 0, 1, 1, 2, 2]


def test_pool_whose_threads_cannot_be_started_is_refused_at_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            Threads(2)
    with Threads(2) as threads:
        assert threads.submit(int, 3).result(PATIENCE_S) == 3
