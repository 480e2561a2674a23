"""The viewers on the admin address: rows of several workers, selections, and ends."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from streamedge.admin import viewers as admin_viewers
from streamedge.admin.app import create_admin_app
from streamedge.admin.viewers import (
    LOOK_PAUSE_MAX_S,
    REPORT_TIMEOUT_S,
    LiveViewers,
    viewers_routes,
)
from streamedge.coordination.shared_state import SharedState
from streamedge.coordination.viewer_rows import ROWS_MAX, WATCH_S, ViewerRows, WorkerReport
from streamedge.delivery.viewers import ViewerRow
from tests.support.admin.access import open_access
from tests.support.http.asgi_call import call
from tests.support.patience import PATIENCE_S
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
    """The shared state of two workers, which run, and the control process.

    ``previous``: the rows of a worker from before an upgrade, which does not run yet. ``reports``:
    what workers report on request, by worker; one without a report never does. ``woken``: set
    when an operator begins to look, or ends a viewer; by worker.
    """

    def __init__(self, shared: SharedState) -> None:
        self.shared = shared
        self.previous = ViewerRows(1)
        self.viewers = LiveViewers(shared.viewer_rows, self.previous)
        self.log = shared.open_log("control")
        self.woken = [asyncio.Event() for _worker in range(2)]
        self.reports: dict[int, WorkerReport] = {}
        for worker in range(2):
            shared.viewer_rows.subscribe(worker, partial(self._wake, worker))
        self.viewers.subscribe()

    def _wake(self, worker: int) -> None:
        self.woken[worker].set()
        answer(self.shared.viewer_rows, worker, self.reports.get(worker))

    def close(self) -> None:
        self.viewers.close()
        for worker in range(2):
            self.shared.viewer_rows.unsubscribe(worker)
        self.previous.close()
        self.log.finish()
        close_shared(self.shared)

    def report(self, worker: int, *rows: dict[str, Any]) -> None:
        """Makes a worker report these rows, also to a call that waits."""
        self.reports[worker] = report_of(*rows)
        answer(self.shared.viewer_rows, worker, self.reports[worker])

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


def answer(rows: ViewerRows, worker: int, report: WorkerReport | None) -> None:
    """Publishes a worker's report, if there is one and it was requested."""
    number = rows.row_request(worker)
    if number is not None and report is not None:
        rows.publish(worker, number, report)


def report_of(*rows: dict[str, Any]) -> WorkerReport:
    """A worker's report with these rows."""
    own = [*ViewerRow._fields, "rate", "country"]
    values = [tuple(row[name] for name in own) for row in rows]
    rtmp = sum(row["kind"] == "rtmp" for row in rows)
    return WorkerReport(rtmp, len(rows) - rtmp, 0, values)


@pytest.fixture(name="edge")
async def _edge(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Edge]:
    monkeypatch.setattr(admin_viewers, "REPORT_SHARED_S", 0.0)
    monkeypatch.setattr(admin_viewers, "COUNT_AGE_MAX_S", PATIENCE_S)
    edge = Edge(make_shared(2))
    yield edge
    edge.close()


async def test_http_viewer_of_two_workers_is_one_row(edge: Edge) -> None:
    edge.report(0, ROW | {"state": "seen", "idle_s": 0.0, "age_s": 20.0, "object": "/poster.png"})
    edge.report(1, ROW | {"client": "192.0.2.1:6000"})
    (row,) = await edge.rows()
    assert row["object"] == "/film.mp4"  # which is on its way
    assert (row["sent_bytes"], row["requests"], row["rate"]) == (2000, 2, 200.0)
    assert (row["state"], row["age_s"], row["idle_s"]) == ("sending", 20.0, 0.0)
    assert (row["workers"], row["client"]) == ([0, 1], "")
    _status, document = await edge.call("GET", "/viewers")
    assert (document["http"], document["rtmp"]) == (1, 0)


async def test_call_waits_for_the_reports_of_running_workers(edge: Edge) -> None:
    pending = asyncio.ensure_future(edge.ids())
    await edge.woken[0].wait()
    assert edge.shared.viewer_rows.is_watched
    edge.report(0, ROW)
    edge.report(1)
    assert await pending == ["h1"]


async def test_rows_of_a_worker_that_has_stopped_are_not_shown(edge: Edge) -> None:
    edge.report(1, ROW)
    edge.report(0, ROW | {"id": "h2"})
    edge.shared.viewer_rows.unsubscribe(0)
    _status, document = await edge.call("GET", "/viewers")
    assert (document["http"], await edge.ids()) == (1, ["h1"])


async def test_report_from_before_the_call_is_not_shown(edge: Edge) -> None:
    edge.report(1, ROW)
    edge.report(0, ROW | {"id": "h2"})
    assert await edge.ids() == ["h1", "h2"]
    edge.shared.viewer_rows.unsubscribe(0)  # it has ended
    assert await edge.ids() == ["h1"]


async def test_calls_at_the_same_time_share_the_reports(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_viewers, "REPORT_SHARED_S", math.inf)
    edge.report(0, ROW)
    edge.report(1)
    await asyncio.gather(*(edge.ids() for _operator in range(20)))
    assert edge.shared.viewer_rows.request_rows() == 2


