"""Changes are visible to every process and wake the replicator."""

from __future__ import annotations

import asyncio
import os
import select
from pathlib import Path

from streamedge.write_back.change_signal import SLOTS, ChangeSignal, prepare_signal


async def test_change_is_seen_by_all_processes(tmp_path: Path) -> None:
    prepare_signal(tmp_path)
    one, other = ChangeSignal(tmp_path, 0), ChangeSignal(tmp_path, SLOTS - 1)
    before = one.snapshot()
    assert other.snapshot() == before
    rung = asyncio.Event()
    asyncio.get_running_loop().add_reader(one.wakeup_fd, rung.set)
    other.notify()
    await asyncio.wait_for(rung.wait(), 20)
    asyncio.get_running_loop().remove_reader(one.wakeup_fd)
    assert one.snapshot() == other.snapshot() != before
    one.drain()
    poll = select.poll()  # select() itself cannot see descriptors from 1024 on
    poll.register(one.wakeup_fd, select.POLLIN)
    assert not poll.poll(0)
    one.close()
    other.close()


def test_notify_does_not_block_when_nothing_drains_the_pipe(tmp_path: Path) -> None:
    prepare_signal(tmp_path)
    signal = ChangeSignal(tmp_path, 0)
    os.write(signal.wakeup_fd, bytes(1 << 20))  # as much as the pipe takes
    before = signal.snapshot()
    signal.notify()
    assert signal.snapshot() != before
    signal.close()
