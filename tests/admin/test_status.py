"""The status on the admin address: the document, its size, the streams and the history."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Scope

from streamedge.admin.app import create_admin_app
from streamedge.admin.status import (
    EVENT_BYTES_MAX,
    STREAMS_MAX,
    LiveStatus,
    bounded_json,
    hit_ratios,
    status_routes,
)
from streamedge.coordination.shared_state import SharedState
from streamedge.ops.metrics import Counter, Counts, Gauge
from tests.support.admin.access import open_access
from tests.support.http.asgi_call import call
from tests.support.process.shared_memory import close_shared, make_shared

TIMEOUT_S = 60.0


@pytest.fixture
def shared() -> Iterator[SharedState]:
    state = make_shared(2)
    yield state
    close_shared(state)


async def get(status: LiveStatus, shared: SharedState, target: str) -> tuple[int, dict[str, Any]]:
    """The status and JSON of a GET."""
    app = create_admin_app("fra-1", shared, open_access(shared), routes=status_routes(status))
    code, body = await call(app, "GET", target)
    return code, json.loads(body)


def counts_of(shared: SharedState, worker: int) -> Counts:
    counts = Counts()
    counts.publish_in(shared.metrics.part(worker))
    return counts


async def test_status_has_rates_ratios_and_gauges_of_all_processes(shared: SharedState) -> None:
    status = LiveStatus("fra-1", shared)
    await status.sample()
    for worker in range(2):
        counts = counts_of(shared, worker)
        counts.add(Counter.RESPONSES, "Hit", 3)
        counts.add(Counter.RESPONSES, "Miss", 1)
        counts.add(Counter.SENT_BYTES, "http", 1000)
        counts.add(Counter.ORIGIN_BYTES, "main", 250)
        counts.gauges[Gauge.VIEWERS] = worker + 1
        counts.gauges[Gauge.DEAD_LETTERS] = worker
        counts.flush()
    await status.sample()
    code, document = await get(status, shared, "/status")
    assert code == 200
    assert document["edge"] == "fra-1"
    assert document["ready"] is False  # no worker is up
    assert document["problems"] == ["worker-0 is not up", "worker-1 is not up"]
    assert document["rates"]["requests"] > 0
    assert document["rates"]["requests"] == pytest.approx(document["rates"]["hits"] * 4 / 3)
    assert document["hit_ratio"] == {"requests": 0.75, "bytes": 0.75}
    assert document["viewers"]["rtmp"] == 3
    assert document["writes"]["dead_letters"] == 1


async def test_status_has_no_rates_before_the_second_sample(shared: SharedState) -> None:
    _code, document = await get(LiveStatus("fra-1", shared), shared, "/status")
    assert document["rates"] is None
    assert document["minute"] is None
    assert document["hit_ratio"] == {"requests": None, "bytes": None}


async def test_history_has_columns_of_the_range(shared: SharedState) -> None:
    status = LiveStatus("fra-1", shared)
    for _sample in range(3):
        await status.sample()
    code, document = await get(status, shared, "/status/history?range=6h")
    assert code == 200
    assert document["step_s"] == 10
    columns = document["fields"].values()
    assert {len(column) for column in columns} <= {1, 2}
    code, document = await get(status, shared, "/status/history?fields=requests,hit_ratio")
    assert document["range"] == "15m"
    assert set(document["fields"]) == {"requests", "hit_ratio"}
    assert set(document["fields"]["hit_ratio"]) == {None}


@pytest.mark.parametrize("target", ["?range=1y", "?range=<script>", "?fields=requests,nothing"])
async def test_history_of_an_unknown_range_or_field_is_400(
    shared: SharedState, target: str
) -> None:
    code, document = await get(LiveStatus("fra-1", shared), shared, f"/status/history{target}")
    assert code == 400
    assert "there are: " in document["error"]


class StreamReader:
    """A client of ``/status/stream``; ``leave`` closes its connection."""

    def __init__(self, status: LiveStatus, shared: SharedState) -> None:
        app = create_admin_app("fra-1", shared, open_access(shared), routes=status_routes(status))
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self._left = asyncio.Event()
        scope: Scope = {"type": "http", "method": "GET", "path": "/status/stream", "headers": []}
        scope.update({"query_string": b"", "http_version": "1.1", "scheme": "http"})
        scope.update({"client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", 9090)})
        self.task = asyncio.ensure_future(app(scope, self._receive, self.messages.put))

    async def _receive(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def leave(self) -> None:
        self._left.set()
        await asyncio.wait_for(self.task, TIMEOUT_S)

    async def next(self) -> Message:
        return await asyncio.wait_for(self.messages.get(), TIMEOUT_S)

    async def event(self) -> dict[str, Any]:
        """The next event's document."""
        while True:
            body = (await self.next()).get("body", b"")
            if body.startswith(b"data: "):
                document: dict[str, Any] = json.loads(body.removeprefix(b"data: "))
                return document


