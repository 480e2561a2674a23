"""Changes are visible to every process and wake the replicator."""

from __future__ import annotations

import asyncio
from pathlib import Path

from streamedge.ops.wakeup import Wakeup
from streamedge.write_back.change_signal import SLOTS, ChangeSignal, prepare_signal
from tests.support.patience import PATIENCE_S


async def test_notify_changes_every_snapshot_and_wakes_the_replicator(tmp_path: Path) -> None:
    prepare_signal(tmp_path)
    replicator, woken = Wakeup(), asyncio.Event()
    one = ChangeSignal(tmp_path, 0, replicator)
    other = ChangeSignal(tmp_path, SLOTS - 1, replicator)
    before = one.snapshot()
    assert other.snapshot() == before
    replicator.subscribe(woken.set)
    other.notify()
    await asyncio.wait_for(woken.wait(), PATIENCE_S)
    replicator.unsubscribe()
    assert one.snapshot() == other.snapshot() != before
    one.close()
    other.close()
    replicator.close()


def test_notify_does_not_block_when_nothing_receives_the_wakeups(tmp_path: Path) -> None:
    prepare_signal(tmp_path)
    replicator = Wakeup()
    signal = ChangeSignal(tmp_path, 0, replicator)
    for _change in range(3):
        before = signal.snapshot()
        signal.notify()
        assert signal.snapshot() != before
    assert replicator.take() == 3
    signal.close()
    replicator.close()


def test_named_pipe_of_earlier_versions_is_removed(tmp_path: Path) -> None:
    (tmp_path / "bell").touch()
    prepare_signal(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["changes"]
