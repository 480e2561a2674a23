"""Delivery of access logs: retries with the same name and bytes, limits, destinations."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamedge.errors import OriginError, OriginFailure
from streamedge.logs import delivery as delivery_module
from streamedge.logs.batches import make_batches, prepare_spool, segments_folder, spool_state
from streamedge.logs.cloudfront import HEAD
from streamedge.logs.delivery import Destination, LogDelivery, check_pause_s
from streamedge.logs.spool_names import LogFormat, SegmentName
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counter, Counts, Gauge
from streamedge.origin.writing import Write, WriteResponse
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import pause

HOUR = 439_000
DUE_S = HOUR * 3600
LIMIT_BYTES = 1 << 30


class Writer:
    """An origin that answers what ``answers`` has, then stores files. ``attempts``: all writes."""

    def __init__(self, *answers: WriteResponse | Exception) -> None:
        self.answers = list(answers)
        self.attempts: list[tuple[str, bytes]] = []
        self.files: dict[str, bytes] = {}

    def lingers_s(self, _write: Write) -> float:
        return 0.0

    async def end_abandoned(self) -> int:
        return 0

    async def check(self, write: Write) -> None:
        """Refuses nothing."""

    async def write(self, write: Write, body: AsyncIterator[bytes] | None) -> WriteResponse:
        assert body is not None
        data = b"".join([piece async for piece in body])
        assert (write.method, write.size_bytes) == ("PUT", len(data))
        self.attempts.append((write.name, data))
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        self.files[write.name] = data
        return WriteResponse(200)


class Delivery:
    """A ``LogDelivery`` on a spool folder, with its destinations by distribution."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES, **writers: Writer) -> None:
        self.root = folder / "logs"
        prepare_spool(self.root)
        self.counts = Counts()
        self.log_path = folder / "edge.log"
        self.log = open_log(str(self.log_path), "control")
        self.destinations = {
            name: Destination(f"origin-{name}", writer, "cdn/", 300.0)
            for name, writer in writers.items()
        }
        self.deliveries = LogDelivery(
            self.root, lambda: self.destinations, lambda: limit_bytes, self.log, self.counts
        )

    def add_segment(self, text: str, distribution: str = "EWEB", writer: str = "w0") -> None:
        name = SegmentName(distribution, LogFormat.WEB, HOUR, DUE_S, writer)
        (segments_folder(self.root) / str(name)).write_text(text)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.deliveries.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            self.log.finish()

    def count(self, counter: Counter, label: str) -> int:
        return self.counts.gathered(counter, label)