async def test_stream_has_an_event_after_each_sample(shared: SharedState) -> None:
    status = LiveStatus("fra-1", shared)
    reader = StreamReader(status, shared)
    start = await reader.next()
    assert start["status"] == 200
    assert (b"content-type", b"text/event-stream; charset=utf-8") in start["headers"]
    assert (await reader.event())["rates"] is None
    await status.sample()
    await reader.event()
    await status.sample()
    assert (await reader.event())["rates"]["requests"] == 0
    await reader.leave()
    assert status.streams == 0


async def test_seventeenth_stream_is_503_until_another_one_ends(shared: SharedState) -> None:
    status = LiveStatus("fra-1", shared)
    readers = [StreamReader(status, shared) for _reader in range(STREAMS_MAX)]
    for reader in readers:
        await reader.event()
    code, document = await get(status, shared, "/status/stream")
    assert code == 503
    assert "16 streams are open" in document["error"]
    await readers[0].leave()
    again = StreamReader(status, shared)
    await again.event()
    status.close()
    for reader in (*readers[1:], again):
        await asyncio.wait_for(reader.task, TIMEOUT_S)
    assert status.streams == 0


@settings(max_examples=100, deadline=None)
@given(
    lists=st.dictionaries(
        st.text(max_size=8), st.lists(st.text(max_size=200), max_size=40), max_size=6
    )
)
def test_document_is_bounded_and_says_what_it_lost(lists: dict[str, list[str]]) -> None:
    lists.pop("left_off", None)
    text = bounded_json({"edge": "fra-1", **lists}, 2000)
    document = json.loads(text)
    left_off = document.get("left_off", {})
    assert len(text) <= 2000 or not any(document[name] for name in lists)
    for name, items in lists.items():
        if name != "edge":
            rest = document[name]
            assert rest == items[: len(rest)]
            assert len(items) - len(rest) == left_off.get(name, 0)


async def test_event_of_an_edge_with_many_problems_is_bounded(shared: SharedState) -> None:
    names = [{"name": "<script>alert(1)</script>" * 40, "number": number} for number in range(500)]
    status = LiveStatus("fra-1", shared, {"distributions": lambda: names})
    text = status.text()
    assert len(text) <= EVENT_BYTES_MAX
    document = json.loads(text)
    assert document["left_off"]["distributions"] + len(document["distributions"]) == 500


def test_hit_ratios_are_none_without_requests() -> None:
    minute = {"requests": 0.0, "hits": 0.0, "http_bytes": 0.0, "rtmp_bytes": 0.0}
    assert hit_ratios(minute | {"origin_bytes": 5.0}) == {"requests": None, "bytes": None}


def test_byte_ratio_is_never_below_zero() -> None:
    minute = {"requests": 4.0, "hits": 1.0, "http_bytes": 60.0, "rtmp_bytes": 40.0}
    assert hit_ratios(minute | {"origin_bytes": 25.0}) == {"requests": 0.25, "bytes": 0.75}
    assert hit_ratios(minute | {"origin_bytes": 250.0})["bytes"] == 0.0
