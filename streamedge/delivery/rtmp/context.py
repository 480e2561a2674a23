"""What all RTMP sessions of a worker share: streams, limits, log, counters, timers, sessions.

The server makes it; sessions add and remove themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from streamedge.cache.storage.records import Provenance
from streamedge.delivery.net.read_scheduler import ReadScheduler
from streamedge.delivery.rtmp.streams import StreamResolver
from streamedge.delivery.rtmp.timers import CoalescedTimers
from streamedge.delivery.traffic import WELCOME, Traffic
from streamedge.delivery.viewers import ViewerRow
from streamedge.logs.stream_log import StreamLog
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts


@dataclass(frozen=True, slots=True)
class RtmpLimits:
    """Limits of one client, from ``[limits]``."""

    connections_max: int
    handshake_s: float
    idle_s: float
    stall_s: float
    message_bytes: int
    streams_max: int
    ahead_s: float
    rate_bytes: int


class Session(Protocol):
    """A client's connection, as the server sees it."""

    def is_watching(self, now_s: float) -> bool:
        """Whether a play runs, or the client still shows one from its buffer."""
        ...

    def guard(self, work: Callable[..., None], *arguments: object) -> None:
        """Calls ``work``; an exception in it ends only this connection."""
        ...

    def sweep(self, now_s: float) -> None:
        """Drops a client that is too slow, or idle. Called once a second."""
        ...

    def request_reconnect(self) -> None:
        """Asks the client to connect to another edge, if it can."""
        ...

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Ends the plays that the predicate matches."""
        ...

    def viewer_row(self, now_s: float) -> ViewerRow | None:
        """The session for operators; None before its connect is accepted."""
        ...

    def end_viewer(self, identifier: str) -> bool:
        """Ends the connection if it has this id; returns whether it does."""
        ...

    def shut_down(self) -> None:
        """Ends the connection because the edge is stopping."""
        ...

    def abort(self) -> None:
        """Closes the connection without flushing."""
        ...


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The context of each session of a worker."""

    streams: StreamResolver
    limits: RtmpLimits
    log: Log
    counts: Counts
    sessions: set[Session]
    traffic: Callable[[], Traffic] = lambda: WELCOME
    stream_log: StreamLog = field(default_factory=StreamLog)
    timers: CoalescedTimers = field(
        default_factory=lambda: CoalescedTimers(asyncio.get_running_loop())
    )
    read_scheduler: ReadScheduler = field(
        default_factory=lambda: ReadScheduler(asyncio.get_running_loop())
    )
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # set when one may have ended
