"""Which stream of a connection sends next: RFC 9218 §10.

The most urgent streams go first. Of the same urgency, streams whose responses are only useful as a
whole go one after the other, in the order of their requests. Streams whose responses are useful in
parts (incremental) take turns, among each other and with the first of the others.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import Final, NamedTuple

TURN_BYTES: Final = 64 << 10
"""Bytes of a stream before the next one of the same urgency has its turn."""

_ONE_AFTER_THE_OTHER: Final = 0  # in ``_Urgency.turns``: the first of ``_Urgency.in_order``


class Priority(NamedTuple):
    """``urgency``: from 0, the highest, to 7."""

    urgency: int = 3
    incremental: bool = False


class _Urgency:
    """The streams of one urgency."""

    __slots__ = ("in_order", "turn_bytes", "turns")

    def __init__(self) -> None:
        self.turns: deque[int] = deque()
        self.in_order: list[int] = []
        self.turn_bytes = 0  # sent in this turn


class Schedule:
    """The streams of a connection that can send now."""

    __slots__ = ("_by_urgency", "_priorities")

    def __init__(self) -> None:
        self._priorities: dict[int, Priority] = {}
        self._by_urgency: dict[int, _Urgency] = {}

    def __len__(self) -> int:
        return len(self._priorities)

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._priorities

    def add(self, stream_id: int, priority: Priority) -> None:
        """Adds a stream, or changes its priority."""
        if stream_id in self._priorities:
            if self._priorities[stream_id] == priority:
                return
            self.remove(stream_id)
        self._priorities[stream_id] = priority
        streams = self._by_urgency.get(priority.urgency)
        if streams is None:
            streams = self._by_urgency[priority.urgency] = _Urgency()
        if priority.incremental:
            streams.turns.append(stream_id)
            return
        if not streams.in_order:
            streams.turns.append(_ONE_AFTER_THE_OTHER)
        insort(streams.in_order, stream_id)

    def remove(self, stream_id: int) -> None:
        """Removes a stream that has sent all, or has to wait; harmless for any other."""
        priority = self._priorities.pop(stream_id, None)
        if priority is None:
            return
        streams = self._by_urgency[priority.urgency]
        member = stream_id
        if not priority.incremental:
            streams.in_order.remove(stream_id)
            member = _ONE_AFTER_THE_OTHER
        if priority.incremental or not streams.in_order:
            if streams.turns[0] == member:
                streams.turn_bytes = 0
            streams.turns.remove(member)
        if not streams.turns:
            del self._by_urgency[priority.urgency]

    def next(self) -> tuple[int, int] | None:
        """The stream that sends now, and how many bytes it may send; None if there is none.

        A stream without a rival has no limit here.
        """
        if not self._by_urgency:
            return None
        streams = self._by_urgency[min(self._by_urgency)]
        first = streams.turns[0]
        stream_id = streams.in_order[0] if first == _ONE_AFTER_THE_OTHER else first
        if len(streams.turns) == 1:
            return stream_id, 1 << 62
        return stream_id, TURN_BYTES - streams.turn_bytes

    def sent(self, stream_id: int, count: int) -> None:
        """Counts ``count`` bytes that the stream has sent; at the end of a turn the next begins."""
        priority = self._priorities.get(stream_id)
        if priority is None:
            return
        streams = self._by_urgency[priority.urgency]
        if len(streams.turns) > 1:
            streams.turn_bytes += count
            if streams.turn_bytes >= TURN_BYTES:
                streams.turn_bytes = 0
                streams.turns.rotate(-1)
