"""Small bodies that are there as a whole before they are read, from each kind of origin."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from streamedge.origin import OriginRequest, OriginResponse
from streamedge.origin.buffered import buffered_body
from streamedge.origin.directory.origin import DirectoryOrigin
from streamedge.origin.http.origin import HttpOrigin
from streamedge.origin.objects import ObjectUpstream
from tests.support.origins.scripted_origin import Reply, ScriptedOrigin

BODY = b"a small body"
GET = OriginRequest("GET", "page")
LONG_S = 20.0
SHORT_S = 0.01


async def read(response: OriginResponse) -> bytes:
    return b"".join([piece async for piece in response.body()])


async def test_whole_body_is_returned_and_can_still_be_read() -> None:
    async with ScriptedOrigin() as server:
        server.put("page", BODY)
        origin = HttpOrigin(server.url)
        for upstream in (origin, ObjectUpstream(origin)):
            response = await upstream.send(GET)
            assert await buffered_body(response, LONG_S) == BODY
            assert await buffered_body(response, LONG_S) == BODY
            assert await read(response) == BODY
            assert await buffered_body(response, LONG_S) is None  # read already
        await origin.close()


async def test_connection_is_used_again_when_a_buffered_body_was_not_read() -> None:
    async with ScriptedOrigin() as server:
        server.put("page", BODY)
        origin = HttpOrigin(server.url)
        for _each in range(3):
            response = await origin.send(GET)
            assert await buffered_body(response, LONG_S) == BODY
            response.close()
        assert server.connections_accepted == 1
        await origin.close()


async def test_body_that_takes_longer_is_read_as_it_comes() -> None:
    async with ScriptedOrigin() as server:
        server.put("page", BODY)
        server.hold("page", at=5)
        origin = HttpOrigin(server.url)
        response = await origin.send(GET)
        assert await buffered_body(response, SHORT_S) is None
        waiting = asyncio.create_task(buffered_body(response, LONG_S))
        await asyncio.sleep(0)
        server.release("page")
        assert await waiting == BODY
        assert await read(response) == BODY
        await origin.close()


@pytest.mark.parametrize("reply", [Reply(cut_at=5), Reply(reset_at=5), Reply(chunked=True)])
async def test_body_that_breaks_off_or_has_no_length_is_not_buffered(reply: Reply) -> None:
    async with ScriptedOrigin() as server:
        server.put("page", BODY)
        server.script(reply)
        origin = HttpOrigin(server.url)
        response = await origin.send(GET)
        assert await buffered_body(response, LONG_S) is None
        response.close()
        await origin.close()


async def test_file_of_a_folder_is_buffered(tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(BODY)
    origin = DirectoryOrigin(tmp_path)
    response = await ObjectUpstream(origin).send(GET)
    assert await buffered_body(response, LONG_S) == BODY
    assert await read(response) == BODY
    response = await ObjectUpstream(origin).send(GET)
    (tmp_path / "page").write_bytes(b"")
    assert await buffered_body(response, LONG_S) is None  # changed while it was open
    response.close()
