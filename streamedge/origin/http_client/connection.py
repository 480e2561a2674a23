"""One HTTP/1.1 client connection to an origin.

``request`` encodes heads and ``response_parser`` parses them. This module frames bodies, buffers
received bytes, pauses reading while the buffer is full, and waits: for bytes, at most until the
deadline, and until more can be written. A body of known length is not parsed. Connecting and
retries are in ``client`` and ``pool``.
"""

from __future__ import annotations

import asyncio
import select
import sys
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import NamedTuple, cast

from streamedge.origin.http_client.head_templates import parse_repeated_head
from streamedge.origin.http_client.request import RequestHead
from streamedge.origin.http_client.response_parser import (
    END_OF_HEAD,
    HEAD_MAX_BYTES,
    ChunkedBody,
    FieldList,
    Framing,
    ResponseError,
    ResponseHead,
    require_head_start,
)

INTERIM_MAX = 64  # interim responses before the final one
UNREAD_MAX_BYTES = 512 << 10  # reading from the socket stops here
CHUNKS_MAX = 256  # of a body, decoded in one iteration of the event loop
SLICE_BYTES = 3 * CHUNKS_MAX  # a chunk has at least 6 bytes: half of CHUNKS_MAX
JOINED_MAX_BYTES = 64 << 10  # smaller pieces are joined
CLOSE_S = 5.0  # how long the last bytes of an upgraded connection may take to be sent


class UnreadBytes(NamedTuple):
    """Received bytes that were not read yet, and whether reading from the socket is paused."""

    size_bytes: int
    is_paused: bool


class ConnectionLostError(Exception):
    """Either side ended the connection before the expected data was received."""


class DeadlineError(Exception):
    """The expected data was not received before the deadline."""


Receiver = Callable[[DeadlineError | None], None]
"""Called when bytes were received or the connection has ended, or with an error at the deadline."""


class _Next(Enum):
    """What the next received bytes are."""

    NOTHING = "nothing"  # no request is running, or its response is complete
    HEAD = "head"
    SIZED_BODY = "sized body"
    CHUNKS = "chunks"
    UNTIL_END = "until the end"  # a body that ends with the connection, or another protocol


