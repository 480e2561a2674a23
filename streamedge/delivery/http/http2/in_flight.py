"""A response that is being sent on a stream of HTTP/2; the ``responder`` sends it."""

from __future__ import annotations

import asyncio
from typing import Any

from streamedge.cache.reader import Reader
from streamedge.delivery.http.http2.encoding import Head
from streamedge.delivery.http.http2.exchange import Http2Exchange
from streamedge.delivery.http.http2.outgoing import OutgoingBody
from streamedge.delivery.http.response_info import ResponseInfo


class ResponseInFlight:
    """A response in flight on a stream. ``exchange`` is None for a hit of the fast path."""

    __slots__ = (
        "blocked_since_s",
        "body",
        "done",
        "exchange",
        "info",
        "is_ending",
        "pushing",
        "reader",
        "sent_bytes",
        "stream_id",
        "trailers",
    )

    def __init__(
        self,
        info: ResponseInfo,
        stream_id: int,
        exchange: Http2Exchange | None,
        reader: Reader | None,
    ) -> None:
        self.info = info
        self.stream_id = stream_id
        self.exchange = exchange
        self.reader = reader
        self.body = OutgoingBody()
        self.is_ending = False  # nothing will be pushed behind what the body has
        self.trailers: Head = ()
        self.sent_bytes = 0
        self.blocked_since_s: float | None = None  # since when the peer's window is closed
        self.done: asyncio.Future[None] | None = None  # set when all pushed bytes are sent
        self.pushing: asyncio.Task[Any] | None = None  # the task that pushes pieces
