"""Sends the responses of an HTTP/2 connection: whose turn it is, and how much the peer accepts.

Bodies are read from the cache only when they can be sent: when the windows of the stream and of the
connection have room for them, and the kernel has taken all bytes before them. ``schedule`` chooses
whose turn it is. So a viewer that does not read costs the memory of its requests, and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from streamedge.cache.open_object import Failure
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.storage.records import Provenance
from streamedge.callbacks import do_nothing
from streamedge.delivery.http.fast_path.remembered import Hit, QueuedHit, RememberedRequest, SentHit
from streamedge.delivery.http.fast_path.request_memo import ByteRange
from streamedge.delivery.http.handler import HttpHandler
from streamedge.delivery.http.http2.encoding import Head, encode_fields, encode_head
from streamedge.delivery.http.http2.engine import Engine, ErrorCode, SentField
from streamedge.delivery.http.http2.exchange import Http2Exchange
from streamedge.delivery.http.http2.in_flight import ResponseInFlight
from streamedge.delivery.http.http2.schedule import Priority, Schedule
from streamedge.delivery.http.response.body import with_reader
from streamedge.delivery.http.response.build import Response
from streamedge.delivery.http.response.cloudfront_log import REVOKED, VIEWER_LEFT, VIEWER_STALLED
from streamedge.delivery.http.response_info import info_of_hit, info_of_response
from streamedge.delivery.http.seen_viewers import RunningResponse, ViewerKey, viewer_key
from streamedge.delivery.http.viewer import Viewer
from streamedge.delivery.viewers import ENDED_BY_OPERATOR
from streamedge.errors import CacheFullError, OriginError
from streamedge.spans import Span

ROUND_BYTES: Final = 256 << 10
"""Bytes of bodies that are read, framed, encrypted and written at once; no more of them wait."""

QUANTUM_BYTES: Final = 1 << 20
"""Bytes that are sent before other connections have their turn."""

Remembered = RememberedRequest[Head, Head]


class Http2ResponderStats(NamedTuple):
    """The state of the response side. ``responses``: those that are being sent; ``blocked``: those
    of them that wait for the peer's window. ``is_blocked``: the kernel takes no bytes now;
    ``is_window_closed``: nor does the peer, on any stream.
    """

    responses: int
    blocked: int
    is_blocked: bool
    is_window_closed: bool


class Http2Responder:
    """The response side of one connection. ``send_hit`` and ``send`` take the responses.

    ``process()`` is called between two rounds: it handles what the engine reports and returns
    whether the engine may have more to send. ``ended(exchange)`` is called at the end of each
    response, complete or not; the exchange is None for a hit of the fast path. ``written()`` is
    called when nothing more can be sent now.
    """

    __slots__ = (
        "_blocked_since_s",
        "_ended",
        "_engine",
        "_handler",
        "_is_closed",
        "_is_writing",
        "_loop",
        "_next_quantum",
        "_process",
        "_responses",
        "_schedule",
        "_transport",
        "_viewer",
        "_window_closed_since_s",
        "_written",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        engine: Engine,
        handler: HttpHandler,
        viewer: Viewer,
        *,
        process: Callable[[], bool],
        ended: Callable[[Http2Exchange | None], None],
        written: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._engine = engine
        self._handler = handler
        self._viewer = viewer
        self._process = process
        self._ended = ended
        self._written = written
        self._schedule = Schedule()
        self._responses: dict[int, ResponseInFlight] = {}
        self._next_quantum: asyncio.Handle | None = None
        self._is_writing = False
        self._is_closed = False
        self._blocked_since_s: float | None = None  # since when the kernel takes no bytes
        self._window_closed_since_s: float | None = None  # since when the peer takes none

    def stats(self) -> Http2ResponderStats:
        """Its present state."""
        return Http2ResponderStats(
            len(self._responses),
            sum(one.blocked_since_s is not None for one in self._responses.values()),
            self._blocked_since_s is not None,
            self._window_closed_since_s is not None,
        )

    @property
    def is_idle(self) -> bool:
        """Whether no response is being sent."""
        return not self._responses

    def has_response(self, stream_id: int) -> bool:
        """Whether a response is being sent on a stream."""
        return stream_id in self._responses

    # --- responses ----------------------------------------------------------------------------

    def send_hit(
        self,
        stream_id: int,
        remembered: Remembered,
        byte_range: ByteRange | None,
        hit: Hit[Head],
        loop_s: float,
    ) -> SentHit | None:
        """Sends a hit. Returns None when it is not sent at once; then it is logged at its end."""
        status, head, ready, start, end, _opened, message, request_id = hit
        viewer, engine = self._viewer, self._engine
        size, body = end - start, b""
        parts: Sequence[bytes | Span] = ()
        response = None
        if message is not None:
            response = message.response
            body, parts = response.message.body, response.message.parts
        if not size and not body and not parts:
            engine.respond(stream_id, head, ends=True)
            return remembered, byte_range, status, viewer, 0, response, request_id, start, end
        is_small = size + engine.unsent_bytes() <= ROUND_BYTES
        is_small = is_small and not parts and (ready is not None or not size)
        if is_small and not self._schedule and self._blocked_since_s is None:
            if ready is not None:
                # A rest is in another file; a short read means that bytes are missing.
                body = os.pread(ready.fd, size, ready.offset) if ready.size_bytes == size else b""
            count = len(body)
            if count and count >= size and count <= engine.room(stream_id):
                engine.respond_whole(stream_id, head, body)
                return (
                    remembered, byte_range, status, viewer, count, response, request_id, start, end,
                )  # fmt: skip
            if ready is not None:
                body = b""
        self._queue_hit(stream_id, remembered, byte_range, hit, body, loop_s)
        return None

    def _queue_hit(
        self,
        stream_id: int,
        remembered: Remembered,
        byte_range: ByteRange | None,
        hit: Hit[Head],
        body: bytes,
        loop_s: float,
    ) -> None:
        """Sends the head of a hit, and its body when it is its turn."""
        _status, head, _ready, start, end, opened, message, _request_id = hit
        response = None if message is None else message.response
        reader = None if opened is None else Reader(opened, CacheResult.HIT)
        queued = QueuedHit(remembered, byte_range, hit, self._viewer, response)
        info = info_of_hit(queued, self._handler, loop_s)
        in_flight = ResponseInFlight(info, stream_id, None, reader)
        in_flight.is_ending = True
        if reader is None or body:
            in_flight.body.push(body)
        elif response is not None and response.message.parts:
            in_flight.body.push(*with_reader(reader, response.message.parts))
        else:
            in_flight.body.push((reader, Span(start, end)))
        self._begin(in_flight, head)

    async def send(self, exchange: Http2Exchange, response: Response) -> None:
        """Sends a response; returns when all of it is queued or the viewer has left."""
        exchange.has_response = True
        request = exchange.request
        first_byte_s = self._loop.time() - request.started_s
        message, reader, stream = response.message, response.reader, response.stream
        info = info_of_response(request, response, self._viewer, self._handler, first_byte_s)
        in_flight = ResponseInFlight(info, exchange.stream_id, exchange, reader)
        head = encode_head(message.head, request.request_id)
        if stream is not None:
            self._begin(in_flight, head)
            self.write()
            await self._send_stream(in_flight, response)
            return
        if reader is None:
            in_flight.body.push(message.body)
        elif message.span is not None:
            in_flight.body.push((reader, message.span))
        else:
            in_flight.body.push(*with_reader(reader, message.parts))
        in_flight.is_ending = True
        self._begin(in_flight, head)
        self.write()

    def send_interim(self, stream_id: int, fields: Sequence[SentField]) -> None:
        """Sends the head of a 1xx response."""
        self._engine.interim(stream_id, fields)
        self.write_soon()

    async def _send_stream(self, in_flight: ResponseInFlight, response: Response) -> None:
        """Sends the pieces of a body, each when the previous one has been sent.

        An exception in them resets the stream, so that the viewer detects the error. When the
        viewer leaves, they are cancelled.
        """
        if response.stream is None:
            return
        in_flight.pushing = asyncio.current_task()
        try:
            async with contextlib.aclosing(response.stream) as pieces:
                async for piece in pieces:
                    if self._has_ended(in_flight):
                        return
                    in_flight.body.push(piece)
                    await self._sent(in_flight)
                if self._has_ended(in_flight):
                    return
                in_flight.trailers = encode_fields(response.trailers())
                in_flight.is_ending = True
                self._ready(in_flight.stream_id)
                self.write()
        except asyncio.CancelledError:
            if not self._has_ended(in_flight):
                raise  # the edge is stopping
        except (OriginError, CacheFullError) as failure:
            self._cut(in_flight, str(failure))
            self.write()
        except BaseException as failure:
            self._cut(in_flight, str(failure))
            self.write()
            raise

    async def _sent(self, in_flight: ResponseInFlight) -> None:
        """Sends what was pushed; returns when the transport has it or the stream has ended."""
        self._ready(in_flight.stream_id)
        self.write()
        while not in_flight.body.is_empty and not self._has_ended(in_flight):
            in_flight.done = self._loop.create_future()
            await in_flight.done

    def _has_ended(self, in_flight: ResponseInFlight) -> bool:
        return self._responses.get(in_flight.stream_id) is not in_flight

    def _begin(self, in_flight: ResponseInFlight, head: Head) -> None:
        """Sends the head of a response, and schedules its body."""
        stream_id = in_flight.stream_id
        ends = in_flight.is_ending and in_flight.body.is_empty
        self._responses[stream_id] = in_flight
        if not self._engine.respond(stream_id, head, ends=ends):
            self._finish(in_flight, "viewer left")
        elif ends:
            self._finish(in_flight, None)
        else:
            self._ready(stream_id)

    # --- what the peer and the kernel accept ---------------------------------------------------

    def block(self) -> None:
        """The kernel takes no more bytes."""
        if self._blocked_since_s is None:
            self._blocked_since_s = self._loop.time()

    def unblock(self) -> None:
        """The kernel takes bytes again."""
        self._blocked_since_s = None
        if not self._is_writing:
            self.write()

    def window_opened(self, stream_id: int) -> None:
        """The peer accepts more bytes of a stream, or (0) of the connection."""
        if not stream_id:
            self._window_closed_since_s = None
            return
        in_flight = self._responses.get(stream_id)
        if in_flight is not None and in_flight.blocked_since_s is not None:
            in_flight.blocked_since_s = None
            self._ready(stream_id)

    def windows_changed(self) -> None:
        """The peer has set another size for the windows of all streams (RFC 9113 §6.9.2)."""
        self.window_opened(0)
        for stream_id in self._responses:
            self.window_opened(stream_id)

    def priority_changed(self, stream_id: int) -> None:
        """The peer has set another priority for a stream (RFC 9218 §7.1)."""
        if stream_id in self._schedule:
            self._ready(stream_id)

    def is_stalled(self, now_s: float, stall_s: float) -> bool:
        """Whether the kernel or the peer has accepted nothing for too long."""
        since_s = self._blocked_since_s
        if since_s is None and self._schedule:
            since_s = self._window_closed_since_s
        return since_s is not None and now_s - since_s > stall_s

    # --- writing ------------------------------------------------------------------------------

    def write_soon(self) -> None:
        """Writes before the loop waits again."""
        if self._next_quantum is None:
            self._next_quantum = self._loop.call_soon(self.write)

    def write(self) -> None:
        """Sends what can be sent: frames of the engine, and bytes of bodies in turns."""
        if self._next_quantum is not None:
            self._next_quantum.cancel()
            self._next_quantum = None
        if self._is_writing or self._is_closed:
            return
        self._is_writing = True
        quantum_bytes = 0
        try:
            while self._blocked_since_s is None and self._engine.ended is None:
                fed_bytes, may_go_on = self._write_round()
                if not may_go_on:
                    break  # nothing is left, or all that is left waits
                quantum_bytes += fed_bytes
                if quantum_bytes >= QUANTUM_BYTES:
                    self.write_soon()
                    break
        finally:
            self._is_writing = False
        self._written()

    def _write_round(self) -> tuple[int, bool]:
        """Sends one round; returns the count of bytes of bodies, and whether there may be more."""
        completed: list[ResponseInFlight] = []
        fed_bytes = self._feed(completed) if self._schedule else 0
        output = self._engine.to_send()
        if output:
            self._transport.write(output)
        has_resets = False
        for in_flight in completed:
            has_resets |= in_flight.exchange is not None and not in_flight.exchange.is_received
            self._finish(in_flight, None)
        may_send = self._process()
        return fed_bytes, may_send or has_resets or (bool(output) and len(self._schedule) > 0)

    def _feed(self, completed: list[ResponseInFlight]) -> int:
        """Gives the engine bytes of bodies, in turns; returns how many."""
        fed_bytes, round_bytes = 0, ROUND_BYTES - self._engine.unsent_bytes()
        while fed_bytes < round_bytes and (turn := self._schedule.next()) is not None:
            stream_id, turn_bytes = turn
            in_flight = self._responses[stream_id]
            room = self._engine.room(stream_id)
            if room <= 0:
                if self._engine.connection_room() <= 0:
                    if self._window_closed_since_s is None:
                        self._window_closed_since_s = self._loop.time()
                    break
                in_flight.blocked_since_s = self._loop.time()
                self._schedule.remove(stream_id)
                continue
            count = self._feed_stream(in_flight, min(room, turn_bytes, round_bytes - fed_bytes))
            fed_bytes += count
            if stream_id not in self._responses:
                continue
            self._schedule.sent(stream_id, count)
            if in_flight.body.is_empty:
                self._schedule.remove(stream_id)
                if in_flight.is_ending:
                    completed.append(in_flight)
                elif in_flight.done is not None and not in_flight.done.done():
                    in_flight.done.set_result(None)
        return fed_bytes

    def _feed_stream(self, in_flight: ResponseInFlight, count: int) -> int:
        """Gives the engine at most ``count`` bytes of a body; returns how many."""
        stream_id, body = in_flight.stream_id, in_flight.body
        data = b""
        if not body.is_empty:
            try:
                data = body.read(count)
            except OSError as exc:
                self._cut(in_flight, str(exc))
                return 0
            if not data:
                self._schedule.remove(stream_id)
                body.wait(partial(self._woken, in_flight))
                return 0
        ends = in_flight.is_ending and body.is_empty
        if ends and in_flight.trailers:
            self._engine.data(stream_id, data, ends=False)
            self._engine.trailers(stream_id, in_flight.trailers)
        else:
            self._engine.data(stream_id, data, ends=ends)
        in_flight.sent_bytes += len(data)
        return len(data)

    def _woken(self, in_flight: ResponseInFlight, failure: Failure | None) -> None:
        """Bytes of a body have come into the cache, or cannot come."""
        if self._has_ended(in_flight):
            return
        if failure is None:
            self._ready(in_flight.stream_id)
        else:
            self._cut(in_flight, str(failure))
        self.write_soon()

    def _ready(self, stream_id: int) -> None:
        """A stream has something to send, and may be able to."""
        self._schedule.add(stream_id, Priority(*self._engine.priority(stream_id)))

    # --- ends ---------------------------------------------------------------------------------

    def close_stream(self, stream_id: int, cut: str) -> None:
        """Ends the response on a stream that has ended, if there is one."""
        in_flight = self._responses.get(stream_id)
        if in_flight is not None:
            self._finish(in_flight, cut)

    def cut_stalled(self, now_s: float, stall_s: float) -> None:
        """Resets the streams whose window was closed for too long."""
        for in_flight in list(self._responses.values()):
            blocked_s = in_flight.blocked_since_s
            if blocked_s is not None and now_s - blocked_s > stall_s:
                self._cut(in_flight, VIEWER_STALLED)

    def revoke(self, is_revoked: Callable[[Provenance], bool]) -> None:
        """Resets the streams whose responses have been revoked."""
        for in_flight in list(self._responses.values()):
            if in_flight.info.is_covered(is_revoked):
                self._cut(in_flight, REVOKED)
        self.write()

    def running(self) -> list[RunningResponse]:
        """The responses in flight, as operators see them."""
        return [
            in_flight.info.running(self._viewer.client, in_flight.sent_bytes)
            for in_flight in self._responses.values()
        ]

    def end_viewer(self, viewer: ViewerKey) -> bool:
        """Resets the streams of a viewer's responses; returns whether there was any."""
        matches = [
            in_flight
            for in_flight in self._responses.values()
            if viewer_key(in_flight.info.request, in_flight.info.address) == viewer
        ]
        for in_flight in matches:
            self._cut(in_flight, ENDED_BY_OPERATOR)
        self.write()
        return bool(matches)

    def finish_all(self, cut: str) -> None:
        """Ends all responses early."""
        for in_flight in list(self._responses.values()):
            self._finish(in_flight, cut)

    def close(self) -> None:
        """Ends all responses: the connection is lost. Nothing more is written.

        Drops the owner's functions, which would keep the connection until the next garbage
        collection.
        """
        self._is_closed = True
        if self._next_quantum is not None:
            self._next_quantum.cancel()
            self._next_quantum = None
        self.finish_all(VIEWER_LEFT)
        self._process, self._ended, self._written = _has_nothing, do_nothing, do_nothing

    def _finish(self, in_flight: ResponseInFlight, cut: str | None) -> None:
        """Ends a response in flight. ``cut``: why it ends early, or None."""
        if self._responses.pop(in_flight.stream_id, None) is None:
            return
        self._schedule.remove(in_flight.stream_id)
        in_flight.body.close()
        if in_flight.reader is not None:
            in_flight.reader.close()
        info = in_flight.info
        info.finished(in_flight.sent_bytes, self._loop.time() - info.started_s, cut)
        self._ended(in_flight.exchange)
        pushing = in_flight.pushing
        if cut is not None and pushing is not None and pushing is not asyncio.current_task():
            pushing.cancel()
        if in_flight.done is not None and not in_flight.done.done():
            in_flight.done.set_result(None)

    def _cut(self, in_flight: ResponseInFlight, cut: str) -> None:
        """Resets the stream of a response, so that the viewer knows that it is not complete."""
        if not self._has_ended(in_flight):
            self._engine.reset(in_flight.stream_id, ErrorCode.INTERNAL_ERROR)
            self._finish(in_flight, cut)


def _has_nothing() -> bool:
    """In place of the owner's function, when the connection is lost."""
    return False
