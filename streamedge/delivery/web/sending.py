"""What a connection keeps of an answer that is on its way out, whoever began it.

Owns no step of the sending; ``protocol`` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from streamedge.cache.asset import Provenance
from streamedge.cache.reader import Reader

Finished = Callable[[int, float, str | None], None]
"""Leaves a response's line and numbers: bytes sent, seconds taken, and what cut it off."""


class LaneCycle:
    """What the parser's callbacks need of a request that never reaches the application."""

    __slots__ = ("disconnected", "keep_alive", "more_body", "on_response", "response_complete")

    def __init__(self, on_response: Callable[[], None], *, response_complete: bool = False) -> None:
        self.keep_alive = True
        self.on_response = on_response
        self.response_complete = response_complete
        self.disconnected = False
        self.more_body = True

    @property
    def message_event(self) -> LaneCycle:
        return self

    def set(self) -> None:
        """Nobody waits for the rest of a request without a body."""


class Sending:
    """An answer on its way out: begun at ``begun_s`` of the loop's clock, ``begun_bytes`` into the
    connection's."""

    __slots__ = (
        "begun_bytes",
        "begun_s",
        "cycle",
        "done",
        "finished",
        "is_stream",
        "provenance",
        "pushing",
        "reader",
    )

    def __init__(
        self,
        cycle: LaneCycle | RequestResponseCycle,
        reader: Reader | None,
        finished: Finished,
        *,
        begun_s: float,
        begun_bytes: int,
        done: asyncio.Future[None] | None = None,
        is_stream: bool = False,
        provenance: Callable[[], Provenance] | None = None,
    ) -> None:
        self.cycle = cycle
        self.reader = reader
        self.finished = finished
        self.begun_s = begun_s
        self.begun_bytes = begun_bytes
        self.done = done  # once it is out; of a stream, once what was pushed so far is
        self.is_stream = is_stream
        self.provenance = provenance  # None: no invalidation is about it
        self.pushing: asyncio.Task[None] | None = None  # what sends a stream


# Stands for every request that the lane has answered from within its own callback.
ANSWERED: Any = LaneCycle(lambda: None, response_complete=True)
