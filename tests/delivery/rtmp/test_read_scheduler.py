"""streamedge/delivery/rtmp/read_scheduler.py: sharing the event loop, with a clock of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.rtmp.read_scheduler import READ_QUANTUM_S, ReadScheduler


class FakeLoop:
    """What Turns has of a loop."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.called: list[Callable[[], None]] = []

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.called.append(callback)

    def turn(self) -> float:
        """One turn of the loop: how long it took."""
        began_s, called, self.called = self.now_s, self.called, []
        for callback in called:
            callback()
        return self.now_s - began_s


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0.0001, 0.004)), max_size=12))
def test_readers_share_turns_and_are_all_read_to_the_end(readers: list[tuple[int, float]]) -> None:
    loop = FakeLoop()
    turns = ReadScheduler(cast(asyncio.AbstractEventLoop, loop))
    read: list[int] = []

    def reader(number: int, pieces: int, takes_s: float) -> Callable[[], bool]:
        def read_piece() -> bool:
            loop.now_s += takes_s
            read.append(number)
            return read.count(number) < pieces

        return read_piece

    for number, (pieces, takes_s) in enumerate(readers):
        turns.wait(reader(number, pieces, takes_s))
    slowest_s = max((takes_s for _, takes_s in readers), default=0.0)
    while loop.called:
        assert len(loop.called) == 1
        assert loop.turn() <= READ_QUANTUM_S + slowest_s
    for number, (pieces, _) in enumerate(readers):
        assert read.count(number) == pieces
    # One after the other: nobody is read twice while another waits.
    shortest = min((pieces for pieces, _ in readers), default=0)
    assert read[: shortest * len(readers)] == list(range(len(readers))) * shortest
