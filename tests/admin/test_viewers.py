"""The viewers on the admin address: rows of several workers, selections, and ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamedge.admin.viewers import ROW_FIELDS, LiveViewers, viewers_routes
from streamedge.coordination.shared_state import SharedState
from streamedge.coordination.viewer_rows import ROWS_MAX, WorkerReport
from streamedge.process.control import create_admin_app
from tests.support.admin.access import open_access
from tests.support.http.asgi_call import call
from tests.support.process.shared_memory import close_shared, make_shared

ROW: dict[str, Any] = {
    "id": "h1",
    "kind": "http",
    "protocol": "http/1.1",
    "address": "192.0.2.1",
    "client": "192.0.2.1:5000",
    "distribution": "EWEB",
    "site": "www.example",
    "object": "/film.mp4",
    "agent": "curl",
    "state": "sending",
    "position_s": None,
    "sent_bytes": 1000,
    "requests": 1,
    "age_s": 5.0,
    "idle_s": 0.0,
    "rate": 100.0,
    "country": "DE",
}


class Edge:
    """The shared state of two workers, which are up, and the control process."""

    def __init__(self, shared: SharedState) -> None:
        self.shared = shared
        self.viewers = LiveViewers(shared.viewer_rows, shared.worker_status)
        self.log = shared.open_log("control")
        for worker in range(2):
            shared.worker_status.mark_up(worker)

    def report(self, worker: int, *rows: dict[str, Any]) -> None:
        """Publishes rows as a worker."""
        values = [[row[field] for field in ROW_FIELDS] for row in rows]
        rtmp = sum(row["kind"] == "rtmp" for row in rows)
        report = WorkerReport(time.monotonic(), rtmp, len(rows) - rtmp, 0, values)
        self.shared.viewer_rows.publish(worker, report)

    async def call(self, method: str, target: str) -> tuple[int, dict[str, Any]]:
        routes = viewers_routes(self.viewers, self.log)
        app = create_admin_app("fra-1", self.shared, open_access(self.shared), routes=routes)
        status, body = await call(app, method, target)
        return status, json.loads(body)

    async def rows(self, query: str = "") -> list[dict[str, Any]]:
        status, document = await self.call("GET", f"/viewers{query}")
        assert status == 200
        rows: list[dict[str, Any]] = document["rows"]
        return rows

    async def ids(self, query: str = "") -> list[str]:
        return [row["id"] for row in await self.rows(query)]


@pytest.fixture(name="edge")
async def _edge() -> AsyncIterator[Edge]:
    edge = Edge(make_shared(2))
    edge.viewers.subscribe()
    yield edge
    edge.viewers.close()
    edge.log.finish()
    close_shared(edge.shared)


async def test_http_viewer_of_two_workers_is_one_row(edge: Edge) -> None:
    edge.report(0, ROW | {"state": "seen", "idle_s": 7.0, "age_s": 20.0})
    edge.report(1, ROW | {"client": "192.0.2.1:6000"})
    (row,) = await edge.rows()
    assert (row["sent_bytes"], row["requests"], row["rate"]) == (2000, 2, 200.0)
    assert (row["state"], row["age_s"], row["idle_s"]) == ("sending", 20.0, 0.0)
    assert (row["workers"], row["client"]) == ([0, 1], "")
    _status, document = await edge.call("GET", "/viewers")
    assert (document["http"], document["rtmp"]) == (1, 0)


async def test_call_waits_for_the_reports_of_running_workers(edge: Edge) -> None:
    pending = asyncio.ensure_future(edge.ids())
    woken = asyncio.Event()
    edge.shared.viewer_rows.subscribe(0, woken.set)
    await woken.wait()
    assert edge.shared.viewer_rows.is_watched
    edge.report(0, ROW)
    edge.report(1)
    assert await pending == ["h1"]
    edge.shared.viewer_rows.unsubscribe(0)


async def test_rows_of_a_worker_that_has_stopped_are_not_shown(edge: Edge) -> None:
    edge.report(1, ROW)
    edge.shared.worker_status.mark_down(0)
    old = WorkerReport(time.monotonic() - 60, 0, 1, 0, [[ROW[field] for field in ROW_FIELDS]])
    edge.shared.viewer_rows.publish(0, old)
    _status, document = await edge.call("GET", "/viewers")
    assert document["http"] == 1


async def test_rows_are_filtered_and_sorted(edge: Edge) -> None:
    play = ROW | {"id": "1-1", "kind": "rtmp", "state": "paused", "position_s": 9.0, "rate": 500.0}
    other = ROW | {"id": "h2", "address": "198.51.100.7", "country": "", "rate": 50.0}
    edge.report(0, ROW, play | {"object": "Film.mp4"}, other)
    edge.report(1)
    assert await edge.ids() == ["1-1", "h1", "h2"]  # by rate, the largest first
    assert await edge.ids("?sort=rate") == ["h2", "h1", "1-1"]
    assert await edge.ids("?sort=address&limit=2") == ["1-1", "h1"]
    assert await edge.ids("?sort=position_s") == ["1-1", "h1", "h2"]  # none is last
    assert await edge.ids("?sort=-position_s") == ["1-1", "h1", "h2"]
    assert await edge.ids("?kind=http&sort=-address") == ["h2", "h1"]
    assert await edge.ids("?state=paused") == ["1-1"]
    assert await edge.ids("?match=FILM.MP4&kind=rtmp") == ["1-1"]
    assert await edge.ids("?match=198.51") == ["h2"]
    assert await edge.ids("?distribution=ENONE") == []
    assert [row["country"] for row in await edge.rows("?match=h2")] == [None]


async def test_rows_are_limited_and_counted(edge: Edge) -> None:
    edge.report(0, *(ROW | {"id": f"h{number}"} for number in range(ROWS_MAX)))
    edge.report(1)
    _status, document = await edge.call("GET", "/viewers")
    assert (len(document["rows"]), document["matching"]) == (1000, ROWS_MAX)
    assert len(await edge.rows("?limit=999999")) == ROWS_MAX


async def test_markup_of_a_viewer_is_text(edge: Edge) -> None:
    edge.report(0, ROW | {"agent": '<script>"\\', "object": "/<img src=x>"})
    edge.report(1)
    (row,) = await edge.rows()
    assert (row["agent"], row["object"]) == ('<script>"\\', "/<img src=x>")


async def test_end_is_requested_from_all_workers(edge: Edge) -> None:
    shared_rows = edge.shared.viewer_rows
    pending = asyncio.ensure_future(edge.call("DELETE", "/viewers/h1"))
    woken = asyncio.Event()
    shared_rows.subscribe(1, woken.set)
    await woken.wait()
    ((number, identifier),) = shared_rows.end_requests_after(0)
    assert identifier == "h1"
    shared_rows.publish_ended(0, {number: 0})
    shared_rows.publish_ended(1, {number: 2})
    assert await pending == (200, {"id": "h1", "connections": 2})
    shared_rows.unsubscribe(1)


async def test_end_of_a_viewer_that_no_worker_has_is_404(edge: Edge) -> None:
    pending = asyncio.ensure_future(edge.call("DELETE", "/viewers/h1"))
    woken = asyncio.Event()
    edge.shared.viewer_rows.subscribe(0, woken.set)
    await woken.wait()
    for worker in range(2):
        edge.shared.viewer_rows.publish_ended(worker, {1: 0})
    status, document = await pending
    assert status == 404
    assert "no viewer has the id 'h1' now" in document["error"]
    edge.shared.viewer_rows.unsubscribe(0)


async def test_text_that_is_no_id_is_404_without_a_request_to_workers(edge: Edge) -> None:
    assert (await edge.call("DELETE", "/viewers/<b>"))[0] == 404
    assert (await edge.call("DELETE", f"/viewers/{'a' * 65}"))[0] == 404
    assert edge.shared.viewer_rows.end_requests == 0


@pytest.mark.parametrize("query", ["sort=agent", "limit=0", "limit=x", "limit=1e3", "page=2"])
async def test_unusable_query_is_400(edge: Edge, query: str) -> None:
    assert (await edge.call("GET", f"/viewers?{query}"))[0] == 400