class Connection(asyncio.Protocol):
    """One connection, for one request at a time: ``send_head``, ``send_body`` …, ``end_body``, and
    concurrently ``head`` until it is final, then ``read`` until b"".

    At most one task reads and one writes. ``deadline_s``: the loop's time until which a task waits
    for bytes; None: for ever. ``idle_since_s``: since when the pool has it.
    """

    __slots__ = (
        "_chunks",
        "_closes",
        "_drain_waiter",
        "_failure",
        "_heads",
        "_interim_count",
        "_is_closing",
        "_is_complete",
        "_is_decoding_due",
        "_is_paused",
        "_is_sent",
        "_is_switched",
        "_is_writing_paused",
        "_method",
        "_missing_bytes",
        "_next",
        "_poll",
        "_receiver",
        "_sends_chunks",
        "_timer",
        "_timer_at_s",
        "_transport",
        "_undecoded",
        "_unread",
        "_unread_bytes",
        "_unsent_bytes",
        "_wants_upgrade",
        "deadline_s",
        "has_received",
        "idle_since_s",
        "loop",
        "size_bytes",
        "trailers",
    )

    _transport: asyncio.Transport  # from ``connection_made`` on

    def __init__(self) -> None:
        self.trailers: FieldList = []
        self.has_received = False  # whether a byte was received since the request was sent
        self.size_bytes: int | None = 0  # of the response's body; None if not announced
        self.deadline_s: float | None = None
        self.idle_since_s = 0.0
        self.loop = asyncio.get_running_loop()
        self._method = ""
        self._closes = False  # whether either side wants the connection closed behind the response
        self._wants_upgrade = False
        self._sends_chunks = False
        self._unsent_bytes = 0  # of a request's body with Content-Length
        self._is_sent = True  # the whole request
        self._next = _Next.NOTHING
        self._heads: deque[ResponseHead] = deque()
        self._interim_count = 0
        self._missing_bytes = 0  # of a body of known length
        self._chunks: ChunkedBody | None = None
        self._undecoded = bytearray()  # the beginning of a head, or chunks
        self._is_decoding_due = False  # whether chunks wait for the next iteration of the loop
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._is_paused = False
        self._is_switched = False
        self._is_complete = False
        self._is_closing = False
        self._failure: Exception | None = None
        self._receiver: Receiver | None = None  # what waits for bytes
        self._timer: asyncio.TimerHandle | None = None  # not later than its deadline
        self._timer_at_s = 0.0
        self._drain_waiter: asyncio.Future[None] | None = None
        self._is_writing_paused = False
        self._poll: select.poll | None = None  # of the socket; made when it is first reused

    # --- the request ----------------------------------------------------------------------

    def send_head(self, request: RequestHead) -> None:
        """Starts a request. Raises ConnectionLostError."""
        transport = self._open_transport()
        self.trailers = []
        self.has_received = False
        self.size_bytes = 0
        self._method = request.method
        self._closes = request.closes
        self._wants_upgrade = request.wants_upgrade
        self._sends_chunks = request.body_bytes is None
        self._unsent_bytes = request.body_bytes or 0
        self._is_sent = False
        self._interim_count = 0
        self._is_complete = False
        self._next = _Next.HEAD
        transport.write(request.data)

    def send_body(self, piece: bytes) -> None:
        """Sends ``piece`` of the body; ``drain`` before the next one. Raises ConnectionLostError,
        and ValueError for more bytes than the Content-Length.
        """
        transport = self._open_transport()
        if not piece:
            return
        if self._sends_chunks:
            transport.writelines([b"%x\r\n" % len(piece), piece, b"\r\n"])
            return
        if len(piece) > self._unsent_bytes:
            raise ValueError("the body is longer than its Content-Length")
        self._unsent_bytes -= len(piece)
        transport.write(piece)

    def end_body(self, trailers: bytes = b"") -> None:
        """Ends the request; ``trailers`` only after a chunked body. Raises ConnectionLostError, and
        ValueError for fewer bytes than the Content-Length.
        """
        if self._unsent_bytes:
            raise ValueError("the body is shorter than its Content-Length")
        if self._sends_chunks:
            self._open_transport().write(b"0\r\n%b\r\n" % trailers)
        self._is_sent = True

    def write(self, data: bytes) -> None:
        """Sends bytes of the new protocol after a 101. Raises ConnectionLostError."""
        self._open_transport().write(data)

    async def drain(self) -> None:
        """Waits until more may be written. Raises ConnectionLostError."""
        while self._is_writing_paused and self._failure is None:
            self._drain_waiter = self.loop.create_future()
            await self._drain_waiter
        self._open_transport()

    # --- the response ---------------------------------------------------------------------

    async def head(self) -> ResponseHead:
        """The next head, interim or final. Raises ConnectionLostError, DeadlineError,
        ResponseError.
        """
        while not self._heads:
            await self._wait_for_data()
        return self._heads.popleft()

    async def read(self) -> bytes:
        """The received bytes of the body (after a 101: all bytes), at least one; b"" at its end.
        Raises as ``head``, ConnectionLostError if it was truncated.
        """
        while not self._unread:
            if self._is_complete:
                return b""
            await self._wait_for_data()
        return self.read_available()

    def read_available(self) -> bytes:
        """As ``read``, without waiting: b"" if nothing was received."""
        unread = self._unread
        if not unread:
            return b""
        if len(unread) == 1 or len(unread[0]) > JOINED_MAX_BYTES:
            piece = unread.popleft()
        else:
            piece = b"".join(unread)
            unread.clear()
        self._unread_bytes -= len(piece)
        self._resume_reading()
        return piece

    async def buffered(self, size_bytes: int, within_s: float) -> bytes | None:
        """A body of ``size_bytes`` that was received as a whole and not read yet; None if it was
        not within ``within_s``.
        """
        if not self._is_complete:
            try:
                async with asyncio.timeout(within_s):
                    while not self._is_complete:
                        await self._wait_for_data()
            except (TimeoutError, DeadlineError, ConnectionLostError, ResponseError):
                return None  # the next read has the reason
        return b"".join(self._unread) if self._unread_bytes == size_bytes else None

    def when_received(self, receiver: Receiver) -> None:
        """Calls ``receiver`` once, in place of one that still waits. It must not raise."""
        self._receiver = receiver
        self._watch_deadline()

    def take_final_head(self) -> ResponseHead | None:
        """The final head if it is the next one and was received, without waiting; else None."""
        if not self._heads or self._heads[0].is_interim:
            return None
        return self._heads.popleft()

    @property
    def awaits_head(self) -> bool:
        """Whether no head was received since the last one, and one may still come."""
        return not self._heads and self._failure is None

    @property
    def unread(self) -> UnreadBytes:
        """The received bytes that ``read`` has not returned yet."""
        return UnreadBytes(self._unread_bytes, self._is_paused)

    @property
    def is_complete(self) -> bool:
        """Whether the whole response was received; some of it may not be read yet."""
        return self._is_complete

    @property
    def is_exhausted(self) -> bool:
        """Whether the whole response was received and read."""
        return self._is_complete and not self._unread

    # --- between requests -----------------------------------------------------------------

    def recycle(self) -> bool:
        """Prepares for another request and drops unread bytes. False: it cannot be reused."""
        if self._failure is not None or not self._is_complete or self._is_switched:
            return False
        if self._closes or not self._is_sent:
            return False
        while self._unread:
            self.read_available()
        self.deadline_s = None
        return True

    def begin_idle(self) -> None:
        """Sets ``idle_since_s``."""
        self.idle_since_s = self.loop.time()

    def is_quiet(self) -> bool:
        """Whether the peer has neither closed an idle connection nor sent anything on it.

        Unsolicited bytes must never become part of the next response, so the socket itself is
        polled: the event loop may not have read it yet.
        """
        if self._failure is not None or self._transport.is_closing():
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._poll.poll(0)

    def abort(self) -> None:
        """Drops the connection, unless ``close`` was called; waiting tasks get the error."""
        self._fail(ConnectionLostError("closed by this side"))
        if not self._is_closing:
            self._transport.abort()

    def close(self) -> None:
        """Closes the connection after the written bytes were sent, or after ``CLOSE_S``."""
        self._fail(ConnectionLostError("closed by this side"))
        if not self._is_closing:
            self._is_closing = True
            self._transport.close()
            self.loop.call_later(CLOSE_S, self._transport.abort)

    # --- asyncio.Protocol -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not instances of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.has_received = True
        if self._failure is not None:
            return
        match self._next:
            case _Next.HEAD:
                self._receive_head(data)
            case _Next.SIZED_BODY:
                self._receive_body(data)
            case _Next.CHUNKS:
                self._receive_chunks(data)
            case _Next.UNTIL_END:
                self._buffer(data)
            case _Next.NOTHING:
                # Unsolicited bytes: a complete response stays valid, but the connection is dropped.
                self.abort()
        self._wake()

    def eof_received(self) -> None:
        self._decode_remaining()
        # Only a body with neither Content-Length nor chunks ends this way, and another protocol.
        if self._next is _Next.UNTIL_END and self._failure is None:
            self._end_body()
        self._fail(ConnectionLostError("closed by the peer"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._decode_remaining()
        error = ConnectionLostError("lost")
        error.__cause__ = exc
        self._fail(error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._wake_drain()

    # --- waiting --------------------------------------------------------------------------

    def _open_transport(self) -> asyncio.Transport:
        # A transport may be closing before it calls connection_lost; do not write to it then.
        if self._failure is not None or self._transport.is_closing():
            raise ConnectionLostError("the connection has ended") from self._failure
        return self._transport

    async def _wait_for_data(self) -> None:
        """Waits until data was received. Raises what ended the connection, DeadlineError."""
        if isinstance(self._failure, ResponseError):
            raise ResponseError(str(self._failure)) from self._failure
        self._open_transport()
        waiter = self.loop.create_future()
        self.when_received(partial(_wake_task, waiter))
        await waiter

    def _wake(self, error: DeadlineError | None = None) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver(error)

    def _wake_drain(self) -> None:
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _watch_deadline(self) -> None:
        """Has the one timer run out at the deadline or earlier."""
        deadline_s = self.deadline_s
        if deadline_s is None or (self._timer is not None and self._timer_at_s <= deadline_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = deadline_s
        self._timer = self.loop.call_at(deadline_s, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._receiver is None or self.deadline_s is None:
            return  # the next wait sets the timer
        if self.loop.time() < self.deadline_s:
            self._watch_deadline()
            return
        self._wake(DeadlineError())

    def limit_wait(self, deadline_s: float | None) -> None:
        """Sets ``deadline_s`` while another task may be waiting."""
        self.deadline_s = deadline_s
        if self._receiver is not None:
            self._watch_deadline()

    # --- receiving ------------------------------------------------------------------------

    def _receive_head(self, data: bytes) -> None:
        """Parses heads up to the final one, and takes the bytes behind it as its body."""
        if self._undecoded:
            searched = max(0, len(self._undecoded) - 2)
            self._undecoded += data
            if END_OF_HEAD.search(self._undecoded, searched) is None:
                data = b""
            else:
                data = bytes(self._undecoded)
                self._undecoded.clear()
        try:
            while self._next is _Next.HEAD and (end := END_OF_HEAD.search(data)) is not None:
                if end.end() > HEAD_MAX_BYTES:
                    raise ResponseError("the header section is too long")
                self._begin_response(parse_repeated_head(data[: end.end()], self._method))
                data = data[end.end() :]
            if self._next is _Next.HEAD:
                self._undecoded += data
                require_head_start(self._undecoded)
        except ResponseError as exc:
            self._fail(exc)
            self.abort()
            return
        self._receive_behind_head(data)

    def _begin_response(self, head: ResponseHead) -> None:
        if head.is_interim:
            self._interim_count += 1
            if self._interim_count > INTERIM_MAX:
                raise ResponseError("too many interim responses")
            self._heads.append(head)
            return
        if head.framing is Framing.SWITCHED:
            if not self._wants_upgrade:
                raise ResponseError("101 to a request without Upgrade")
            self._is_switched = True
        self._heads.append(head)
        self._closes = self._closes or head.closes
        self.size_bytes = head.size_bytes
        match head.framing:
            case Framing.LENGTH:
                self._next, self._missing_bytes = _Next.SIZED_BODY, head.size_bytes or 0
            case Framing.CHUNKED:
                self._next, self._chunks = _Next.CHUNKS, ChunkedBody()
            case _:
                self._next = _Next.UNTIL_END

    def _receive_behind_head(self, data: bytes) -> None:
        match self._next:
            case _Next.SIZED_BODY:
                self._receive_body(data)
            case _Next.CHUNKS:
                self._receive_chunks(data)
            case _Next.UNTIL_END:
                self._buffer(data)
            case _:
                pass  # the final head is still to come

    def _receive_body(self, data: bytes) -> None:
        """Buffers received bytes of a body of known length."""
        missing_bytes = self._missing_bytes
        has_more = len(data) > missing_bytes
        if has_more:
            data = data[:missing_bytes]
        self._buffer(data)
        self._missing_bytes = missing_bytes - len(data)
        if not self._missing_bytes:
            self._end_body()
            if has_more:
                self.abort()  # unsolicited bytes

    def _receive_chunks(self, data: bytes) -> None:
        """Decodes chunks; many small ones only some at a time, because each takes a while."""
        if not self._undecoded and data.count(b"\r\n") < CHUNKS_MAX:
            self._decode(data)
            return
        self._undecoded += data
        if not self._is_decoding_due:
            self._decode_undecoded()

    def _decode_undecoded(self, chunks_max: int = CHUNKS_MAX) -> None:
        chunks = 0
        while self._undecoded and self._next is _Next.CHUNKS and self._failure is None:
            if chunks + CHUNKS_MAX // 2 > chunks_max:
                self._is_decoding_due = True
                self._pause_reading()
                self.loop.call_soon(self._continue_decoding)
                return
            data = bytes(self._undecoded[:SLICE_BYTES])
            del self._undecoded[:SLICE_BYTES]
            chunks += self._decode(data)
        if self._undecoded:
            self._undecoded.clear()
            self.abort()  # unsolicited bytes

    def _continue_decoding(self) -> None:
        if self._is_decoding_due and self._failure is None:
            self._is_decoding_due = False
            self._decode_undecoded()
            self._wake()
            self._resume_reading()

    def _decode_remaining(self) -> None:
        """Decodes the bytes received before the connection's end, at most one read."""
        if self._is_decoding_due and self._failure is None:
            self._is_decoding_due = False
            self._decode_undecoded(sys.maxsize)

    def _decode(self, data: bytes) -> int:
        """Decodes bytes of a body in chunks; returns how many pieces of the body they had."""
        body = self._chunks
        if body is None or not data:
            return 0
        try:
            body.feed(data)
        except ResponseError as exc:
            self._take_pieces(body)
            self._fail(exc)
            self.abort()
            return 0
        count = self._take_pieces(body)
        if body.is_complete:
            self.trailers = body.trailers
            self._chunks = None
            self._end_body()
            if body.has_more:
                self.abort()  # unsolicited bytes
        return count

    def _take_pieces(self, body: ChunkedBody) -> int:
        count = len(body.pieces)
        for piece in body.pieces:
            self._buffer(piece)
        body.pieces.clear()
        return count

    def _end_body(self) -> None:
        """The whole response was received."""
        self._is_complete = True
        self._next = _Next.NOTHING

    def _buffer(self, piece: bytes) -> None:
        if not piece:
            return
        self._unread.append(piece)
        self._unread_bytes += len(piece)
        if self._unread_bytes >= UNREAD_MAX_BYTES:
            self._pause_reading()

    def _pause_reading(self) -> None:
        if not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._is_paused and not self._is_decoding_due and self._unread_bytes < UNREAD_MAX_BYTES:
            self._is_paused = False
            if self._failure is None:
                self._transport.resume_reading()

    def _fail(self, failure: Exception) -> None:
        """Stores the first failure, and wakes waiting tasks."""
        if self._failure is None:
            self._failure = failure
        self._wake()
        self._wake_drain()


def _wake_task(waiter: asyncio.Future[None], error: DeadlineError | None) -> None:
    if waiter.done():
        return  # its task was cancelled
    if error is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(error)
