"""The viewers of all workers on the admin address.

    GET    /viewers      rows: RTMP sessions and HTTP viewers; filtered, sorted, limited
    DELETE /viewers/ID   ends the session, or the responses of the HTTP viewer

Workers collect rows only while an operator looks. So the first call waits for their first reports,
and HTTP viewers between two requests appear from then on. Workers from before an upgrade report,
too.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.coordination.viewer_rows import ROWS_MAX, ViewerRows
from streamedge.coordination.wakeups import ChangeEvent
from streamedge.delivery.viewers import ViewerRow
from streamedge.ops.log import Log

REPORT_TIMEOUT_S = 3.0
REPORT_AGE_MAX_S = 3.0  # an older report is of a worker that does not run
END_TIMEOUT_S = 5.0
LIMIT = 1000
MATCH_CHARACTERS_MAX = 200

ROW_FIELDS = (*ViewerRow._fields, "rate", "country")
"""The values of a row in a worker's report."""

SORTS = ("rate", "sent_bytes", "age_s", "idle_s", "position_s", "requests", "address", "object")
_MATCHED = ("id", "address", "country", "distribution", "site", "object", "agent", "state")
_ID = re.compile(r"[0-9a-z-]{1,64}")


class LiveViewers:
    """What the control process uses of the workers' rows. ``subscribe`` before any call.

    ``previous_rows``: of workers from before an upgrade.
    """

    def __init__(self, rows: ViewerRows, previous_rows: ViewerRows | None = None) -> None:
        self._previous_rows = previous_rows
        self._all_rows = [rows] if previous_rows is None else [rows, previous_rows]
        self._written = ChangeEvent()

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
        """The number of HTTP viewers, some twice; None while they are not collected."""
        counts = [rows.http_count(worker) for rows, worker in self._reporting()]
        return sum(counts) if counts else None

    async def document(self) -> dict[str, Any]:
        """All rows, and how many viewers there are. Waits for all running workers' reports."""
        self.watch()
        await self._written.wait_for(
            lambda: set(self._running()) <= set(self._reporting()), REPORT_TIMEOUT_S
        )
        return await asyncio.to_thread(self._document)

    def _document(self) -> dict[str, Any]:
        rows: dict[str, dict[str, Any]] = {}
        rtmp = http = skipped = left_off = 0
        for shared_rows, worker in self._reporting():
            report = shared_rows.report(worker)
            rtmp, http = rtmp + report.rtmp, http + report.http
            skipped += report.skipped
            left_off += report.rtmp + report.http - len(report.rows)
            is_retiring = shared_rows is self._previous_rows
            for values in report.rows:
                row = dict(zip(ROW_FIELDS, values, strict=True))
                row["country"] = row["country"] or None
                row["workers"] = [worker]
                row["retiring"] = is_retiring
                same = rows.get(row["id"])
                if same is not None:
                    http -= 1
                    row = merged(same, row)
                rows[row["id"]] = row
        return {
            "time_s": round(time.time(), 3),
            "rtmp": rtmp,
            "http": http,
            "skipped": skipped,
            "left_off": left_off,
            "rows": list(rows.values()),
        }

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

    def _reporting(self) -> list[tuple[ViewerRows, int]]:
        return [
            (rows, worker)
            for rows, worker in self._workers()
            if rows.report_age_s(worker) < REPORT_AGE_MAX_S
        ]


def viewers_routes(viewers: LiveViewers, log: Log) -> list[Route]:
    """The routes. ``log`` gets an event for each viewer that an operator has ended."""

    async def show(request: Request) -> Response:
        chosen = Selection(request.query_params)
        document = await viewers.document()
        rows = chosen.select(document["rows"])
        document |= {"matching": len(rows), "rows": rows[: chosen.limit]}
        return JSONResponse(document, headers={"cache-control": "no-store"})

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
        self._equal: dict[str, object] = {
            name: query[name] for name in ("kind", "distribution", "state") if name in query
        }
        retiring = query.get("retiring")
        if retiring not in {None, "true", "false"}:
            raise HTTPException(400, 'retiring is "true" or "false"')
        if retiring is not None:
            self._equal["retiring"] = retiring == "true"
        self._match = query.get("match", "")[:MATCH_CHARACTERS_MAX].lower()
        sort = query.get("sort", "-rate")
        self._sort, self._descends = sort.removeprefix("-"), sort.startswith("-")
        if self._sort not in SORTS:
            raise HTTPException(
                400, f'sort is one of {", ".join(SORTS)}, with "-" in front for descending order'
            )
        limit = query.get("limit", str(LIMIT))
        if not (limit.isascii() and limit.isdigit() and len(limit) < 10 and int(limit) > 0):
            raise HTTPException(400, f"limit is a number above 0, not {limit[:100]!a}")
        self.limit = min(int(limit), ROWS_MAX)

    def select(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows that match, in order."""
        matches = [row for row in rows if self._matches(row)]
        # Rows without a value come last in either order; equal ones by id, so that they stay.
        matches.sort(key=lambda row: row["id"])
        matches.sort(key=self._key, reverse=self._descends)
        matches.sort(key=lambda row: row[self._sort] is None)
        return matches

    def _key(self, row: Mapping[str, Any]) -> Any:
        value = row[self._sort]
        if self._sort in {"address", "object"}:
            return str(value)
        return 0.0 if value is None else value

    def _matches(self, row: Mapping[str, Any]) -> bool:
        if any(row[name] != value for name, value in self._equal.items()):
            return False
        return not self._match or any(self._match in str(row[name]).lower() for name in _MATCHED)


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """One row for an HTTP viewer that two workers serve."""
    row = dict(one)
    for name in ("sent_bytes", "requests", "rate"):
        row[name] += other[name]
    row["age_s"] = max(one["age_s"], other["age_s"])
    row["idle_s"] = min(one["idle_s"], other["idle_s"])
    row["workers"] = [*one["workers"], *other["workers"]]
    row["retiring"] = one["retiring"] and other["retiring"]
    row["client"] = ""
    if other["state"] == "sending":
        row["state"] = other["state"]
    return row
