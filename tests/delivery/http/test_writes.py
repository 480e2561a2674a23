"""Which writes invalidate the cache, for every outcome."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from streamedge.cache.responses import ResponseCache
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.delivery.hosts import OriginBinding
from streamedge.delivery.http.policy.behaviors import Behavior, WriteMode
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.request.routing import Route, Rule, WebDistribution
from streamedge.delivery.http.writes import Writes
from streamedge.errors import OriginError, OriginFailure
from streamedge.origin import Origin, Upstream
from streamedge.origin.writing import Write, WriteRefusedError, WriteResponse, refuse
from streamedge.write_back.queue import WriteQueue, prepare_write_queue
from streamedge.write_back.states import State
from tests.support.http.http_viewer import open_viewer
from tests.support.http.web_edge import serve_web
from tests.support.origins.scripted_origin import Reply
from tests.support.origins.scripted_writer import REPLICATOR
from tests.support.patience import PATIENCE_S

LINGERS_S = 0.001


class InvalidationCounter:
    """A cache that counts invalidations."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()

    def refuse_written(self, *_keys: str) -> None:
        self.count += 1
        self._changed.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.count < count:
                self._changed.clear()
                await self._changed.wait()


class Writer:
    """A writer with the given outcome; None means that it never ends."""

    def __init__(self, outcome: WriteResponse | Exception | None) -> None:
        self._outcome = outcome
        self.begun = asyncio.Event()

    def lingers_s(self, write: Write) -> float:
        return LINGERS_S

    async def end_abandoned(self) -> int:
        return 0

    async def check(self, write: Write) -> None:
        if isinstance(self._outcome, WriteRefusedError):
            raise self._outcome

    async def write(self, write: Write, body: AsyncIterator[bytes] | None) -> WriteResponse:
        self.begun.set()
        if self._outcome is None:
            await asyncio.Event().wait()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome


def route_to(writer: Writer, mode: WriteMode = WriteMode.THROUGH) -> Route:
    binding = OriginBinding("main", "s3 x", cast(Origin, None), cast(Upstream, None), writer=writer)
    rule = Rule(Behavior("*", "main", write=mode), binding, TtlRules())
    return Route(WebDistribution("EWEB", ("*",), (rule,)), rule, "film", "")


DELETE = WebRequest("DELETE", "edge", b"/film", {}, "127.0.0.1:1", True, 0.0)


@pytest.mark.parametrize(
    ("outcome", "invalidations"),
    [
        (WriteResponse(200), 1),
        (WriteResponse(412), 0),
        (WriteResponse(404), 0),
        (WriteResponse(500), 2),
        (WriteResponse(504), 2),
        (OriginError(OriginFailure.TIMEOUT, "silent"), 2),
        (OriginError(OriginFailure.BROKEN, "connection lost"), 2),
        (ConnectionResetError("the viewer left"), 2),
    ],
)
async def test_stored_response_is_reused_only_if_nothing_changed(
    outcome: WriteResponse | Exception, invalidations: int
) -> None:
    cache = InvalidationCounter()
    writes = Writes(cast(ResponseCache, cache), None, 1 << 20)
    with contextlib.suppress(OriginError, ConnectionResetError):
        await writes.write(route_to(Writer(outcome)), DELETE, None)
    assert cache.count == min(invalidations, 1)
    await cache.until(invalidations)  # also for responses that were stored meanwhile


async def test_part_of_an_object_is_refused() -> None:
    writer = Writer(WriteResponse(200))
    writes = Writes(cast(ResponseCache, InvalidationCounter()), None, 1 << 20)
    headers = {"content-range": "bytes 0-2/10", "content-length": "3"}
    put = WebRequest("PUT", "edge", b"/film", headers, "127.0.0.1:1", True, 0.0)
    assert (await writes.write(route_to(writer), put, None)).status == 400
    assert not writer.begun.is_set()


async def test_write_is_not_queued_that_its_origin_would_refuse(tmp_path: Path) -> None:
    prepare_write_queue(tmp_path)
    with closing(WriteQueue(tmp_path, 0, 1 << 20, REPLICATOR)) as write_queue:
        cache = InvalidationCounter()
        writes = Writes(cast(ResponseCache, cache), write_queue, 1 << 20)
        writer = Writer(refuse(400, "KeyTooLongError", "File name too long"))
        assert (await writes.write(route_to(writer, WriteMode.BACK), DELETE, None)).status == 400
        assert (cache.count, write_queue.rows.by_state()) == (0, {})
        writer = Writer(WriteResponse(200))
        assert (await writes.write(route_to(writer, WriteMode.BACK), DELETE, None)).status == 204
        assert (cache.count, write_queue.rows.by_state()) == (1, {State.QUEUED: 1})
        assert not writer.begun.is_set()


async def test_cancelled_write_invalidates_the_object() -> None:
    cache, writer = InvalidationCounter(), Writer(None)
    writes = Writes(cast(ResponseCache, cache), None, 1 << 20)
    writing = asyncio.create_task(writes.write(route_to(writer), DELETE, None))
    await writer.begun.wait()
    writing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writing
    assert cache.count == 1
    await cache.until(2)


async def test_site_write_without_a_response_invalidates_the_object(cache_root: Path) -> None:
    rules = {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]}
    async with serve_web(cache_root, rules=rules) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("page", b"old", etag='"1"')
        assert (await viewer.get("/page")).body == b"old"
        edge.origin.put("page", b"new", etag='"2"')
        assert (await viewer.get("/page")).body == b"old"
        edge.origin.script(Reply(raw=b"HTTP/1.1"))
        assert (await viewer.get("/page", "DELETE")).status == 502
        assert (await viewer.get("/page")).body == b"new"
