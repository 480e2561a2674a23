"""An HTTP/2 client on python-hyper's h2, which checks what the edge sends, and raw frames.

async with serve_http2(root) as edge, open_http2(edge) as viewer:
    response = await viewer.get("/film.mp4", range="bytes=0-99")
    first, second = await viewer.send_request("/a"), await viewer.send_request("/b")
    await viewer.receive(second), await viewer.receive(first)
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame

from streamedge.delivery.http.http2.connection import Http2Connection
from streamedge.process.certificates import CertificateFiles, Certificates
from tests.support.certificate_authority import CertificateAuthority
from tests.support.http.http_viewer import PATIENCE_S, Response
from tests.support.http.web_edge import WebEdge, serve_web

HOST = "edge.test"
RawField = tuple[bytes, bytes]
VALID_HEAD = [
    *((":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", HOST)),
]


class StreamResetError(Exception):
    """The edge has reset the stream; ``code`` is the error code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"reset with {code}")
        self.code = code


class ConnectionEndedError(Exception):
    """The edge has ended the connection; ``code`` is its last GOAWAY's, or None."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"ended with {code}")
        self.code = code


class Goaway(NamedTuple):
    """A GOAWAY frame of the edge."""

    last_stream_id: int
    error_code: int


class Stream:
    """What has come on a stream."""

    def __init__(self) -> None:
        self.interim: list[dict[str, str]] = []
        self.fields: dict[str, str] | None = None
        self.body = bytearray()
        self.trailers: dict[str, str] = {}
        self.has_ended = False
        self.reset: int | None = None


class Http2Viewer:
    """One connection. ``acknowledges``: whether received bytes open the windows again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        config = h2.config.H2Configuration(
            client_side=True, header_encoding="latin-1", validate_outbound_headers=False
        )
        self.connection = h2.connection.H2Connection(config)
        self.acknowledges = True
        self.streams: dict[int, Stream] = {}
        self.goaways: list[Goaway] = []
        self._received = b""
        self.order: list[int] = []  # the stream of each DATA frame

    async def begin(self, settings: dict[int, int] | None = None) -> None:
        if settings:
            values = {h2.settings.SettingCodes(code): value for code, value in settings.items()}
            self.connection.local_settings = h2.settings.Settings(True, values)
        self.connection.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        self._writer.write(self.connection.data_to_send())
        await self._writer.drain()

    async def send_raw(self, *frames: Frame | bytes) -> None:
        """Sends frames past the h2 library."""
        parts = [one if isinstance(one, bytes) else one.serialize() for one in frames]
        self._writer.write(b"".join(parts))
        await self._writer.drain()

    async def send_head(
        self, fields: Sequence[RawField], *flags: str, raw: Sequence[Frame | bytes] = ()
    ) -> int:
        """Sends a HEADERS frame with ``fields`` as they are and then ``raw``; returns the stream.

        Not on a connection that has sent requests, whose HPACK table would be another.
        """
        stream_id = self.connection.get_next_available_stream_id()
        # The library has to know the stream; its own frame is not sent.
        ends = not flags or "END_STREAM" in flags
        self.connection.send_headers(stream_id, VALID_HEAD, end_stream=ends)
        self.connection.data_to_send()
        self.streams[stream_id] = Stream()
        await self.send_raw(raw_head(stream_id, fields, *flags), *raw)
        return stream_id

    async def send_request(
        self,
        path: str,
        method: str = "GET",
        *,
        host: str = HOST,
        ends: bool = True,
        **fields: str,
    ) -> int:
        """Sends a request's head, and returns its stream."""
        stream_id = self.connection.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "https"), (":authority", host), (":path", path)]
        head += [(name.replace("_", "-"), value) for name, value in fields.items()]
        self.connection.send_headers(stream_id, head, end_stream=ends)
        self.streams[stream_id] = Stream()
        await self.flush()
        return stream_id

    async def send_body(self, stream_id: int, body: bytes, *, ends: bool = True) -> None:
        """Sends a body, as far as the windows allow, and receives meanwhile."""
        while body:
            room = self.connection.local_flow_control_window(stream_id)
            size = min(room, self.connection.max_outbound_frame_size, len(body))
            if not size:
                await self.receive_events()
                continue
            self.connection.send_data(stream_id, body[:size])
            body = body[size:]
            await self.flush()
        if ends:
            self.connection.end_stream(stream_id)
            await self.flush()

    async def get(self, path: str, method: str = "GET", **fields: Any) -> Response:
        """Sends a request without a body and receives the response."""
        return await self.receive(await self.send_request(path, method, **fields))

    async def receive(self, stream_id: int) -> Response:
        """The complete response on a stream. Raises StreamResetError, ConnectionEndedError."""
        stream = self.streams[stream_id]
        while not stream.has_ended:
            if stream.reset is not None:
                raise StreamResetError(stream.reset)
            await self.receive_events()
        fields = stream.fields or {}
        trailers = tuple(f"{name}: {value}" for name, value in stream.trailers.items())
        return Response(int(fields[":status"]), fields, bytes(stream.body), (), trailers)

    async def open_windows(self, streams: Sequence[int], count: int = 20_000_000) -> None:
        """Lets the edge send ``count`` bytes more, of each stream; acknowledges from now on."""
        self.acknowledges = True
        self.connection.increment_flow_control_window(count)
        for stream_id in streams:
            self.connection.increment_flow_control_window(count, stream_id)
        await self.flush()

    async def until_reset(self, stream_id: int) -> int:
        """The error code with which the edge resets a stream."""
        while (code := self.streams[stream_id].reset) is None:
            await self.receive_events()
        return code

    async def until_ended(self) -> int | None:
        """Receives until the edge closes; the error code of its last GOAWAY."""
        with suppress(ConnectionEndedError):
            while True:
                await self.receive_events()
        return None if not self.goaways else self.goaways[-1].error_code

    async def receive_events(self) -> list[h2.events.Event]:
        """Waits for bytes, and notes what they mean. Raises ConnectionEndedError."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                data = await self._reader.read(65_536)
            except (ConnectionError, ssl.SSLError):
                data = b""
        if not data:
            raise ConnectionEndedError(self.goaways[-1].error_code if self.goaways else None)
        events = self.connection.receive_data(self._without_goaways(data))
        for event in events:
            self._note(event)
        with suppress(ConnectionError):
            await self.flush()
        return events

    def _without_goaways(self, data: bytes) -> bytes:
        """Complete frames; those after which the library would accept nothing are taken out."""
        self._received += data
        frames = b""
        while len(self._received) >= 9:
            size = 9 + int.from_bytes(self._received[:3], "big")
            if len(self._received) < size:
                break
            frame, self._received = self._received[:size], self._received[size:]
            if frame[3] == GoAwayFrame.type:
                self.goaways.append(
                    Goaway(int.from_bytes(frame[9:13], "big"), int.from_bytes(frame[13:17], "big"))
                )
            else:
                frames += frame
        return frames

    def _note(self, event: h2.events.Event) -> None:
        stream = self.streams.setdefault(getattr(event, "stream_id", 0) or 0, Stream())
        if isinstance(event, h2.events.InformationalResponseReceived):
            stream.interim.append(_texts(event.headers))
        elif isinstance(event, h2.events.ResponseReceived):
            stream.fields = _texts(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            stream.body += event.data or b""
            self.order.append(event.stream_id or 0)
            size = event.flow_controlled_length
            if self.acknowledges and size:
                with suppress(h2.exceptions.StreamClosedError):
                    self.connection.acknowledge_received_data(size, event.stream_id or 0)
        elif isinstance(event, h2.events.TrailersReceived):
            stream.trailers = _texts(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            stream.has_ended = True
        elif isinstance(event, h2.events.StreamReset):
            stream.reset = int(event.error_code or 0)


def raw_head(stream_id: int, fields: Sequence[RawField], *flags: str) -> HeadersFrame:
    """A HEADERS frame with ``fields`` as they are, which no table remembers."""
    frame = HeadersFrame(stream_id, flags=list(flags) or ["END_HEADERS", "END_STREAM"])
    frame.data = b"".join(b"\x10" + _literal(name) + _literal(value) for name, value in fields)
    return frame


def _literal(text: bytes) -> bytes:
    """A string of HPACK without Huffman coding (RFC 7541 §5.2)."""
    size = len(text)
    if size < 127:
        return bytes([size]) + text
    prefix, size = b"\x7f", size - 127
    while size >= 128:
        prefix += bytes([size % 128 + 128])
        size //= 128
    return prefix + bytes([size]) + text


def _texts(fields: Any) -> dict[str, str]:
    return {
        name if isinstance(name, str) else name.decode("latin-1"): value
        if isinstance(value, str)
        else value.decode("latin-1")
        for name, value in fields
    }


def secure_contexts(folder: Path, *names: tuple[str, ...]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of an edge and of a viewer; each of ``names`` has a certificate."""
    authority = CertificateAuthority(folder)
    pairs = [authority.issue(*one) for one in names]
    client = authority.client()
    client.check_hostname = False
    client.set_alpn_protocols(["h2"])
    return Certificates([CertificateFiles(one.certificate, one.key) for one in pairs]).front, client


@asynccontextmanager
async def serve_http2(
    root: Path, *, names: tuple[tuple[str, ...], ...] = ((HOST,),), **options: Any
) -> AsyncIterator[tuple[WebEdge, ssl.SSLContext]]:
    """Serves as ``serve_web``, over TLS, and the context of its viewers."""
    server, client = secure_contexts(root, *names)
    async with serve_web(root, context=server, **options) as edge:
        yield edge, client


@asynccontextmanager
async def open_http2(
    served: tuple[WebEdge, ssl.SSLContext],
    *,
    name: str = HOST,
    settings: dict[int, int] | None = None,
) -> AsyncIterator[Http2Viewer]:
    """A connection to an edge of ``serve_http2``; ``settings`` are the viewer's."""
    edge, client = served
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", edge.port, ssl=client, server_hostname=name
    )
    viewer = Http2Viewer(reader, writer)
    try:
        await viewer.begin(settings)
        yield viewer
    finally:
        writer.transport.abort()


def http2_connections(edge: WebEdge) -> list[Http2Connection]:
    """The open connections, from within."""
    return [one for one in edge.server.connections if isinstance(one, Http2Connection)]
