"""Sends the responses of an HTTP/1.1 connection, one at a time, and reports their ends.

Nothing else writes to the connection: interim responses and the bytes of a tunnel go through here
too, so that all bytes leave in order.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from streamedge.cache.open_object import Failure, OpenObject
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.storage.records import Provenance
from streamedge.callbacks import do_nothing
from streamedge.delivery.http.fast_path.remembered import Hit, QueuedHit, RememberedRequest, SentHit
from streamedge.delivery.http.fast_path.request_memo import ByteRange
from streamedge.delivery.http.http1.encoding import (
    Framing,
    chunk,
    encode_head,
    framing_of,
    last_chunk,
    with_id,
)
from streamedge.delivery.http.http1.exchange import Http1Exchange
from streamedge.delivery.http.http1.states import ExchangeState
from streamedge.delivery.http.request_handler import RequestHandler
from streamedge.delivery.http.response.body import with_reader
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.response.cloudfront_log import REVOKED, VIEWER_LEFT
from streamedge.delivery.http.response_info import ResponseInfo, info_of_hit, info_of_response
from streamedge.delivery.http.seen_viewers import RunningResponse
from streamedge.delivery.http.viewer import Viewer
from streamedge.delivery.net.sender import Sender
from streamedge.delivery.net.writers import COPIED_BYTES_MAX
from streamedge.errors import CacheFullError, OriginError
from streamedge.spans import NO_BYTES, Span

Remembered = RememberedRequest[bytes, bytes]


class ResponseInFlight:
    """A response in flight. ``exchange`` is None for a hit of the fast path.

    The connection had sent ``started_bytes`` when it started. ``closes``: the connection ends
    behind it.
    """

    __slots__ = (
        "closes",
        "exchange",
        "info",
        "is_stream",
        "pushing",
        "reader",
        "sent",
        "started_bytes",
    )

    def __init__(
        self,
        info: ResponseInfo,
        exchange: Http1Exchange | None,
        reader: Reader | None,
        *,
        started_bytes: int,
        closes: bool,
        is_stream: bool = False,
    ) -> None:
        self.info = info
        self.exchange = exchange
        self.reader = reader
        self.started_bytes = started_bytes
        self.closes = closes
        self.is_stream = is_stream
        self.sent: asyncio.Future[None] | None = None  # set when all pushed bytes are sent
        self.pushing: asyncio.Task[Any] | None = None  # the task that sends a stream


class Responder:
    """The response side of one connection.

    ``ended(exchange, closes, complete)`` is called at the end of each response, whether it was sent
    completely or not; ``closes``: the connection ends behind it.
    """

    __slots__ = (
        "_ended",
        "_handler",
        "_loop",
        "_transport",
        "_viewer",
        "current",
        "in_flight",
        "sender",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        handler: RequestHandler,
        viewer: Viewer,
        ended: Callable[[Http1Exchange | None, bool, bool], None],
    ) -> None:
        self.sender = Sender(transport, loop, self._drained, self._failed)
        self.current: Http1Exchange | None = None  # whose response is next, or being sent
        self.in_flight: ResponseInFlight | None = None
        self._transport = transport
        self._loop = loop
        self._handler = handler
        self._viewer = viewer
        self._ended = ended

    @property
    def is_idle(self) -> bool:
        """Whether no response is due or in flight, so that one may be sent at once."""
        return self.current is None and self.in_flight is None and self.sender.idle

    @property
    def is_busy(self) -> bool:
        """Whether a response is due or in flight; bytes of the last one may wait otherwise."""
        return self.current is not None or self.in_flight is not None

    def send_hit(
        self,
        remembered: Remembered,
        byte_range: ByteRange | None,
        hit: Hit[bytes],
        loop_s: float,
        *,
        closes: bool,
    ) -> SentHit | None:
        """Sends a hit. Returns None when it is not sent at once; then it is logged at its end."""
        status, head, ready, start, end, opened, message, request_id = hit
        viewer = self._viewer
        response, has_parts = None, False
        if message is not None:
            response = message.response
            head += response.message.body
            has_parts = bool(response.message.parts)
            if has_parts and opened is not None:
                # Short parts are copied: a system call for each would take longer.
                body = _copy_parts(opened, response.message.parts)
                if body:
                    head, has_parts = head + body, False
        sent = 0
        if not has_parts and (ready is not None or start == end):
            sent = self.sender.send_at_once(head, ready)
        if sent == len(head) + end - start and not has_parts and self.sender.idle:
            return remembered, byte_range, status, viewer, sent, response, request_id, start, end
        # The kernel did not take all of it, or bytes are still being filled.
        reader = None if opened is None else Reader(opened, CacheResult.HIT)
        queued = QueuedHit(remembered, byte_range, hit, viewer, response)
        self.in_flight = ResponseInFlight(
            info_of_hit(queued, self._handler, loop_s),
            None,
            reader,
            started_bytes=self.sender.sent_bytes - sent,
            closes=closes,
        )
        if reader is None or (start == end and not has_parts):
            self.sender.push(head[sent:])
        elif response is not None and has_parts:
            self._push_parts(head[sent:], reader, response.message.parts)
        else:
            past_head = max(0, sent - len(head))
            self.sender.push(head[sent:], (reader, Span(start + past_head, end)))
        return None

    async def send(self, exchange: Http1Exchange, response: Response, *, closes: bool) -> None:
        """Sends a response; returns when all of it is in the sender or the viewer has left."""
        if response.stream is None:
            self.send_whole(exchange, response, closes=closes)
            return
        framing = framing_of(response.message.head, exchange.request.http_version)
        closes = closes or framing is Framing.CLOSE
        in_flight = self._begin(exchange, response, closes=closes)
        head = encode_head(
            response.message.head,
            framing,
            closes=closes,
            request_id=exchange.request.request_id,
        )
        await self._send_stream(in_flight, head, framing, response)

    def send_whole(self, exchange: Http1Exchange, response: Response, *, closes: bool) -> None:
        """Sends a response that is no stream: at once if the kernel takes all of it, else later."""
        message, reader = response.message, response.reader
        request_id = exchange.request.request_id
        if response.encoded and not closes:
            head = with_id(response.encoded, request_id.encode())
        else:
            head = encode_head(message.head, closes=closes, request_id=request_id)
        if reader is None:
            data, span, ready = head + message.body, NO_BYTES, None
        elif message.span is not None:
            data, span = head, message.span
            ready = reader.ready(span.start, span.end)
        else:
            self._begin(exchange, response, closes=closes)
            self._push_parts(head, reader, message.parts)
            return
        sent, sender, request = 0, self.sender, exchange.request
        if sender.idle and (ready is not None or reader is None):
            first_byte_s = self._loop.time() - request.started_s
            sent = sender.send_at_once(data, ready)
            if sent == len(data) + span.size and sender.idle:
                exchange.become(ExchangeState.SENDING)
                if reader is not None:
                    reader.close()
                duration_s = self._loop.time() - request.started_s
                self._handler.finished(
                    request, response, self._viewer, first_byte_s, sent, duration_s, None
                )
                self._ended(exchange, closes, True)
                return
        self._begin(exchange, response, closes=closes, sent_bytes=sent)
        if reader is None:
            sender.push(data[sent:])
        else:
            past_head = max(0, sent - len(head))
            sender.push(head[sent:], (reader, Span(span.start + past_head, span.end)))

    def _begin(
        self,
        exchange: Http1Exchange,
        response: Response,
        *,
        closes: bool,
        sent_bytes: int = 0,
    ) -> ResponseInFlight:
        """Notes the response in flight, of which ``sent_bytes`` are sent already."""
        exchange.become(ExchangeState.SENDING)
        request = exchange.request
        first_byte_s = self._loop.time() - request.started_s
        self.in_flight = in_flight = ResponseInFlight(
            info_of_response(request, response, self._viewer, self._handler, first_byte_s),
            exchange,
            response.reader,
            started_bytes=self.sender.sent_bytes - sent_bytes,
            closes=closes,
            is_stream=response.stream is not None,
        )
        return in_flight

    def send_interim(self, head: bytes) -> None:
        """Sends the head of a 1xx response, or of a refusal."""
        self.sender.push(head)

    def begin_tunnel(self, exchange: Http1Exchange, response: Response) -> None:
        """From now on only the bytes of a tunnel are sent; ``send_bytes`` sends them.

        ``response``: the 101, which is logged when the tunnel ends, however it ends.
        """
        exchange.become(ExchangeState.SENDING)
        request = exchange.request
        first_byte_s = self._loop.time() - request.started_s

        def finished(sent_bytes: int, duration_s: float, _cut: str | None) -> None:
            self._handler.finished(
                request, response, self._viewer, first_byte_s, sent_bytes, duration_s, None
            )

        distribution = response.distribution or ""
        info = ResponseInfo(
            request, request.address, distribution, request.started_s, None, finished
        )
        self.in_flight = ResponseInFlight(
            info,
            exchange,
            None,
            started_bytes=self.sender.sent_bytes,
            closes=True,
            is_stream=True,
        )

    async def send_bytes(self, data: bytes) -> None:
        """Sends bytes of a tunnel; returns when the kernel has them."""
        self.sender.push(data)
        if self.in_flight is not None:
            await self._all_sent(self.in_flight)

    def finish(self, cut: str | None, *, complete: bool) -> None:
        """Ends the response in flight, if there is one. ``cut``: why it ended early."""
        in_flight, self.in_flight = self.in_flight, None
        if in_flight is None:
            return
        if in_flight.reader is not None:
            in_flight.reader.close()
        sent_bytes = self.sender.sent_bytes - in_flight.started_bytes
        info = in_flight.info
        info.finished(sent_bytes, self._loop.time() - info.started_s, cut)
        pushing = in_flight.pushing
        if not complete and pushing is not None and pushing is not asyncio.current_task():
            pushing.cancel()
        if in_flight.sent is not None and not in_flight.sent.done():
            in_flight.sent.set_result(None)
        self._ended(in_flight.exchange, in_flight.closes, complete)

    def close(self) -> None:
        """The connection is lost: drops the queue, the exchange and the owner's function."""
        self.sender.close()
        self.current = None
        self._ended = do_nothing

    def abort(self, cut: str) -> None:
        """Ends the response in flight, and closes the connection at once."""
        self.finish(cut, complete=False)
        self._transport.abort()

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Aborts the response in flight if it has been revoked.

        Before its Content-Length or last chunk, so that the viewer can tell (RFC 9112 §8).
        """
        if self.in_flight is not None and self.in_flight.info.is_covered(is_revoked):
            self.abort(REVOKED)

    def running(self) -> RunningResponse | None:
        """The response in flight, as operators see it."""
        in_flight = self.in_flight
        if in_flight is None:
            return None
        sent_bytes = self.sender.sent_bytes - in_flight.started_bytes
        return in_flight.info.running(self._viewer.client, sent_bytes)

    def hit_left(
        self,
        remembered: Remembered,
        byte_range: ByteRange | None,
        hit: Hit[bytes],
        started_s: float,
    ) -> None:
        """Logs a hit whose viewer left before it could be sent."""
        message = hit[6]
        response = None if message is None else message.response
        duration_s = self._loop.time() - started_s
        queued = QueuedHit(remembered, byte_range, hit, self._viewer, response)
        self._handler.hit_finished(queued, 0, duration_s, VIEWER_LEFT)

    def _push_parts(self, head: bytes, reader: Reader, parts: tuple[bytes | Span, ...]) -> None:
        self.sender.push(head, *with_reader(reader, parts))

    async def _send_stream(
        self, in_flight: ResponseInFlight, head: bytes, framing: Framing, response: Response
    ) -> None:
        """Sends the pieces of a body, each when the previous one has been sent.

        An exception in them closes the connection, so that the viewer detects the error. When the
        viewer leaves, they are cancelled.
        """
        if response.stream is None:
            return
        in_flight.pushing = asyncio.current_task()
        try:
            async with contextlib.aclosing(response.stream) as pieces:
                self.sender.push(head)
                async for piece in pieces:
                    if self.in_flight is not in_flight:
                        return  # the viewer has left
                    self.sender.push(*(chunk(piece) if framing is Framing.CHUNKED else (piece,)))
                    await self._all_sent(in_flight)
                if self.in_flight is not in_flight:
                    return
                if framing is Framing.CHUNKED:
                    self.sender.push(last_chunk(response.trailers()))
                await self._all_sent(in_flight)
        except asyncio.CancelledError:
            if self.in_flight is in_flight:
                raise  # the edge is stopping
        except (OriginError, CacheFullError) as failure:
            self.abort(str(failure))
        except BaseException as failure:
            self.abort(str(failure))
            raise
        else:
            self.finish(None, complete=True)

    async def _all_sent(self, in_flight: ResponseInFlight) -> None:
        """Returns when the kernel has all pushed bytes."""
        while not self.sender.idle:
            in_flight.sent = self._loop.create_future()
            await in_flight.sent

    def _drained(self) -> None:
        in_flight = self.in_flight
        if in_flight is None:
            return
        if not in_flight.is_stream:
            self.finish(None, complete=True)
        elif in_flight.sent is not None and not in_flight.sent.done():
            in_flight.sent.set_result(None)

    def _failed(self, cause: Failure | None) -> None:
        self.abort(VIEWER_LEFT if cause is None else str(cause))


def _copy_parts(opened: OpenObject, parts: tuple[bytes | Span, ...]) -> bytes:
    """The bytes of parts of a cached object; b"" if they are too many, or some are not there."""
    if sum(part.size if isinstance(part, Span) else len(part) for part in parts) > COPIED_BYTES_MAX:
        return b""
    pieces = [opened.copy(part) if isinstance(part, Span) else part for part in parts]
    is_whole = all(
        len(piece) == part.size
        for part, piece in zip(parts, pieces, strict=True)
        if isinstance(part, Span)
    )
    return b"".join(pieces) if is_whole else b""
