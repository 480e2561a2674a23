"""What all RTMP sessions of a worker share: streams, limits, log, counters, timers, sessions.

The server makes it; sessions add and remove themselves.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamedge.delivery.net.read_scheduler import ReadScheduler
from streamedge.delivery.rtmp.streams import StreamResolver
from streamedge.delivery.rtmp.timers import CoalescedTimers
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts

if TYPE_CHECKING:
    from streamedge.delivery.rtmp.session import RtmpLimits, RtmpSession


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The context of each RtmpSession of a worker."""

    streams: StreamResolver
    limits: RtmpLimits
    log: Log
    counts: Counts
    sessions: set[RtmpSession]
    timers: CoalescedTimers = field(
        default_factory=lambda: CoalescedTimers(asyncio.get_running_loop())
    )
    read_scheduler: ReadScheduler = field(
        default_factory=lambda: ReadScheduler(asyncio.get_running_loop())
    )
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # set when a play or session ends