async def await_true(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_true():
            await asyncio.to_thread(pause)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "CHECK_INTERVAL_S", 0.01)
    monkeypatch.setattr(delivery_module, "CHECK_INTERVAL_MAX_S", 0.01)
    monkeypatch.setattr(delivery_module, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(delivery_module, "RETRY_MAX_S", 0.05)


@pytest.mark.parametrize(
    ("intervals_s", "has_batches", "expected_s"),
    [
        ([300.0, 3600.0], False, 5.0),
        ([3600.0, 120.0], False, 2.0),
        ([1.0, 300.0], False, 1.0),
        ([3600.0], True, 1.0),
        ([], False, 1.0),
    ],
)
def test_spool_is_looked_through_as_often_as_the_shortest_interval_needs(
    intervals_s: list[float], has_batches: bool, expected_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert check_pause_s(intervals_s, has_batches=has_batches) == expected_s


async def test_file_is_sent_again_under_its_name_until_the_origin_has_it(tmp_path: Path) -> None:
    writer = Writer(
        OriginError(OriginFailure.REFUSED, "no connection"),
        WriteResponse(503, body=b"slow down"),
        OSError("reset"),
    )
    delivery = Delivery(tmp_path, EWEB=writer)
    delivery.add_segment("a\nb\n")
    async with delivery.running():
        await await_true(lambda: delivery.count(Counter.ACCESS_LOG_FILES, "delivered") == 1)
    assert spool_state(delivery.root).size_bytes == 0
    assert len(writer.attempts) == 4
    assert len(set(writer.attempts)) == 1
    ((name, data),) = writer.files.items()
    assert name.startswith("cdn/EWEB.2020-01-30-")
    assert gzip.decompress(data).decode() == f"{HEAD}a\nb\n"
    assert delivery.count(Counter.ACCESS_LOG_FILES, "failed") == 3
    text = delivery.log_path.read_text()
    assert '"access_log_not_delivered"' in text
    assert "no connection" in text
    assert list((delivery.root / "files").iterdir()) == []


async def test_origin_that_is_away_does_not_delay_another_one(tmp_path: Path) -> None:
    class Hanging(Writer):
        async def write(self, write: Write, body: AsyncIterator[bytes] | None) -> WriteResponse:
            self.attempts.append((write.name, b""))
            await asyncio.Event().wait()
            raise AssertionError

    hanging, writer = Hanging(), Writer()
    delivery = Delivery(tmp_path, EWEB=hanging, EOTHER=writer)
    delivery.add_segment("a\n")
    async with delivery.running():
        await await_true(lambda: bool(hanging.attempts))
        delivery.add_segment("b\n", "EOTHER")
        await await_true(lambda: bool(writer.files))
    assert len(hanging.attempts) == 1


async def test_oldest_lines_are_dropped_counted_and_named_when_the_spool_is_full(
    tmp_path: Path,
) -> None:
    writer = Writer(*[WriteResponse(503)] * 10_000)
    delivery = Delivery(tmp_path, limit_bytes=50, EWEB=writer)
    async with delivery.running():
        for number in range(4):
            delivery.add_segment("x\n" * 10, writer=f"w{number}")
            make_batches(delivery.root, 2.0e9)
        dropped = Counter.ACCESS_LOG_LINES_DROPPED
        await await_true(lambda: delivery.count(dropped, "spool") >= 20)
        await await_true(lambda: spool_state(delivery.root).size_bytes <= 50)
        assert delivery.count(dropped, "spool") == 20
        writer.answers.clear()
        await await_true(lambda: len(writer.files) == 2)
    assert "limits.log_spool is reached" in delivery.log_path.read_text()
    assert delivery.counts.gauges[Gauge.ACCESS_LOG_SPOOL_BYTES] in {0, 20, 40}


async def test_lines_of_a_distribution_whose_log_was_removed_go_where_it_was(
    tmp_path: Path,
) -> None:
    writer = Writer()
    delivery = Delivery(tmp_path, EWEB=writer)
    async with delivery.running():
        delivery.add_segment("a\n")
        await await_true(lambda: len(writer.files) == 1)
        delivery.destinations = {}
        delivery.add_segment("b\n")
        await await_true(lambda: len(writer.files) == 2)


async def test_lines_without_a_destination_wait_for_one(tmp_path: Path) -> None:
    writer = Writer()
    delivery = Delivery(tmp_path, EOTHER=writer)
    async with delivery.running():
        delivery.add_segment("a\n")
        await await_true(lambda: bool(spool_state(delivery.root).batches))
        delivery.destinations = {"EWEB": Destination("origin", writer, "", 300.0)}
        await await_true(lambda: bool(writer.files))
    assert '"access_log_without_origin"' in delivery.log_path.read_text()


async def test_end_delivers_what_is_not_due_and_leaves_what_takes_too_long(
    tmp_path: Path,
) -> None:
    writer = Writer()
    delivery = Delivery(tmp_path, EWEB=writer)
    name = SegmentName("EWEB", LogFormat.WEB, HOUR, 4_000_000_000, "w0")
    (segments_folder(delivery.root) / str(name)).write_text("a\n")
    await delivery.deliveries.finish(PATIENCE_S)
    assert len(writer.files) == 1
    writer.answers = [WriteResponse(503)]
    delivery.add_segment("b\n")
    await delivery.deliveries.finish(PATIENCE_S)
    assert len(spool_state(delivery.root).batches) == 1
    await delivery.deliveries.finish(PATIENCE_S)
    assert len(writer.files) == 2
    delivery.log.finish()
