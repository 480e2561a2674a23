"""A worker reports its viewers to operators who look, and ends those that they name.

While an operator looks, it counts its HTTP viewers once a second. It makes rows only on request.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from streamedge.coordination.viewer_rows import ENDS_MAX, ROWS_MAX, ViewerRows, WorkerReport
from streamedge.delivery.http.server import WebServer
from streamedge.delivery.rtmp.server import RtmpServer
from streamedge.delivery.viewers import ViewerRow

COUNT_INTERVAL_S = 1.0
RATE_S = 5.0  # a rate is measured over this time: RTMP media are sent in bursts


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
                    number = self._shared_rows.row_request(self._number)
                    if number is None:
                        self._count()
                    else:
                        self._report(number)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(COUNT_INTERVAL_S):
                            await woken.wait()
                    woken.clear()
                self._end_viewers()
                self._web.forget_viewers()
                self._rates = Rates()
        finally:
            self._web.forget_viewers()
            self._shared_rows.unsubscribe(self._number)

    def _count(self) -> None:
        count = self._web.count_viewers(asyncio.get_running_loop().time())
        self._shared_rows.publish_count(self._number, count)

    def _report(self, number: int) -> None:
        loop_s, now_s = asyncio.get_running_loop().time(), time.monotonic()
        rtmp, http = self._rtmp.viewer_rows(loop_s), self._web.viewer_rows(loop_s)
        rows = [*rtmp, *http][:ROWS_MAX]
        rates = self._rates.update(rows, now_s)
        report = WorkerReport(
            len(rtmp),
            len(http),
            self._web.take_skipped(),
            [
                (*row, rate, self._country(row.address))
                for row, rate in zip(rows, rates, strict=True)
            ],
        )
        self._shared_rows.publish(self._number, number, report)

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
    """Bytes a second of viewers over the last RATE_S; of a viewer that came later, since then."""

    def __init__(self) -> None:
        # Times of reports and the bytes of viewers by id. The first is RATE_S old, if any is.
        self._past: deque[tuple[float, Mapping[str, int]]] = deque()

    def update(self, rows: Sequence[ViewerRow], now_s: float) -> list[float]:
        """The rates of all rows, in their order."""
        past = self._past
        while len(past) > 1 and now_s - past[1][0] >= RATE_S:
            past.popleft()
        before_s, before = past[0] if past else (now_s, {})
        since_s = max(now_s - before_s, 0.001)
        past.append((now_s, {row.id: row.sent_bytes for row in rows}))
        rates = []
        for row in rows:
            sent_bytes = before.get(row.id)
            if sent_bytes is None:
                rates.append(round(row.sent_bytes / max(row.age_s, 1.0), 1))
            else:
                rates.append(round(max(0, row.sent_bytes - sent_bytes) / since_s, 1))
        return rates
