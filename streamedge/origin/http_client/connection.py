"""One HTTP/1.1 client connection to an origin.

h11 parses and frames. This module buffers received bytes, pauses reading while the buffer is full,
and waits until more can be written. A body of known length bypasses h11, which would copy every
byte four times. Timeouts, connecting and retries are in ``client`` and ``pool``.
"""

from __future__ import annotations

import asyncio
import select
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import h11

HEAD_MAX_BYTES = 64 << 10  # a header section or a trailer section, as h11 counts it
INTERIM_MAX = 64  # interim responses before the final one
UNREAD_MAX_BYTES = 512 << 10  # reading from the socket stops here
EVENTS_MAX = 256  # chunks of a body, or heads, parsed in one iteration of the event loop
JOINED_MAX_BYTES = 64 << 10  # smaller pieces are joined
CLOSE_S = 5.0  # how long the last bytes of an upgraded connection may take to be sent

FieldList = list[tuple[str, str]]


class UnreadBytes(NamedTuple):
    """Received bytes that were not read yet, and whether reading from the socket is paused."""

    size_bytes: int
    is_paused: bool


class ConnectionLostError(Exception):
    """Either side ended the connection before the expected data was received."""


class Connection(asyncio.Protocol):
    """One connection, for one request at a time: ``send_head``, ``send_body`` …, ``end_body``, and
    concurrently ``head`` until it is final, then ``read`` until b"".

    At most one task reads and one writes.
    """

    def __init__(self) -> None:
        self.trailers: FieldList = []
        self.has_received = False  # whether a byte was received since the request was sent
        self.size_bytes: int | None = 0  # of the response's body; None if not announced
        self._http = h11.Connection(h11.CLIENT, HEAD_MAX_BYTES)
        self._method = b""
        self._transport: asyncio.Transport  # from ``connection_made`` on
        self._heads: deque[h11.InformationalResponse | h11.Response] = deque()
        self._interim_count = 0
        self._missing_bytes = 0  # of a body of known length
        self._unread: deque[bytes | bytearray] = deque()
        self._unread_bytes = 0
        self._is_paused = False
        self._has_unparsed = False  # whether some received bytes are not parsed yet
        self._is_switched = False
        self._is_complete = False
        self._is_closing = False
        self._failure: Exception | None = None
        self._has_data = asyncio.Event()  # data was received, or the connection has ended
        self._writable = asyncio.Event()
        self._writable.set()

    # --- the request ----------------------------------------------------------------------

    def send_head(self, request: h11.Request) -> None:
        """Starts a request. Raises h11.LocalProtocolError, ConnectionLostError."""
        self.trailers = []
        self.has_received = False
        self.size_bytes = 0
        self._method = request.method
        self._interim_count = 0
        self._is_complete = False
        self._send(request)

    def send_body(self, piece: bytes) -> None:
        """Sends ``piece`` of the body; ``drain`` before the next one. Raises as ``send_head``,
        LocalProtocolError for more bytes than the Content-Length.
        """
        self._send(h11.Data(data=piece))

    def end_body(self, trailers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Ends the request; ``trailers`` only after a chunked body. Raises as ``send_body``."""
        self._send(h11.EndOfMessage(headers=list(trailers)))

    def write(self, data: bytes) -> None:
        """Sends bytes of the new protocol after a 101. Raises ConnectionLostError."""
        self._open_transport().write(data)

    async def drain(self) -> None:
        """Waits until more may be written. Raises ConnectionLostError."""
        await self._writable.wait()
        self._open_transport()

    # --- the response ---------------------------------------------------------------------

    async def head(self) -> h11.InformationalResponse | h11.Response:
        """The next head, interim or final. Raises ConnectionLostError, h11.RemoteProtocolError."""
        while not self._heads:
            await self._wait_for_data()
        return self._heads.popleft()

    async def read(self) -> bytes:
        """The received bytes of the body (after a 101: all bytes), at least one; b"" at its end.
        Raises ConnectionLostError if it was truncated, h11.RemoteProtocolError.
        """
        while not self._unread:
            if self._is_complete:
                return b""
            await self._wait_for_data()
        return self.read_available()

    def read_available(self) -> bytes:
        """As ``read``, without waiting: b"" if nothing was received."""
        if self._unread and len(self._unread[0]) > JOINED_MAX_BYTES:
            piece = bytes(self._unread.popleft())
        else:
            piece = b"".join(self._unread)
            self._unread.clear()
        self._unread_bytes -= len(piece)
        self._resume_reading()
        return piece

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
        # h11 is not in DONE if either side wants the connection closed, or if the request was
        # not sent completely.
        if self._failure is not None or not self._is_complete or self._is_switched:
            return False
        if self._http.our_state is not h11.DONE:
            return False
        while self._unread:
            self.read_available()
        self._http = h11.Connection(h11.CLIENT, HEAD_MAX_BYTES)
        return True

    def is_quiet(self) -> bool:
        """Whether the peer has neither closed an idle connection nor sent anything on it.

        Unsolicited bytes must never become part of the next response, so the socket itself is
        polled: the event loop may not have read it yet.
        """
        if self._failure is not None or self._transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

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
            asyncio.get_running_loop().call_later(CLOSE_S, self._transport.abort)

    # --- asyncio.Protocol -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not instances of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.has_received = True
        if self._failure is not None:
            return
        if self._is_switched:
            self._buffer(data)
        elif self._is_complete or self._http.our_state is h11.IDLE:
            # Unsolicited bytes: a complete response stays valid, but the connection is dropped.
            self.abort()
        elif self._missing_bytes:
            self._receive_body(data)
        else:
            self._http.receive_data(data)
            if not self._has_unparsed:
                self._parse()
        self._has_data.set()

    def eof_received(self) -> None:
        self._parse_remaining()
        if self._is_switched:
            self._is_complete = True
        elif self.size_bytes is None and not self._is_complete and self._failure is None:
            self._http.receive_data(b"")
            try:
                # Only a body with neither Content-Length nor chunks ends this way.
                self._is_complete = isinstance(self._http.next_event(), h11.EndOfMessage)
            except h11.RemoteProtocolError as exc:
                self._fail_as_lost(exc)
        self._fail(ConnectionLostError("closed by the peer"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._parse_remaining()
        self._fail_as_lost(exc)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # --- internal -------------------------------------------------------------------------

    def _send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        transport = self._open_transport()
        parts = self._http.send_with_data_passthrough(event)
        if parts:
            transport.writelines(parts)

    def _open_transport(self) -> asyncio.Transport:
        # A transport may be closing before it calls connection_lost; do not write to it then.
        if self._failure is not None or self._transport.is_closing():
            raise ConnectionLostError("the connection has ended") from self._failure
        return self._transport

    async def _wait_for_data(self) -> None:
        """Waits until data was received. Raises what ended the connection."""
        if isinstance(self._failure, h11.RemoteProtocolError):
            raise h11.RemoteProtocolError(str(self._failure)) from self._failure
        self._open_transport()
        self._has_data.clear()
        await self._has_data.wait()

    def _parse(self, events_max: int = EVENTS_MAX) -> None:
        """Parses the received bytes, except a body of known length.

        After ``events_max`` events it yields to the event loop: a body may come in chunks of one
        byte.
        """
        self._has_unparsed = False
        events = 0
        try:
            while not (self._is_complete or self._missing_bytes or self._is_switched):
                if events == events_max:
                    self._parse_later()
                    return
                events += 1
                event = self._http.next_event()
                if isinstance(event, h11.Data):
                    self._buffer(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self.trailers = decode_fields(event.headers.raw_items())
                    self._end_body(has_more=bool(self._http.trailing_data[0]))
                elif isinstance(event, (h11.Response, h11.InformationalResponse)):
                    self._receive_head(event)
                else:
                    break
        except h11.RemoteProtocolError as exc:
            self._fail(exc)
            self.abort()

    def _parse_later(self) -> None:
        self._has_unparsed = True
        self._pause_reading()
        asyncio.get_running_loop().call_soon(self._continue_parsing)

    def _continue_parsing(self) -> None:
        if self._has_unparsed and self._failure is None:
            self._parse()
            self._has_data.set()
            self._resume_reading()

    def _parse_remaining(self) -> None:
        """Parses the bytes received before the connection's end, at most one read."""
        if self._has_unparsed and self._failure is None:
            self._parse(sys.maxsize)

    def _pause_reading(self) -> None:
        if not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._is_paused and not self._has_unparsed and self._unread_bytes < UNREAD_MAX_BYTES:
            self._is_paused = False
            if self._failure is None:
                self._transport.resume_reading()

    def _receive_head(self, head: h11.Response | h11.InformationalResponse) -> None:
        # h11 limits only a head that was received in several reads.
        if sum(len(name) + len(value) for name, value in head.headers) > HEAD_MAX_BYTES:
            raise h11.RemoteProtocolError("the header section is too long")
        is_interim = isinstance(head, h11.InformationalResponse)
        if is_interim:
            self._interim_count += 1
            if self._interim_count > INTERIM_MAX:
                raise h11.RemoteProtocolError("too many interim responses")
        self._heads.append(head)
        if head.status_code == 101:
            self._is_switched = True
            self._buffer(self._http.trailing_data[0])
        elif not is_interim:
            self.size_bytes = body_size(self._method, head)
            if self.size_bytes is not None:
                self._missing_bytes = self.size_bytes
                self._receive_body(self._http.trailing_data[0])

    def _receive_body(self, data: bytes) -> None:
        """Buffers received bytes of a body of known length."""
        self._buffer(data[: self._missing_bytes])
        has_more = len(data) > self._missing_bytes
        self._missing_bytes -= min(len(data), self._missing_bytes)
        if not self._missing_bytes:
            self._end_body(has_more)

    def _end_body(self, has_more: bool) -> None:
        self._is_complete = True
        if has_more:
            self.abort()  # unsolicited bytes

    def _buffer(self, piece: bytes | bytearray) -> None:
        if not piece:
            return
        self._unread.append(piece)
        self._unread_bytes += len(piece)
        if self._unread_bytes >= UNREAD_MAX_BYTES:
            self._pause_reading()

    def _fail_as_lost(self, exc: Exception | None) -> None:
        error = ConnectionLostError("lost")
        error.__cause__ = exc
        self._fail(error)

    def _fail(self, failure: Exception) -> None:
        """Stores the first failure, and wakes waiting tasks."""
        if self._failure is None:
            self._failure = failure
        self._has_data.set()
        self._writable.set()


def body_size(method: bytes, head: h11.Response | h11.InformationalResponse) -> int | None:
    """Size of the body that follows ``head`` (RFC 9112 §6.3); None if not announced."""
    if method == b"HEAD" or head.status_code in (101, 204, 304):
        return 0
    framing = dict(head.headers)
    if b"transfer-encoding" in framing or b"content-length" not in framing:
        return None
    return int(framing[b"content-length"])


def decode_fields(fields: Iterable[tuple[bytes, bytes]]) -> FieldList:
    """Fields as text: each byte one character (RFC 9110 §5.5 gives them no other meaning)."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
