"""Sharing the event loop among connections, with a fake clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.net.read_scheduler import READ_QUANTUM_S, ReadScheduler


class FakeLoop:
    """The part of an event loop that ReadScheduler uses."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.called: list[Callable[[], None]] = []

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.called.append(callback)

    def run_iteration(self) -> float:
        """Runs one iteration of the loop and returns how long it took."""
        began_s, called, self.called = self.now_s, self.called, []
        for callback in called:
            callback()
        return self.now_s - began_s


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0.0001, 0.004)), max_size=12))
def test_readers_share_iterations_and_all_read_to_the_end(readers: list[tuple[int, float]]) -> None:
    loop = FakeLoop()
    scheduler = ReadScheduler(cast(asyncio.AbstractEventLoop, loop))
    read: list[int] = []

    def reader(number: int, pieces: int, takes_s: float) -> Callable[[], bool]:
        def read_piece() -> bool:
            loop.now_s += takes_s
            read.append(number)
            return read.count(number) < pieces

        return read_piece

    for number, (pieces, takes_s) in enumerate(readers):
        scheduler.wait(reader(number, pieces, takes_s))
    slowest_s = max((takes_s for _, takes_s in readers), default=0.0)
    while loop.called:
        assert len(loop.called) == 1
        assert loop.run_iteration() <= READ_QUANTUM_S + slowest_s + 1e-9  # of rounding
    for number, (pieces, _) in enumerate(readers):
        assert read.count(number) == pieces
    # No connection is read twice while another one waits.
    shortest = min((pieces for pieces, _ in readers), default=0)
    assert read[: shortest * len(readers)] == list(range(len(readers))) * shortest


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0.0001, 0.004)), min_size=1, max_size=64))
def test_connections_that_start_in_one_iteration_share_its_quantum(
    readers: list[tuple[int, float]],
) -> None:
    loop = FakeLoop()
    scheduler = ReadScheduler(cast(asyncio.AbstractEventLoop, loop))
    read: list[int] = []

    def reader(number: int, pieces: int, takes_s: float) -> Callable[[], bool]:
        def read_piece() -> bool:
            loop.now_s += takes_s
            read.append(number)
            return read.count(number) < pieces

        return read_piece

    slowest_s = max(takes_s for _, takes_s in readers)
    for number, (pieces, takes_s) in enumerate(readers):
        is_left = scheduler.start(reader(number, pieces, takes_s))
        assert is_left == (read.count(number) < pieces)
    assert loop.now_s <= READ_QUANTUM_S + slowest_s
    while loop.called:
        assert len(loop.called) == 1
        assert loop.run_iteration() <= READ_QUANTUM_S + slowest_s + 1e-9  # of rounding
    assert [read.count(number) for number in range(len(readers))] == [n for n, _ in readers]
