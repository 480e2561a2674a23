"""The viewers of all workers on the admin address.

    GET    /viewers      rows: RTMP sessions and HTTP viewers; filtered, sorted, limited
    DELETE /viewers/ID   ends the session, or the responses of the HTTP viewer

Workers make rows on request, and note HTTP viewers only while an operator looks. So a call waits
for the workers' reports, and HTTP viewers between two requests appear from the first call on.
Workers from before an upgrade report, too.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.coordination.viewer_rows import ROWS_MAX, ViewerRows, WorkerReport
from streamedge.coordination.wakeups import ChangeEvent
from streamedge.delivery.viewers import ViewerRow
from streamedge.http_fields import parse_number
from streamedge.ops.log import Log

REPORT_TIMEOUT_S = 3.0
REPORT_SHARED_S = 0.5  # calls within this time use the same reports
COUNT_AGE_MAX_S = 3.0  # an older count is of a worker that does not run
END_TIMEOUT_S = 5.0
LIMIT = 1000
MATCH_CHARACTERS_MAX = 200
LOOK_PAUSE_S, LOOK_PAUSE_MAX_S = 1.5, 6.0
LOOK_PAUSE_VIEWERS = 100  # with more of them, the pause between two looks grows in proportion

SORTS = ("rate", "sent_bytes", "age_s", "idle_s", "position_s", "requests", "address", "object")
_MATCHED = ("id", "address", "country", "distribution", "site", "object", "agent", "state")
_ID = re.compile(r"[0-9a-z-]{1,64}")


class ListedViewer(NamedTuple):
    """A row of the list: a viewer, its rate in bytes a second and country, and its workers.

    ``country`` is "" if it is unknown. ``retiring``: only workers from before an upgrade serve it.
    """

    viewer: ViewerRow
    rate: float
    country: str
    workers: tuple[int, ...]
    retiring: bool

    def merged(self, other: ListedViewer) -> ListedViewer:
        """The row of an HTTP viewer that the workers of both rows serve."""
        one, two = self.viewer, other.viewer
        newest = min(one, two, key=lambda viewer: (viewer.state != "sending", viewer.idle_s))
        viewer = one._replace(
            client="",
            object=newest.object,
            state=newest.state,
            sent_bytes=one.sent_bytes + two.sent_bytes,
            requests=one.requests + two.requests,
            age_s=max(one.age_s, two.age_s),
            idle_s=min(one.idle_s, two.idle_s),
        )
        return self._replace(
            viewer=viewer,
            rate=self.rate + other.rate,
            workers=self.workers + other.workers,
            retiring=self.retiring and other.retiring,
        )

    def json(self) -> str:
        """The row as a JSON object."""
        viewer = self.viewer
        position_s = "null" if viewer.position_s is None else repr(viewer.position_s)
        texts = _texts(*viewer[:10], self.country, self.workers, self.retiring)
        return (
            f'{texts},"position_s":{position_s},"sent_bytes":{viewer.sent_bytes}'
            f',"requests":{viewer.requests},"age_s":{viewer.age_s!r},"idle_s":{viewer.idle_s!r}'
            f',"rate":{self.rate!r}}}'
        )


def _value(name: str) -> Callable[[ListedViewer], Any]:
    """Returns a row's value by the name that it has in the list."""
    return attrgetter(f"viewer.{name}" if name in ViewerRow._fields else name)


_MATCHED_VALUES = [_value(name) for name in _MATCHED]
TEXTS_REMEMBERED = 1024


@lru_cache(TEXTS_REMEMBERED)
def _texts(*values: Any) -> str:
    """The beginning of a row's JSON object: what seldom changes while an operator looks."""
    *texts, country, workers, is_retiring = values
    members = dict(zip(ViewerRow._fields, texts, strict=False))
    members |= {"country": country or None, "workers": workers, "retiring": is_retiring}
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False)[:-1]


