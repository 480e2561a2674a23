"""The viewers of all workers in shared memory: watching, reports, and requests to end one."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from streamedge.coordination import viewer_rows
from streamedge.coordination.viewer_rows import ENDS_MAX, WATCH_S, ViewerRows, WorkerReport


@pytest.fixture(name="shared")
def _shared() -> Iterator[ViewerRows]:
    rows = ViewerRows(2)
    yield rows
    rows.close()


def test_rows_are_watched_for_a_while_after_each_look(
    shared: ViewerRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not shared.is_watched
    shared.watch()
    assert shared.is_watched
    later_s = time.monotonic() + WATCH_S + 1
    monkeypatch.setattr(viewer_rows, "time", SimpleNamespace(monotonic=lambda: later_s))
    assert not shared.is_watched


def test_control_process_reads_the_report_of_a_worker(shared: ViewerRows) -> None:
    assert shared.report(1) == (0, 0, 0, ())
    assert shared.count_age_s(1) == math.inf
    report = WorkerReport(1, 3, 7, [("1-1", "rtmp")])
    number = shared.request_rows()
    assert (shared.row_request(0), shared.row_request(1)) == (number, number)
    child = os.fork()
    if child == 0:
        shared.publish(1, number, report)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert shared.report(1) == report
    assert (shared.has_answered(0, number), shared.has_answered(1, number)) == (False, True)
    assert (shared.row_request(0), shared.row_request(1)) == (number, None)
    assert shared.http_count(1) == 3
    assert shared.count_age_s(1) < math.inf
    assert shared.count_age_s(0) == math.inf


def test_request_for_rows_is_a_look(shared: ViewerRows) -> None:
    assert not shared.is_watched
    shared.request_rows()
    assert shared.is_watched


def test_worker_counts_viewers_without_a_report(shared: ViewerRows) -> None:
    shared.publish_count(1, 5)
    assert shared.http_count(1) == 5
    assert shared.count_age_s(1) < math.inf
    assert shared.report(1).rows == ()


def test_program_that_replaces_another_adopts_the_rows(shared: ViewerRows) -> None:
    adopted = ViewerRows.adopt([os.dup(one) for one in shared.descriptors])
    assert adopted.workers == range(2)
    adopted.watch()
    assert shared.is_watched
    report = WorkerReport(0, 2, 0, [("h1", "http")])
    shared.publish(1, adopted.request_rows(), report)
    assert (adopted.report(0), adopted.report(1)) == ((0, 0, 0, ()), report)
    assert adopted.http_count(1) == 2
    number = adopted.request_end("h1")
    assert shared.end_requests_after(0) == [(number, "h1")]
    shared.publish_ended(1, {number: 1})
    assert (adopted.ended(0, number), adopted.ended(1, number)) == (None, 1)
    adopted.close()


async def test_worker_reports_from_its_subscription_to_its_end(shared: ViewerRows) -> None:
    assert not shared.reports(1)
    shared.subscribe(1, lambda: None)
    assert (shared.reports(0), shared.reports(1)) == (False, True)
    written = asyncio.Event()
    shared.subscribe_control(written.set)
    number = shared.request_rows()
    shared.publish(1, number, WorkerReport(0, 2, 0, []))
    await written.wait()
    written.clear()
    shared.forget(1)  # as the supervisor does when the worker was killed
    await written.wait()
    assert not shared.reports(1)
    assert (shared.http_count(1), shared.count_age_s(1)) == (0, math.inf)
    shared.subscribe(1, lambda: None)  # its successor
    assert shared.reports(1)
    assert shared.row_request(1) == number  # which reports to the operator who looks
    shared.unsubscribe(1)
    assert not shared.reports(1)
    shared.unsubscribe_control()


def test_worker_gets_each_request_once(shared: ViewerRows) -> None:
    first = shared.request_end("1-1")
    second = shared.request_end("h2")
    assert shared.end_requests == second
    assert shared.end_requests_after(0) == [(first, "1-1"), (second, "h2")]
    assert shared.end_requests_after(first) == [(second, "h2")]
    assert shared.ended(0, first) is None
    shared.publish_ended(0, {first: 1, second: 0})
    assert (shared.ended(0, first), shared.ended(0, second)) == (1, 0)
    assert shared.ended(1, first) is None


def test_number_of_remembered_requests_is_limited(shared: ViewerRows) -> None:
    for number in range(3 * ENDS_MAX):
        shared.request_end(f"h{number}")
    requests = shared.end_requests_after(0)
    assert len(requests) == ENDS_MAX
    assert requests[-1] == (3 * ENDS_MAX, f"h{3 * ENDS_MAX - 1}")
