"""Random readers against a scripted origin, in one worker and in two on one folder.

However readers join, leave and seek: each gets the right bytes, no byte is requested twice beyond
the stated limit, and no lock is left behind.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.cache import fill_plan
from streamedge.cache.reader import Reader
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage import locks
from streamedge.cache.storage.extent import CHUNK_BYTES
from streamedge.cache.storage.records import Asset
from streamedge.cache.storage.store import prepare_folder
from streamedge.errors import OriginError, OriginFailure
from streamedge.ops.metrics import Gauge
from streamedge.origin import OriginHead, OriginRead, Version
from streamedge.spans import Span
from tests.support.http.location import Location, fills_ended, run_location
from tests.support.origins.scripted_origin import Pattern
from tests.support.patience import PATIENCE_S

CHUNKS = 24
FILM = Pattern(CHUNKS * CHUNK_BYTES - 1234, seed=31)
DATA = FILM.read(Span(0, FILM.size_bytes))
PIECES = st.sampled_from([1000, 16 << 10, CHUNK_BYTES, 100_000, 300_000])


@dataclass(frozen=True)
class Step:
    """A reader: which worker's, where it reads, and after how many bytes it leaves."""

    worker: int
    span: Span
    leaves_after: int
    pause: int  # iterations of the loop before it arrives


@dataclass
class PiecewiseOrigin:
    """Serves any span in pieces of scripted sizes; breaks some responses off."""

    piece_bytes: list[int]
    breaks: list[int]
    requests: list[Span] = field(default_factory=list)
    sent_bytes: int = 0
    head_now: OriginHead = field(
        default_factory=lambda: OriginHead(Version('"1"', FILM.size_bytes), "video/mp4")
    )

    async def head(self, name: str) -> OriginHead:
        return self.head_now

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        await asyncio.sleep(0.001)
        requested = Span(0, FILM.size_bytes).intersect(span or Span(0, FILM.size_bytes))
        self.requests.append(requested)
        return PiecewiseRead(self, requested, self.breaks.pop() if self.breaks else -1)

    async def close(self) -> None:
        pass


class PiecewiseRead:
    def __init__(self, origin: PiecewiseOrigin, span: Span, breaks_after: int) -> None:
        self.head = origin.head_now
        self.span = span
        self._origin = origin
        self._breaks_after = breaks_after

    async def pieces(self) -> AsyncIterator[bytes]:
        at, number = self.span.start, 0
        while at < self.span.end:
            if number == self._breaks_after:
                raise OriginError(OriginFailure.BROKEN, "scripted")
            sizes = self._origin.piece_bytes
            end = min(self.span.end, at + sizes[number % len(sizes)])
            await asyncio.sleep(0)
            self._origin.sent_bytes += end - at
            yield DATA[at:end]
            at, number = end, number + 1

    async def close(self) -> None:
        pass


STEPS = st.lists(
    st.builds(
        Step,
        st.integers(0, 1),
        st.tuples(st.integers(0, len(DATA) - 1), st.integers(1, len(DATA))).map(
            lambda ends: Span(ends[0], min(len(DATA), ends[0] + ends[1]))
        ),
        st.sampled_from([1, 50_000, 1 << 30, 1 << 30, 1 << 30]),
        st.integers(0, 40),
    ),
    min_size=1,
    max_size=8,
)


async def read_some(reader: Reader, step: Step) -> None:
    """Reads its span piece by piece, checks it, and leaves."""
    try:
        at = step.span.start
        while at < min(step.span.end, step.span.start + step.leaves_after):
            await reader.wait(Span(at, step.span.end), eager=True)
            end = reader.ready_end(at, step.span.end)
            assert reader.copy(Span(at, end)) == DATA[at:end]
            at = end
    finally:
        reader.close()


async def play(location: Location, origin: PiecewiseOrigin, steps: list[Step], two: bool) -> None:
    workers = [location.worker(), location.worker()] if two else [location.worker()]
    asset = Asset("k", "film", origin, "main", TtlRules(default_ttl_s=3600.0))

    async def come(step: Step) -> None:
        for _turn in range(step.pause):
            await asyncio.sleep(0)
        worker = workers[step.worker % len(workers)]
        await read_some(await worker.open(asset, step.span), step)

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(come(step) for step in steps))
    for worker in workers:
        await fills_ended(worker)
        assert worker.counts.gauges[Gauge.RUNNING_FILLS] == 0
    for path in (location.root / "extents").glob("*/*"):
        with path.open("r+b") as file:
            assert locks.holder(file.fileno(), Span(0, CHUNKS)) is None
    for worker in workers:
        reader = await worker.open(asset, Span(0, len(DATA)))
        assert await reader.read(Span(0, len(DATA))) == DATA
        reader.close()
        await fills_ended(worker)
    cuts = len(origin.requests)
    slack = cuts * (fill_plan.SKIP_MAX_BYTES + max(origin.piece_bytes) + CHUNK_BYTES)
    assert origin.sent_bytes <= len(DATA) + slack
    assert sum(span.size for span in origin.requests) > 0


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("round_trip_bytes", [0, 100_000, 1 << 30])
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    steps=STEPS,
    piece_bytes=st.lists(PIECES, min_size=1, max_size=4),
    breaks=st.lists(st.integers(0, 3), max_size=2),
)
def test_readers_get_their_bytes_and_fills_end_at_each_other(
    monkeypatch: pytest.MonkeyPatch,
    two: bool,
    round_trip_bytes: int,
    steps: list[Step],
    piece_bytes: list[int],
    breaks: list[int],
) -> None:
    monkeypatch.setattr(fill_plan.Pace, "round_trip_bytes", round_trip_bytes)
    monkeypatch.setattr("streamedge.cache.fill.backoff_s", lambda _attempt, _jitter: 0.0)
    origin = PiecewiseOrigin(piece_bytes, list(breaks))

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "cache"
            prepare_folder(root)
            async with run_location(root) as location:
                await play(location, origin, steps, two)

    asyncio.run(run())
