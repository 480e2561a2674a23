"""A worker reports its viewers while an operator looks, and ends those that operators name."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from streamedge.coordination.viewer_rows import ENDS_MAX, ROWS_MAX, ViewerRows, WorkerReport
from streamedge.delivery.http.server import WebServer
from streamedge.delivery.rtmp.server import RtmpServer
from streamedge.delivery.viewers import ViewerRow

REPORT_INTERVAL_S = 1.0
RATE_REPORTS = 5  # a rate is measured over so many: RTMP media are sent in bursts


class ViewerReporter:
    """Reports as worker ``number``. ``country``: of an address, "" if it is unknown."""

    def __init__(
        self,
        shared_rows: ViewerRows,
        number: int,
        web: WebServer,
        rtmp: RtmpServer,
        country: Callable[[str], str],
    ) -> None:
        self._shared_rows = shared_rows
        self._number = number
        self._web = web
        self._rtmp = rtmp
        self._country = country
        self._rates = Rates()
        self._last_end = shared_rows.end_requests
        self._ended: dict[int, int] = {}

    async def run(self) -> None:
        """Waits until an operator looks, and reports while one does; until cancelled."""
        woken = asyncio.Event()
        woken.set()  # one may look already
        self._shared_rows.subscribe(self._number, woken.set)
        try:
            while True:
                await woken.wait()
                woken.clear()
                while self._shared_rows.is_watched:
                    self._end_viewers()
                    self._report()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(REPORT_INTERVAL_S):
                            await woken.wait()
                    woken.clear()
                self._end_viewers()
                self._web.forget_viewers()
                self._rates = Rates()
        finally:
            self._web.forget_viewers()
            self._shared_rows.unsubscribe(self._number)

    def _report(self) -> None:
        loop_s, now_s = asyncio.get_running_loop().time(), time.monotonic()
        rtmp, http = self._rtmp.viewer_rows(loop_s), self._web.viewer_rows(loop_s)
        rows = [*rtmp, *http][:ROWS_MAX]
        rates = self._rates.update(rows, now_s)
        report = WorkerReport(
            now_s,
            len(rtmp),
            len(http),
            self._web.take_skipped(),
            [[*row, rates[row.id], self._country(row.address)] for row in rows],
        )
        self._shared_rows.publish(self._number, report)

    def _end_viewers(self) -> None:
        """Ends the viewers that the control process has named since the last call."""
        if self._shared_rows.end_requests == self._last_end:
            return
        for number, identifier in self._shared_rows.end_requests_after(self._last_end):
            self._last_end = number
            ended = self._rtmp.end_viewer(identifier) + self._web.end_viewer(identifier)
            self._ended[number] = ended
        for number in sorted(self._ended)[:-ENDS_MAX]:
            del self._ended[number]
        self._shared_rows.publish_ended(self._number, self._ended)


class Rates:
    """Bytes a second of viewers over the last reports; at first since the viewer came."""

    def __init__(self) -> None:
        self._past: dict[str, list[tuple[float, int]]] = {}  # by id: times and bytes

    def update(self, rows: Sequence[ViewerRow], now_s: float) -> Mapping[str, float]:
        """The rates of all rows, by id. Rows that are missing now are forgotten."""
        past: dict[str, list[tuple[float, int]]] = {}
        rates: dict[str, float] = {}
        for row in rows:
            before = self._past.get(row.id) or [(now_s - max(row.age_s, 1.0), 0)]
            since_s, sent_bytes = before[0]
            rise = max(0, row.sent_bytes - sent_bytes)
            rates[row.id] = round(rise / max(now_s - since_s, 0.001), 1)
            past[row.id] = [*before, (now_s, row.sent_bytes)][-RATE_REPORTS:]
        self._past = past
        return rates
