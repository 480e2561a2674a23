"""A response that is being sent on a stream of HTTP/2; the ``responder`` sends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from streamedge.cache.reader import Reader
from streamedge.cache.storage.records import Provenance
from streamedge.delivery.http.http2.encoding import Head
from streamedge.delivery.http.http2.exchange import Http2Exchange
from streamedge.delivery.http.http2.outgoing import OutgoingBody
from streamedge.delivery.http.request.request import WebRequest

Finished = Callable[[int, float, str | None], None]
"""Logs and counts a response: bytes of its body, seconds taken, and why it was cut off."""


class ResponseInFlight:
    """A response in flight on a stream. ``exchange`` is None for a hit of the fast path, which
    ``request`` is equal to; ``distribution`` and the viewer's ``address`` are for operators."""

    __slots__ = (
        "address",
        "blocked_since_s",
        "body",
        "distribution",
        "done",
        "exchange",
        "finished",
        "is_ending",
        "provenance",
        "pushing",
        "reader",
        "request",
        "sent_bytes",
        "started_s",
        "stream_id",
        "trailers",
    )

    def __init__(
        self,
        stream_id: int,
        exchange: Http2Exchange | None,
        reader: Reader | None,
        finished: Finished,
        *,
        request: WebRequest,
        address: str,
        distribution: str | None,
        started_s: float,
        provenance: Callable[[], Provenance] | None,
    ) -> None:
        self.stream_id = stream_id
        self.exchange = exchange
        self.reader = reader
        self.finished = finished
        self.request = request
        self.address = address
        self.distribution = distribution
        self.started_s = started_s
        self.provenance = provenance  # None: no invalidation applies
        self.body = OutgoingBody()
        self.is_ending = False  # nothing will be pushed behind what the body has
        self.trailers: Head = ()
        self.sent_bytes = 0
        self.blocked_since_s: float | None = None  # since when the peer's window is closed
        self.done: asyncio.Future[None] | None = None  # set when all pushed bytes are sent
        self.pushing: asyncio.Task[Any] | None = None  # the task that pushes pieces
