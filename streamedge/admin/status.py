"""What the edge does now, and did lately, on the admin address.

    GET /status                  one JSON document
    GET /status/stream           the same as server-sent events, one a second
    GET /status/history?range=R  rates and gauges of the last 15m, 6h or 7d

A service of the control process calls ``LiveStatus.sample`` once a second. It reads what the
processes have written into shared memory, and nothing else; a document is made only for a reader.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from streamedge.admin.health import check_health
from streamedge.admin.viewers import LiveViewers
from streamedge.coordination.shared_state import SharedState
from streamedge.ops.history import RINGS, History, Series
from streamedge.ops.metrics import Gauge, MetricValues
from streamedge.ops.samples import FIELDS, distribution_rates, gauges, rates

SAMPLE_INTERVAL_S = 1.0
MINUTE_S = 60
RECENT_S = 5  # RTMP media are sent in bursts, so the rates of one second would jump
STREAMS_MAX = 16
EVENT_BYTES_MAX = 64 << 10
SILENCE_S = 5.0  # after it, a stream sends the last document again

Section = Callable[[], object]
"""Returns a JSON value, a member of the document."""


class LiveStatus:
    """The samples of the last minute, the rings of the past, and who waits for the next sample.

    ``sections``: further members of the document, by name. ``edge``: its name. ``viewers``: are
    collected while there are streams.
    """

    def __init__(
        self,
        edge: str,
        shared: SharedState,
        sections: Mapping[str, Section] | None = None,
        viewers: LiveViewers | None = None,
    ) -> None:
        self._edge = edge
        self._shared = shared
        self._sections = dict(sections or {})
        self._viewers = viewers
        self._history = History(shared.history)
        # Readings of the last minute, with their times by a monotonic clock.
        self._readings: deque[tuple[float, MetricValues]] = deque()
        self._next = asyncio.Event()
        self._text: tuple[int, bytes] | None = None  # the text of a sample's document, by number
        self._samples = 0
        self.version = _version()
        self.streams = 0
        self.is_closed = False

    async def sample(self) -> None:
        """Reads the metrics, and adds a sample to the history. Raises OSError."""
        now_s = time.monotonic()
        values = self._shared.metrics.values()
        if self._readings:
            before_s, before = self._readings[-1]
            rate = rates(before, values, max(0.001, now_s - before_s))
            sample = rate | gauges(values)
            self._history.add(time.time(), [sample[name] for name in FIELDS])
        self._readings.append((now_s, values))
        while now_s - self._readings[0][0] > MINUTE_S + SAMPLE_INTERVAL_S / 2:
            self._readings.popleft()
        self._samples += 1
        if self.streams and self._viewers is not None:
            self._viewers.watch()
        self._notify()

    def close(self) -> None:
        """Ends the streams."""
        self.is_closed = True
        self._notify()

    async def next_sample(self) -> None:
        """Returns after the next sample, or after SILENCE_S."""
        try:
            async with asyncio.timeout(SILENCE_S):
                await self._next.wait()
        except TimeoutError:
            pass

    def text(self) -> bytes:
        """The document as JSON, at most EVENT_BYTES_MAX; made once for each sample."""
        if self._text is None or self._text[0] != self._samples:
            self._text = self._samples, bounded_json(self.document(), EVENT_BYTES_MAX)
        return self._text[1]

    def document(self) -> dict[str, Any]:
        """What ``GET /status`` answers."""
        shared = self._shared
        health = check_health(shared.worker_status, shared.heartbeats)
        values = self._readings[-1][1] if self._readings else shared.metrics.values()
        minute = self._rates(0)
        now = gauges(values)
        return {
            "edge": self._edge,
            "version": self.version,
            "time_s": round(time.time(), 3),
            "started_s": round(shared.started_s, 3),
            "ready": health.is_ready,
            "workers": health.workers,
            "problems": health.problems,
            "rates": _rounded(self._rates(-1 - RECENT_S)),
            "minute": _rounded(minute),
            "hit_ratio": hit_ratios(minute),
            "viewers": {
                "rtmp": int(now["rtmp_viewers"]),
                "http": None if self._viewers is None else self._viewers.http_count(),
                "rtmp_connections": int(now["rtmp_connections"]),
                "http_connections": int(now["http_connections"]),
            },
            "fills": {"running": int(now["running_fills"])},
            "cache": {
                "used_bytes": values.gauges.get(Gauge.CACHE_BYTES.metric, 0),
                "limit_bytes": values.gauges.get(Gauge.CACHE_LIMIT_BYTES.metric, 0),
                "open_extents": values.gauges.get(Gauge.OPEN_EXTENTS.metric, 0),
                "unremovable_files": values.gauges.get(Gauge.UNREMOVABLE_FILES.metric, 0),
            },
            "writes": {
                "queued": int(now["queued_writes"]),
                "dead_letters": int(now["dead_letters"]),
                "bytes": values.gauges.get(Gauge.QUEUED_WRITE_BYTES.metric, 0),
            },
            "config": self._config(),
            "distributions": self._distributions(),
            "history": [ring.name for ring in RINGS],
            **{name: section() for name, section in self._sections.items()},
        }

    def _config(self) -> dict[str, Any]:
        versions = self._shared.config_versions
        reload_s, is_success = versions.last_reload
        return {
            "generation": versions.generation,
            "reload_s": round(reload_s, 3) or None,
            "reload_success": is_success,
        }

    def _distributions(self) -> list[dict[str, Any]]:
        """What each distribution did in the last minute, per second; the busiest first."""
        if len(self._readings) < 2:
            return []
        (before_s, before), (after_s, after) = self._readings[0], self._readings[-1]
        rows = distribution_rates(before, after, max(0.001, after_s - before_s))
        return [{"id": name, **_rounded_all(rate)} for name, rate in rows.items()]

    def history(self, name: str) -> Series:
        """A ring's rows. Raises KeyError if there is none of the name."""
        return self._history.read(name, time.time())

    def _rates(self, first: int) -> dict[str, float] | None:
        """Rates from a reading of the last minute, by index, to the newest one."""
        if len(self._readings) < 2:
            return None
        first = max(first, -len(self._readings))
        (before_s, before), (after_s, after) = self._readings[first], self._readings[-1]
        return rates(before, after, max(0.001, after_s - before_s))

    def _notify(self) -> None:
        self._next.set()
        self._next = asyncio.Event()