async def test_count_of_http_viewers_needs_no_rows(edge: Edge) -> None:
    assert edge.viewers.http_count() is None
    edge.viewers.watch()
    await edge.woken[0].wait()
    for worker in range(2):
        assert edge.shared.viewer_rows.row_request(worker) is None
        edge.shared.viewer_rows.publish_count(worker, 3)
    assert edge.viewers.http_count() == 6


async def test_viewers_of_workers_from_before_an_upgrade_are_listed(edge: Edge) -> None:
    play = ROW | {"id": "1-1", "kind": "rtmp", "rate": 500.0}
    watched = asyncio.Event()
    edge.previous.subscribe(0, watched.set)
    edge.report(0, ROW)
    edge.report(1)
    pending = asyncio.ensure_future(edge.rows())
    await watched.wait()  # its report is awaited, too
    report = report_of(play, ROW | {"requests": 5}, ROW | {"id": "h2"})
    answer(edge.previous, 0, report)
    edge.previous.subscribe(0, lambda: answer(edge.previous, 0, report))
    rows = {row["id"]: row for row in await pending}
    assert {identifier: row["retiring"] for identifier, row in rows.items()} == {
        "1-1": True,
        "h1": False,  # a worker of after the upgrade serves it, too
        "h2": True,
    }
    assert rows["h1"]["requests"] == 6
    assert await edge.ids("?retiring=true") == ["1-1", "h2"]
    assert await edge.ids("?retiring=false") == ["h1"]
    assert edge.viewers.http_count() == 3
    edge.previous.unsubscribe(0)  # it has ended
    assert await edge.ids() == ["h1"]


async def test_viewer_of_a_worker_from_before_an_upgrade_is_ended(edge: Edge) -> None:
    named = asyncio.Event()
    edge.previous.subscribe(0, named.set)
    pending = asyncio.ensure_future(edge.call("DELETE", "/viewers/1-1"))
    await named.wait()
    ((number, identifier),) = edge.previous.end_requests_after(0)
    assert identifier == "1-1"
    edge.previous.publish_ended(0, {number: 1})
    for worker in range(2):
        edge.shared.viewer_rows.publish_ended(worker, {1: 0})
    assert await pending == (200, {"id": "1-1", "connections": 1})
    edge.previous.unsubscribe(0)


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


@pytest.mark.parametrize(
    ("viewers", "pause_s"), [(0, 1.5), (100, 1.5), (200, 3.0), (400, 6.0), (4096, 6.0)]
)
async def test_pause_between_two_looks_grows_with_the_number_of_viewers(
    edge: Edge, viewers: int, pause_s: float
) -> None:
    plays = viewers // 2
    edge.report(0, *(ROW | {"id": f"1-{one}", "kind": "rtmp"} for one in range(plays)))
    edge.report(1, *(ROW | {"id": f"h{one}"} for one in range(viewers - plays)))
    _status, document = await edge.call("GET", "/viewers?limit=1&kind=http")
    assert document["next_look_s"] == pause_s


def test_workers_collect_viewers_between_two_looks() -> None:
    assert WATCH_S > LOOK_PAUSE_MAX_S + REPORT_TIMEOUT_S


async def test_markup_of_a_viewer_is_text(edge: Edge) -> None:
    edge.report(0, ROW | {"agent": '<script>"\\', "object": "/<img src=x>"})
    edge.report(1)
    (row,) = await edge.rows()
    assert (row["agent"], row["object"]) == ('<script>"\\', "/<img src=x>")


async def test_end_is_requested_from_all_workers(edge: Edge) -> None:
    shared_rows = edge.shared.viewer_rows
    pending = asyncio.ensure_future(edge.call("DELETE", "/viewers/h1"))
    await edge.woken[1].wait()
    ((number, identifier),) = shared_rows.end_requests_after(0)
    assert identifier == "h1"
    shared_rows.publish_ended(0, {number: 0})
    shared_rows.publish_ended(1, {number: 2})
    assert await pending == (200, {"id": "h1", "connections": 2})


async def test_end_of_a_viewer_that_no_worker_has_is_404(edge: Edge) -> None:
    pending = asyncio.ensure_future(edge.call("DELETE", "/viewers/h1"))
    await edge.woken[0].wait()
    for worker in range(2):
        edge.shared.viewer_rows.publish_ended(worker, {1: 0})
    status, document = await pending
    assert status == 404
    assert "no viewer has the id 'h1' now" in document["error"]


async def test_text_that_is_no_id_is_404_without_a_request_to_workers(edge: Edge) -> None:
    assert (await edge.call("DELETE", "/viewers/<b>"))[0] == 404
    assert (await edge.call("DELETE", f"/viewers/{'a' * 65}"))[0] == 404
    assert edge.shared.viewer_rows.end_requests == 0


@pytest.mark.parametrize(
    "query", ["sort=agent", "limit=0", "limit=x", "limit=1e3", "page=2", "retiring=1"]
)
async def test_unusable_query_is_400(edge: Edge, query: str) -> None:
    assert (await edge.call("GET", f"/viewers?{query}"))[0] == 400
