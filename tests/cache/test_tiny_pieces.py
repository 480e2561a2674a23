"""Origins that send a body in tiny pieces delay no other reader and cost few writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.extent import Extent
from streamedge.cache.storage.records import Asset
from streamedge.origin import OriginHead, OriginRequest, Version
from streamedge.origin.http.origin import HttpOrigin
from streamedge.origin.http_client.connection import CHUNKS_MAX, Connection
from streamedge.origin.http_client.request import make_request
from streamedge.spans import Span
from tests.support.http.location import run_location
from tests.support.origins.scripted_origin import Reply, ScriptedOrigin

COUNT = 60_000
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ONE_BYTE_CHUNKS = b"1\r\nx\r\n" * COUNT + b"0\r\n\r\n"


class SilentTransport(asyncio.Transport):
    """Drops what is written."""

    def write(self, data: object) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def test_one_byte_chunks_are_parsed_in_limited_numbers_at_a_time() -> None:
    """One iteration of the event loop parses at most CHUNKS_MAX received chunks."""
    connection = Connection()
    connection.connection_made(SilentTransport())
    connection.send_head(make_request("GET", "a.example", "/a", {}, None))
    connection.end_body()
    connection.data_received(HEAD + ONE_BYTE_CHUNKS)
    assert (await connection.head()).status == 200
    body, iterations = bytearray(), []
    while not connection.is_exhausted:
        iterations.append(connection.unread.size_bytes)
        body += connection.read_available()
        await asyncio.sleep(0)
    assert body == b"x" * COUNT
    assert 0 < max(iterations) <= CHUNKS_MAX


async def test_one_byte_chunks_are_delivered_whole() -> None:
    async with ScriptedOrigin() as server:
        server.script(Reply(raw=HEAD + ONE_BYTE_CHUNKS))
        origin = HttpOrigin(server.url)
        response = await origin.send(OriginRequest("GET", "a"))
        body = b"".join([piece async for piece in response.body()])
        await origin.close()
    assert body == b"x" * COUNT


class TrickledRead:
    """A response in pieces of one byte, without a pause."""

    def __init__(self, size_bytes: int) -> None:
        self.head = OriginHead(Version('"1"', size_bytes), "text/plain")
        self.span = Span(0, size_bytes)

    async def pieces(self) -> AsyncIterator[bytes]:
        for _each in range(self.span.size):
            await asyncio.sleep(0)
            yield b"x"

    async def close(self) -> None:
        pass


async def test_fill_joins_small_pieces_and_withholds_none(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size_bytes = 30_000
    writes: list[int] = []
    write = Extent.write

    def counted(extent: Extent, position: int, data: bytes | memoryview) -> None:
        writes.append(len(data))
        write(extent, position, data)

    monkeypatch.setattr(Extent, "write", counted)
    async with run_location(cache_root) as location:
        worker = location.worker()
        read = TrickledRead(size_bytes)
        asset = Asset("k", "a", location.origin, "main", TtlRules())
        reader = worker.reopen(asset, read.head)
        begun_s = time.monotonic()
        reader.open_object.adopt(read)
        await reader.wait(Span(500, size_bytes), eager=True)
        assert 0 < reader.ready_end(0, size_bytes) < size_bytes  # bytes are ready while it trickles
        assert await reader.read(Span(0, size_bytes)) == b"x" * size_bytes
        took_s = time.monotonic() - begun_s
        reader.close()
    assert sum(writes) == size_bytes
    assert len(writes) <= 3 + took_s / 0.002
