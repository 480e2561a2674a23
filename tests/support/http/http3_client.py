"""An HTTP/3 client for one request at a time, on aioquic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent

from tests.support.patience import PATIENCE_S


@dataclass(slots=True)
class Response:
    """A response; names of ``fields`` in lower case."""

    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Http3Client(QuicConnectionProtocol):
    """One connection."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._http = H3Connection(self._quic)
        self._response = Response()
        self._has_ended = asyncio.Event()

    async def get(self, host: str, path: str, *fields: tuple[bytes, bytes]) -> Response:
        """Sends a GET and returns the response."""
        self._response = Response()
        self._has_ended.clear()
        stream = self._quic.get_next_available_stream_id()
        head = [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", host.encode()),
            (b":path", path.encode()),
            *fields,
        ]
        self._http.send_headers(stream, head, end_stream=True)
        self.transmit()
        async with asyncio.timeout(PATIENCE_S):
            await self._has_ended.wait()
        return self._response

    def quic_event_received(self, event: QuicEvent) -> None:
        for each in self._http.handle_event(event):
            self._received(each)

    def _received(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            fields = {name.decode(): value.decode() for name, value in event.headers}
            self._response.status = int(fields.pop(":status"))
            self._response.fields = fields
        elif isinstance(event, DataReceived):
            self._response.body += event.data
        else:
            return
        if event.stream_ended:
            self._has_ended.set()


@asynccontextmanager
async def open_http3(port: int, name: str, authority: Path) -> AsyncIterator[Http3Client]:
    """A connection to a server on loopback; ``authority`` is the file with its root."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=name)
    configuration.load_verify_locations(str(authority))
    async with connect(
        "127.0.0.1", port, configuration=configuration, create_protocol=Http3Client
    ) as client:
        yield cast(Http3Client, client)
