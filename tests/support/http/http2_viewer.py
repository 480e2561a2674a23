"""An HTTP/2 client that sends any frames and checks every frame of the responses (RFC 9113).

HPACK is python-hyper's; frames are made and read here, so that a test can break any rule.

    async with open_http2_viewer(port, context) as viewer:
        response = await viewer.get("/film.mp4", range="bytes=0-99")
        stream = await viewer.send_head(head("/a"), ends=True)
        response = await viewer.receive(stream)
        await viewer.send_frame(RST_STREAM, 0, stream, bytes(4))
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import hpack

from tests.support.http.http_viewer import Response, TruncatedError
from tests.support.patience import PATIENCE_S

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES_MAX = 16_384  # unless SETTINGS say otherwise (§4.2)

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE = range(6)
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(6, 10)
PRIORITY_UPDATE = 0x10
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 7, 8, 9
ENHANCE_YOUR_CALM = 11
INITIAL_WINDOW_SIZE = 4

HUFFMAN_BYTES_MAX = 16 << 10
"""Longer heads are sent without Huffman coding: hpack's takes quadratic time, many seconds for
200 kB, in which the edge in the same loop cannot serve other viewers."""

_FORBIDDEN = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}

Head = list[tuple[bytes, bytes]]


def head(
    path: str,
    method: str = "GET",
    *,
    host: str = "edge",
    scheme: str = "https",
    **fields: str,
) -> Head:
    """A request's fields; underscores in names become hyphens."""
    pseudo = ((":method", method), (":scheme", scheme), (":authority", host), (":path", path))
    lines = [*pseudo, *((name.replace("_", "-"), value) for name, value in fields.items())]
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """The bytes of a frame (§4.1)."""
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


class StreamResetError(Exception):
    """The edge has reset the stream; ``received`` is the part of the body."""

    def __init__(self, code: int, received: bytes) -> None:
        super().__init__(f"reset with code {code} after {len(received)} bytes")
        self.code = code
        self.received = received