class LiveViewers:
    """What the control process uses of the workers' rows. ``subscribe`` before any call.

    ``previous_rows``: of workers from before an upgrade.
    """

    def __init__(self, rows: ViewerRows, previous_rows: ViewerRows | None = None) -> None:
        self._previous_rows = previous_rows
        self._all_rows = [rows] if previous_rows is None else [rows, previous_rows]
        self._written = ChangeEvent()
        self._requested_s = -math.inf  # when rows were requested last
        self._requests: Mapping[ViewerRows, int] = {}  # the numbers of these requests

    def subscribe(self) -> None:
        for rows in self._all_rows:
            rows.subscribe_control(self._written.notify)

    def close(self) -> None:
        for rows in self._all_rows:
            rows.unsubscribe_control()

    def watch(self) -> None:
        """Makes workers report for some seconds."""
        for rows in self._all_rows:
            rows.watch()

    def http_count(self) -> int | None:
        """The number of HTTP viewers, some twice; None while they are not counted."""
        counts = [
            rows.http_count(worker)
            for rows, worker in self._workers()
            if rows.count_age_s(worker) < COUNT_AGE_MAX_S
        ]
        return sum(counts) if counts else None

    async def document(self, selection: Selection) -> bytes:
        """The list as JSON: the rows of the selection, and how many viewers there are.

        Waits for the reports of all running workers.
        """
        now_s = time.monotonic()
        if now_s - self._requested_s >= REPORT_SHARED_S:
            self._requested_s = now_s
            self._requests = {rows: rows.request_rows() for rows in self._all_rows}
        requests = self._requests

        def has_reported(rows: ViewerRows, worker: int) -> bool:
            return rows.has_answered(worker, requests[rows])

        await self._written.wait_for(
            lambda: all(has_reported(*one) for one in self._running()), REPORT_TIMEOUT_S
        )
        reported = [one for one in self._workers() if has_reported(*one)]
        return await asyncio.to_thread(lambda: viewers_document(self._reports(reported), selection))

    def _reports(
        self, workers: Iterable[tuple[ViewerRows, int]]
    ) -> Iterator[tuple[int, bool, WorkerReport]]:
        for rows, worker in workers:
            yield worker, rows is self._previous_rows, rows.report(worker)

    async def end(self, identifier: str) -> int:
        """Ends a viewer; returns how many connections of it there were."""
        self.watch()
        numbers = {rows: rows.request_end(identifier) for rows in self._all_rows}

        def results() -> list[int | None]:
            return [rows.ended(worker, numbers[rows]) for rows, worker in self._running()]

        await self._written.wait_for(lambda: None not in results(), END_TIMEOUT_S)
        return sum(result or 0 for result in results())

    def _workers(self) -> Iterator[tuple[ViewerRows, int]]:
        for rows in self._all_rows:
            for worker in rows.workers:
                yield rows, worker

    def _running(self) -> list[tuple[ViewerRows, int]]:
        return [(rows, worker) for rows, worker in self._workers() if rows.reports(worker)]


def viewers_document(
    reports: Iterable[tuple[int, bool, WorkerReport]], selection: Selection
) -> bytes:
    """What ``GET /viewers`` answers.

    ``reports``: of workers by number, and whether it is one from before an upgrade.
    """
    rows: dict[str, ListedViewer] = {}
    rtmp = http = skipped = left_off = 0
    for worker, is_retiring, report in reports:
        rtmp, http = rtmp + report.rtmp, http + report.http
        skipped += report.skipped
        left_off += report.rtmp + report.http - len(report.rows)
        for values in report.rows:
            *viewer, rate, country = values
            row = ListedViewer(ViewerRow._make(viewer), rate, country, (worker,), is_retiring)
            same = rows.get(row.viewer.id)
            if same is not None:
                http -= 1
                row = same.merged(row)
            rows[row.viewer.id] = row
    matches = selection.select(rows.values())
    head = {
        "time_s": round(time.time(), 3),
        "rtmp": rtmp,
        "http": http,
        "skipped": skipped,
        "left_off": left_off,
        "matching": len(matches),
        "next_look_s": next_look_s(rtmp + http),
    }
    texts = ",".join([row.json() for row in matches[: selection.limit]])
    text = f'{json.dumps(head, separators=(",", ":"))[:-1]},"rows":[{texts}]}}'
    return text.encode("utf-8", "backslashreplace")


