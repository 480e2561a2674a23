"""What all sessions of a worker share: their media, limits, log and counts, and one another.

Owns no life of its own: the server makes it, and sessions enter and leave.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamedge.delivery.rtmp.read_scheduler import ReadScheduler
from streamedge.delivery.rtmp.streams import StreamResolver
from streamedge.delivery.rtmp.timers import CoalescedTimers
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts

if TYPE_CHECKING:
    from streamedge.delivery.rtmp.session import RtmpLimits, RtmpSession


@dataclass(frozen=True, slots=True)
class ServerContext:
    """Where an RtmpSession lives."""

    streams: StreamResolver
    limits: RtmpLimits
    log: Log
    counts: Counts
    sessions: set[RtmpSession]
    timers: CoalescedTimers = field(
        default_factory=lambda: CoalescedTimers(asyncio.get_running_loop())
    )
    turns: ReadScheduler = field(default_factory=lambda: ReadScheduler(asyncio.get_running_loop()))
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # set when a play or session ends