class ConnectionEndedError(Exception):
    """The connection has ended; ``code`` of its GOAWAY, None without one."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"the connection ended, GOAWAY {code}")
        self.code = code


@dataclass(slots=True)
class _Stream:
    interim: list[Response] = field(default_factory=list)
    response: Response | None = None
    body: bytearray = field(default_factory=bytearray)
    trailers: tuple[str, ...] = ()
    window_bytes: int = 65_535
    has_ended: bool = False
    reset_code: int | None = None


class Http2Viewer:
    """One connection; the module's docstring has an example.

    ``reads``: whether it opens the windows again for bytes that it receives.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, reads: bool
    ) -> None:
        self.goaways: list[tuple[int, int]] = []  # last stream and code
        self.settings: dict[int, int] = {}  # the edge's
        self.pongs: list[bytes] = []
        self.order: list[int] = []  # the stream of each DATA frame
        self.reads = reads
        self._reader = reader
        self._writer = writer
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._streams: dict[int, _Stream] = {}
        self._next_stream = 1
        self._window_bytes = 65_535  # of the connection, for what is sent
        self._block = b""  # a field block that is not complete
        self._block_flags = 0
        self._has_ended = False
        self._changed = asyncio.Event()
        self._receiving = asyncio.create_task(self._receive_frames(), name="http2 viewer")

    @property
    def name(self) -> str:
        """This end's address in the form of the edge's log."""
        address, port = self._writer.get_extra_info("sockname")[:2]
        return f"{address}:{port}"

    # --- sending --------------------------------------------------------------------------

    async def send(self, raw: bytes) -> None:
        """Sends any bytes; does nothing once the connection is closed."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(raw)
            await self._writer.drain()

    async def send_frame(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        await self.send(frame(kind, flags, stream, payload))

    def encode(self, fields: Sequence[tuple[bytes, bytes]]) -> bytes:
        """A field block. Each must be sent, in order: both ends keep a table (RFC 7541)."""
        size_bytes = sum(len(name) + len(value) for name, value in fields)
        return self._encoder.encode(list(fields), huffman=size_bytes <= HUFFMAN_BYTES_MAX)

    def new_stream(self) -> int:
        """The number of the next stream, which the caller opens."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._streams[stream] = _Stream(window_bytes=self.settings.get(INITIAL_WINDOW_SIZE, 65_535))
        return stream

    async def send_head(self, fields: Sequence[tuple[bytes, bytes]], *, ends: bool) -> int:
        """Opens a stream with a request's head; returns its number."""
        stream = self.new_stream()
        await self.send(self.head_frames(stream, self.encode(fields), ends=ends))
        return stream

    @staticmethod
    def head_frames(stream: int, block: bytes, *, ends: bool) -> bytes:
        """HEADERS with as many CONTINUATION frames as a field block needs."""
        pieces = [
            block[at : at + FRAME_BYTES_MAX] for at in range(0, len(block), FRAME_BYTES_MAX)
        ] or [b""]
        raw = b""
        for number, piece in enumerate(pieces):
            flags = END_HEADERS if number == len(pieces) - 1 else 0
            if number == 0 and ends:
                flags |= END_STREAM
            raw += frame(CONTINUATION if number else HEADERS, flags, stream, piece)
        return raw

    async def send_body(self, stream: int, body: bytes, *, ends: bool = True) -> None:
        """Sends bytes of a request's body, as fast as the edge's windows allow."""
        state, at = self._streams[stream], 0
        while True:
            if body:
                await self._until(lambda: self._room(state) > 0, stream)
            piece = body[at : at + min(FRAME_BYTES_MAX, self._room(state))]
            at += len(piece)
            state.window_bytes -= len(piece)
            self._window_bytes -= len(piece)
            is_last = at == len(body)
            await self.send_frame(DATA, END_STREAM if ends and is_last else 0, stream, piece)
            if is_last:
                return

    def room(self, stream: int) -> int:
        """How many bytes of a request's body the edge accepts now."""
        return self._room(self._streams[stream])

    def _room(self, state: _Stream) -> int:
        return max(0, min(state.window_bytes, self._window_bytes))

    async def send_request(
        self,
        path: str,
        method: str = "GET",
        *,
        host: str = "edge",
        scheme: str = "https",
        **fields: str,
    ) -> int:
        """Sends a request without a body; returns its stream."""
        return await self.send_head(
            head(path, method, host=host, scheme=scheme, **fields), ends=True
        )

    async def send_trailers(self, stream: int, fields: Sequence[tuple[bytes, bytes]]) -> None:
        """Ends a request with a trailer section."""
        await self.send(self.head_frames(stream, self.encode(fields), ends=True))

    async def open_windows(self, streams: Sequence[int], count: int = 20_000_000) -> None:
        """Lets the edge send ``count`` bytes more, of each stream; ``reads`` from now on."""
        self.reads = True
        for stream in (0, *streams):
            await self.send_frame(WINDOW_UPDATE, 0, stream, count.to_bytes(4, "big"))

    async def get(
        self, path: str, method: str = "GET", *, host: str = "edge", **fields: str
    ) -> Response:
        """Sends a request and receives the complete response."""
        return await self.receive(await self.send_request(path, method, host=host, **fields))

    # --- receiving ------------------------------------------------------------------------

    async def receive(self, stream: int) -> Response:
        """The complete final response. Raises StreamResetError or ConnectionEndedError."""
        state = self._streams[stream]
        await self._until(lambda: state.has_ended, stream)
        if state.response is None:
            raise StreamResetError(state.reset_code or 0, b"")
        if state.reset_code:
            raise StreamResetError(state.reset_code, bytes(state.body))
        response = state.response
        length = response.fields.get("content-length")
        if state.body or (length is not None and response.status not in {204, 304}):
            # Without a body it is the response to a HEAD.
            assert not state.body or length is None or int(length) == len(state.body)
        return Response(
            response.status, response.fields, bytes(state.body), response.cookies, state.trailers
        )

    async def receive_head(self, stream: int) -> Response:
        """The head of the final response."""
        state = self._streams[stream]
        await self._until(lambda: state.response is not None or state.has_ended, stream)
        if state.response is None:
            raise StreamResetError(state.reset_code or 0, b"")
        return state.response

    async def receive_bytes(self, stream: int, count: int) -> bytes:
        """At least ``count`` bytes of the body; all that have come."""
        state = self._streams[stream]
        await self._until(lambda: len(state.body) >= count or state.has_ended, stream)
        if len(state.body) < count:
            raise StreamResetError(state.reset_code or 0, bytes(state.body))
        return bytes(state.body)

    def received_bytes(self, stream: int) -> int:
        """How many bytes of a body have come."""
        return len(self._streams[stream].body)

    async def receive_reset(self, stream: int) -> int:
        """The error code with which the edge resets a stream."""
        state = self._streams[stream]
        await self._until(lambda: state.reset_code is not None, stream)
        return state.reset_code or 0

    async def receive_interim(self, stream: int) -> Response:
        """The next 1xx response."""
        state = self._streams[stream]
        await self._until(lambda: bool(state.interim) or state.has_ended, stream)
        return state.interim.pop(0)

    async def receive_end(self) -> int | None:
        """Waits for the end of the connection; returns the code of its GOAWAY, or None."""
        with contextlib.suppress(ConnectionEndedError):
            await self._until(lambda: False)
        return self.goaways[-1][1] if self.goaways else None

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until frames have come that make ``condition`` true."""
        await self._until(condition)

    async def _until(self, condition: Callable[[], bool], stream: int | None = None) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                if self._has_ended:
                    raise ConnectionEndedError(self.goaways[-1][1] if self.goaways else None)
                if stream is not None and any(stream > last for last, _code in self.goaways):
                    raise ConnectionEndedError(self.goaways[-1][1])
                self._changed.clear()
                await self._changed.wait()

    async def _receive_frames(self) -> None:
        is_first = True
        try:
            while True:
                start = await self._reader.readexactly(9)
                size, kind, flags = int.from_bytes(start[:3], "big"), start[3], start[4]
                stream = int.from_bytes(start[5:], "big")
                assert size <= FRAME_BYTES_MAX
                assert not is_first or kind == SETTINGS  # §3.4
                is_first = False
                payload = await self._reader.readexactly(size)
                self._received(kind, flags, stream, payload)
                self._changed.set()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            self._has_ended = True
        finally:
            self._has_ended = True
            self._changed.set()

    def _received(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                key = int.from_bytes(payload[at : at + 2], "big")
                value = int.from_bytes(payload[at + 2 : at + 6], "big")
                if key == INITIAL_WINDOW_SIZE:  # of open streams too (§6.9.2)
                    for state in self._streams.values():
                        state.window_bytes += value - self.settings.get(key, 65_535)
                self.settings[key] = value
            self._writer.write(frame(SETTINGS, ACK, 0))
        elif kind == PING:
            if flags & ACK:
                self.pongs.append(payload)
            else:
                self._writer.write(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            last = int.from_bytes(payload[:4], "big")
            self.goaways.append((last, int.from_bytes(payload[4:8], "big")))
        elif kind == WINDOW_UPDATE:
            self._window_updated(stream, int.from_bytes(payload, "big"))
        elif kind in {HEADERS, CONTINUATION}:
            self._block += payload
            self._block_flags |= flags
            if flags & END_HEADERS:
                block, self._block = self._block, b""
                ends, self._block_flags = bool(self._block_flags & END_STREAM), 0
                self._received_fields(self._streams[stream], block, ends=ends)
        elif kind == DATA:
            self._received_data(stream, flags, payload)
        elif kind == RST_STREAM:
            state = self._streams[stream]
            state.has_ended = True
            state.reset_code = int.from_bytes(payload, "big")

    def _window_updated(self, stream: int, count: int) -> None:
        if stream:
            self._streams[stream].window_bytes += count
        else:
            self._window_bytes += count

    def _received_data(self, stream: int, flags: int, payload: bytes) -> None:
        state = self._streams[stream]
        assert state.response is not None
        assert not state.has_ended
        self.order.append(stream)
        state.body += payload
        state.has_ended = bool(flags & END_STREAM)
        if self.reads and payload:
            count = len(payload).to_bytes(4, "big")
            self._writer.write(frame(WINDOW_UPDATE, 0, 0, count))
            if not state.has_ended:
                self._writer.write(frame(WINDOW_UPDATE, 0, stream, count))

    def _received_fields(self, state: _Stream, block: bytes, *, ends: bool) -> None:
        fields: list[tuple[str, str]] = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in self._decoder.decode(block, raw=True)
        ]
        assert all(name == name.lower() and name not in _FORBIDDEN for name, _value in fields)
        assert not state.has_ended
        state.has_ended = ends
        if state.response is not None:
            assert ends  # trailers
            state.trailers = tuple(f"{name}: {value}" for name, value in fields)
            return
        (pseudo, status), *rest = fields
        assert pseudo == ":status"
        assert not any(name.startswith(":") for name, _value in rest)
        by_name: dict[str, str] = {}
        for name, value in rest:
            if name == "set-cookie":
                continue
            if name == "vary" and name in by_name:
                by_name[name] += f", {value}"
                continue
            assert name not in by_name
            by_name[name] = value
        cookies = tuple(value for name, value in rest if name == "set-cookie")
        response = Response(int(status), by_name, cookies=cookies)
        if response.status < 200:
            state.interim.append(response)
        else:
            state.response = response

    async def close(self) -> None:
        self._writer.transport.abort()
        self._receiving.cancel()
        await asyncio.gather(self._receiving, return_exceptions=True)


class StreamViewer:
    """One request at a time over HTTP/2, by the methods of ``http_viewer.Viewer``."""

    def __init__(self, connection: Http2Viewer) -> None:
        self._connection = connection
        self._stream = 0
        self._taken_bytes = 0  # of the body

    async def send_request(
        self, path: str, method: str = "GET", *, host: str = "edge", **fields: str
    ) -> None:
        self._stream = await self._connection.send_request(path, method, host=host, **fields)
        self._taken_bytes = 0

    async def get(
        self, path: str, method: str = "GET", *, host: str = "edge", **fields: str
    ) -> Response:
        return await self._connection.get(path, method, host=host, **fields)

    async def receive_head(self) -> Response:
        return await self._connection.receive_head(self._stream)

    async def receive_body(self, count: int) -> bytes:
        """The next ``count`` bytes. Raises TruncatedError when the stream ends before."""
        end = self._taken_bytes + count
        try:
            received = await self._connection.receive_bytes(self._stream, end)
        except StreamResetError as exc:
            raise TruncatedError(exc.received[self._taken_bytes :]) from exc
        except ConnectionEndedError as exc:
            raise TruncatedError(b"") from exc
        start, self._taken_bytes = self._taken_bytes, end
        return received[start:end]

    async def receive_rest(self) -> bytes:
        """The bytes until the stream ends, also by a reset."""
        try:
            body = (await self._connection.receive(self._stream)).body
        except StreamResetError as exc:
            body = exc.received
        return body[self._taken_bytes :]


@asynccontextmanager
async def open_http2_viewer(
    port: int,
    tls: ssl.SSLContext,
    *,
    server_name: str = "edge",
    settings: Sequence[tuple[int, int]] = (),
    reads: bool = True,
    preface: bytes = PREFACE,
) -> AsyncIterator[Http2Viewer]:
    """A connection to 127.0.0.1, with HTTP/2 by ALPN.

    ``tls`` is the client's context, which is for HTTP/2 alone from now on. Without a
    ``server_name`` no name is sent. ``settings`` are the client's.
    """
    tls.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, server_hostname=server_name
    )
    chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    assert chosen == "h2", f"ALPN chose {chosen}"
    viewer = Http2Viewer(reader, writer, reads=reads)
    payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in settings)
    try:
        await viewer.send(preface + frame(SETTINGS, 0, 0, payload))
        yield viewer
    finally:
        await viewer.close()