def next_look_s(viewers: int) -> float:
    """How long a program that shows the list waits until it calls again.

    Workers make a row of each viewer for each look, so with many viewers looks are fewer.
    """
    return min(LOOK_PAUSE_MAX_S, LOOK_PAUSE_S * max(1.0, viewers / LOOK_PAUSE_VIEWERS))


def viewers_routes(viewers: LiveViewers, log: Log) -> list[Route]:
    """The routes. ``log`` gets an event for each viewer that an operator has ended."""

    async def show(request: Request) -> Response:
        document = await viewers.document(Selection(request.query_params))
        return Response(
            document, media_type="application/json", headers={"cache-control": "no-store"}
        )

    async def end(request: Request) -> Response:
        identifier = request.path_params["identifier"]
        connections = await viewers.end(identifier) if _ID.fullmatch(identifier) else 0
        if not connections:
            raise HTTPException(404, f"no viewer has the id {identifier[:100]!a} now")
        client = None if request.client is None else request.client.host
        caller = request.scope.get("streamedge.caller")
        log.event(
            "viewer_ended",
            viewer=identifier,
            connections=connections,
            client=client,
            user=getattr(caller, "user", None) or None,
        )
        return JSONResponse({"id": identifier, "connections": connections})

    return [
        Route("/viewers", show),
        Route("/viewers/{identifier}", end, methods=["DELETE"]),
    ]


class Selection:
    """The rows that a query of ``GET /viewers`` selects. Raises HTTPException 400."""

    def __init__(self, query: Mapping[str, str]) -> None:
        unknown = query.keys() - {
            *("kind", "distribution", "state", "retiring"),
            *("match", "sort", "limit"),
        }
        if unknown:
            raise HTTPException(400, f"{min(unknown)[:100]!a} is no parameter of this call")
        self._equal: list[tuple[Callable[[ListedViewer], Any], object]] = [
            (_value(name), query[name])
            for name in ("kind", "distribution", "state")
            if name in query
        ]
        retiring = query.get("retiring")
        if retiring not in {None, "true", "false"}:
            raise HTTPException(400, 'retiring is "true" or "false"')
        if retiring is not None:
            self._equal.append((_value("retiring"), retiring == "true"))
        self._match = query.get("match", "")[:MATCH_CHARACTERS_MAX].lower()
        sort = query.get("sort", "-rate")
        by, self._descends = sort.removeprefix("-"), sort.startswith("-")
        if by not in SORTS:
            raise HTTPException(
                400, f'sort is one of {", ".join(SORTS)}, with "-" in front for descending order'
            )
        self._key = _value(by)
        self._has_gaps = by == "position_s"
        text = query.get("limit", str(LIMIT))
        limit = parse_number(text, 9)
        if not limit:
            raise HTTPException(400, f"limit is a number above 0, not {text[:100]!a}")
        self.limit = min(limit, ROWS_MAX)

    def select(self, rows: Iterable[ListedViewer]) -> list[ListedViewer]:
        """The rows that match, in order."""
        matches = [row for row in rows if self._matches(row)]
        matches.sort(key=_value("id"))  # equal ones by id, so that they stay
        if self._has_gaps:  # rows without a value come last in either order
            last = [row for row in matches if self._key(row) is None]
            matches = [row for row in matches if self._key(row) is not None]
        else:
            last = []
        matches.sort(key=self._key, reverse=self._descends)
        return matches + last

    def _matches(self, row: ListedViewer) -> bool:
        if any(value_of(row) != value for value_of, value in self._equal):
            return False
        return not self._match or any(
            self._match in value_of(row).lower() for value_of in _MATCHED_VALUES
        )
