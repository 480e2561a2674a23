"""What a player has of its connection: the outlet, the answers' engine and who may have what.

Owns the interface alone; ``session.RtmpSession`` is it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from streamedge.cache.reader import CacheResult, Reader
from streamedge.delivery.rtmp.connection import ServerConnection
from streamedge.delivery.rtmp.metronome import Metronome
from streamedge.media.medium import Medium
from streamedge.ops.metrics import Counts
from streamedge.spans import Span

if TYPE_CHECKING:
    from streamedge.delivery.rtmp.player import Player


class Stage(Protocol):
    """The connection as a player sees it."""

    engine: ServerConnection
    counts: Counts
    metronome: Metronome
    sends_data_start: bool

    async def open_medium(self, name: str) -> Medium:
        """What a name means, if the viewer may have it. Raises RefusalError."""
        ...

    def check(self, name: str, medium: Medium) -> None:
        """Raises RefusalError when the viewer may have no longer what it plays."""
        ...

    def cache_result(self, medium: Medium) -> CacheResult:
        """How the first open of a medium went for this viewer."""
        ...

    def push(self, *parts: bytes | tuple[Reader, Span]) -> None:
        """Sends the engine's answers so far, then ``parts``."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether all that was pushed has been handed to the kernel."""
        ...

    def push_run(self, header: bytes, reader: Reader, span: Span) -> None:
        """The same as ``push`` of both, quicker where the kernel takes all at once."""
        ...

    async def drained(self) -> None:
        """Returns once all that was pushed has been handed to the kernel."""
        ...

    def tell(self, event: str, player: Player, **fields: object) -> None:
        """Leaves a log line."""
        ...

    @property
    def sent_bytes(self) -> int: ...
