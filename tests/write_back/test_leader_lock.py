"""The leader lock has one holder at a time, and a cancelled waiter does not keep it."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from streamedge.write_back.leader_lock import LeaderLock
from tests.support.patience import PATIENCE_S


async def test_lock_goes_to_the_next_process_after_release(tmp_path: Path) -> None:
    path = tmp_path / "replicator"
    path.touch()
    holder, impatient, patient = LeaderLock(path), LeaderLock(path), LeaderLock(path)
    await holder.acquire()
    giving_up = asyncio.create_task(impatient.acquire())
    waiting = asyncio.create_task(patient.acquire())
    await asyncio.sleep(0)
    giving_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await giving_up
    impatient.release()
    assert not waiting.done()
    holder.release()
    await asyncio.wait_for(waiting, PATIENCE_S)
    patient.release()


async def test_lock_whose_thread_cannot_be_started_keeps_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "replicator"
    path.touch()
    lock = LeaderLock(path)

    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="new thread"):
            await lock.acquire()
    lock.release()
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    assert str(path) not in [os.readlink(link) for link in links if link.is_symlink()]