def status_routes(status: LiveStatus) -> list[Route]:
    """The routes; ``status`` belongs to the control process."""

    async def show(_request: Request) -> Response:
        return JSONResponse(status.document(), headers={"cache-control": "no-store"})

    async def stream(_request: Request) -> Response:
        if status.streams >= STREAMS_MAX or status.is_closed:
            raise HTTPException(
                503, f"{STREAMS_MAX} streams are open, which is the most: close another one"
            )
        status.streams += 1
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return _EventStream(_events(status), media_type="text/event-stream", headers=headers)

    class _EventStream(StreamingResponse):
        """Counts the stream until its end, also where the viewer leaves before its first event."""

        async def __call__(self, *arguments: Any) -> None:
            try:
                await super().__call__(*arguments)
            finally:
                status.streams -= 1

    async def history(request: Request) -> Response:
        name = request.query_params.get("range", RINGS[0].name)
        try:
            series = status.history(name)
        except KeyError:
            names = ", ".join(ring.name for ring in RINGS)
            raise HTTPException(400, f"{name[:100]!a} is no range; there are: {names}") from None
        fields = request.query_params.get("fields")
        chosen = None if fields is None else fields.split(",")
        document = await asyncio.to_thread(history_document, name, series, chosen)
        return Response(
            await asyncio.to_thread(json.dumps, document, separators=(",", ":")),
            media_type="application/json",
            headers={"cache-control": "no-store"},
        )

    return [
        Route("/status", show),
        Route("/status/stream", stream),
        Route("/status/history", history),
    ]


async def _events(status: LiveStatus) -> AsyncIterator[bytes]:
    """The document now and after each sample. A slow reader gets fewer events, not older ones."""
    yield b"retry: 2000\n\n"
    while not status.is_closed:
        yield b"data: " + status.text() + b"\n\n"
        await status.next_sample()


def history_document(name: str, series: Series, chosen: Sequence[str] | None) -> dict[str, Any]:
    """What ``GET /status/history`` answers. ``chosen``: the fields, or None for all of them.

    Raises HTTPException 400 for a field that does not exist.
    """
    columns = dict(zip(FIELDS, series.columns, strict=True))
    columns["hit_ratio"] = list(map(_ratio, columns["hits"], columns["requests"]))
    names = list(columns) if chosen is None else chosen
    if unknown := set(names) - columns.keys():
        raise HTTPException(400, f"{min(unknown)[:100]!a} is no field; there are: {list(columns)}")
    return {
        "range": name,
        "step_s": series.step_s,
        "start_s": series.start_s,
        "fields": {
            field: [None if math.isnan(value) else round(value, 4) for value in columns[field]]
            for field in names
        },
    }


def hit_ratios(minute: Mapping[str, float] | None) -> dict[str, float | None]:
    """The share of requests and of bytes that no origin had to answer; None without any."""
    if minute is None:
        return {"requests": None, "bytes": None}
    sent_bytes = minute["http_bytes"] + minute["rtmp_bytes"]
    from_cache = max(0.0, sent_bytes - minute["origin_bytes"])
    return {
        "requests": _number(_ratio(minute["hits"], minute["requests"])),
        "bytes": _number(_ratio(from_cache, sent_bytes)),
    }


def bounded_json(document: dict[str, Any], limit_bytes: int) -> bytes:
    """A document as JSON. Where it is too long, its longest lists lose their last halves.

    The member ``left_off`` then has the numbers of items that a list lost, by name.
    """
    text = _encode(document)
    left_off: dict[str, int] = {}
    document = dict(document)
    while len(text) > limit_bytes:
        lists = {
            name: value for name, value in document.items() if isinstance(value, list) and value
        }
        if not lists:
            break
        name = max(lists, key=lambda name: len(_encode(lists[name])))
        first_half = lists[name][: len(lists[name]) // 2]
        left_off[name] = left_off.get(name, 0) + len(lists[name]) - len(first_half)
        document |= {name: first_half, "left_off": left_off}
        text = _encode(document)
    return text


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _rounded(values: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if values is None else _rounded_all(values)


def _rounded_all(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


def _version() -> str:
    try:
        return version("streamedge")
    except PackageNotFoundError:
        return ""
