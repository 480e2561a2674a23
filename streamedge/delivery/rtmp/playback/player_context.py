"""What a player needs of its connection."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Protocol

from streamedge.cache.reader import CacheResult, Reader
from streamedge.delivery.rtmp.protocol.connection import ServerConnection
from streamedge.delivery.rtmp.timers import CoalescedTimers
from streamedge.media.medium import Medium
from streamedge.ops.metrics import Counts
from streamedge.spans import Span

if TYPE_CHECKING:
    from streamedge.delivery.rtmp.playback.player import Player


class PlayerContext(Protocol):
    """A connection, as its players see it."""

    engine: ServerConnection
    counts: Counts
    timers: CoalescedTimers
    splits_data: bool
    """Whether the client makes a track of each data message (see ``Announcements``)."""
    takes_aggregates: bool

    async def open_medium(self, name: str) -> Medium:
        """Opens the medium of a stream name, if the viewer may play it. Raises RefusalError."""
        ...

    def check(self, name: str, medium: Medium) -> None:
        """Raises RefusalError if the viewer may no longer play this medium."""
        ...

    def cache_result(self, medium: Medium) -> CacheResult:
        """The cache result of the viewer's first open of this medium."""
        ...

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Starts a task that ends with the connection; an exception in it ends the connection."""
        ...

    def after_refusal(self) -> None:
        """Called when the viewer has been sent a refusal; may close its players."""
        ...

    def push(self, *parts: bytes | tuple[Reader, Span]) -> None:
        """Sends the engine's pending output, then ``parts``."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether the kernel has accepted all pushed bytes."""
        ...

    def push_run(self, header: bytes, reader: Reader, span: Span) -> None:
        """As ``push`` of both; faster when the kernel accepts all bytes at once."""
        ...

    async def drained(self) -> None:
        """Returns once the kernel has accepted all pushed bytes."""
        ...

    def count_play(self, result: str) -> None:
        """Counts a play by the client's distribution and its cache result."""
        ...

    def log_event(self, event: str, player: Player, **fields: object) -> None:
        """Writes the log line ``rtmp_EVENT``."""
        ...

    def log_unplayed(self, name: str, reason: str) -> None:
        """Writes the log line ``rtmp_stop`` of an item that did not begin."""
        ...

    @property
    def sent_bytes(self) -> int: ...
