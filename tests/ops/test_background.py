"""Background tasks: failures are logged and counted, and services are restarted."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamedge.ops import background
from streamedge.ops.background import (
    Services,
    report_libraries,
    report_unhandled,
    run_detached,
)
from streamedge.ops.log import Log, open_log
from streamedge.ops.metrics import Counter, Counts


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = open_log(str(tmp_path / "log"), "worker-0")
    yield opened
    opened.close()


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "RESTART_PAUSES_S", (0.0,))


def lines(log: Log, tmp_path: Path) -> list[dict[str, Any]]:
    log.flush()
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


async def test_failed_service_is_logged_counted_and_restarted(
    log: Log, counts: Counts, tmp_path: Path
) -> None:
    services, runs, goes_on = Services(log, counts), [0], asyncio.Event()

    async def work() -> None:
        runs[0] += 1
        if runs[0] < 4:
            raise RuntimeError("of ours")
        goes_on.set()
        await asyncio.Future()

    services.start("metrics", work)
    await goes_on.wait()
    await services.stop()
    failures = lines(log, tmp_path)
    assert [(line["event"], line["service"]) for line in failures] == [
        ("service_failed", "metrics")
    ] * 3
    assert failures[0]["error"] == "RuntimeError('of ours')"
    assert any("in work" in line for line in failures[0]["stack"])
    assert counts.gathered(Counter.SERVICE_FAILURES, "metrics") == 3


async def test_periodic_service_continues_after_a_failure(log: Log, counts: Counts) -> None:
    services, calls, enough = Services(log, counts), [0], asyncio.Event()

    async def work() -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise ValueError("of ours")
        if calls[0] == 4:
            enough.set()

    services.start_periodic("metrics", 0.0, work)
    await enough.wait()
    await services.stop("metrics", "of another name")
    assert counts.gathered(Counter.SERVICE_FAILURES, "metrics") == 1


async def test_service_that_returns_or_is_stopped_logs_nothing(
    log: Log, counts: Counts, tmp_path: Path
) -> None:
    services, ended = Services(log, counts), asyncio.Event()

    async def work() -> None:
        ended.set()

    services.start("replicator", work)
    services.start("config", asyncio.Event().wait)
    await ended.wait()
    await services.stop()
    assert lines(log, tmp_path) == []


async def test_failed_task_that_is_not_awaited_is_logged(
    log: Log, counts: Counts, tmp_path: Path
) -> None:
    report_unhandled(asyncio.get_running_loop(), log, counts)

    async def fail() -> None:
        raise RuntimeError("of ours")

    task = asyncio.create_task(fail(), name="fill")
    await asyncio.wait([task])
    del task
    gc.collect()
    (line,) = lines(log, tmp_path)
    assert (line["event"], line["task"]) == ("unhandled_exception", "fill")
    assert line["error"] == "RuntimeError('of ours')"
    assert any("in fail" in each for each in line["stack"])
    assert counts.gathered(Counter.ERRORS, "unhandled_exception") == 1


async def test_failed_callback_is_logged(log: Log, counts: Counts, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    report_unhandled(loop, log, counts)
    after = asyncio.Event()
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(after.set)
    await after.wait()
    (line,) = lines(log, tmp_path)
    assert line["error"] == "ZeroDivisionError('division by zero')"


async def test_failed_detached_task_is_logged_at_once(
    log: Log, counts: Counts, tmp_path: Path
) -> None:
    report_unhandled(asyncio.get_running_loop(), log, counts)
    failed = asyncio.Event()

    async def fail() -> None:
        asyncio.get_running_loop().call_soon(failed.set)
        raise RuntimeError("of ours")

    run_detached(fail(), "close read")
    await failed.wait()
    await asyncio.sleep(0)
    (line,) = lines(log, tmp_path)
    assert (line["task"], line["error"]) == ("close read", "RuntimeError('of ours')")


async def test_library_error_is_in_the_log(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "lastResort", None)
    loop = asyncio.get_running_loop()
    report_libraries(loop, log)
    assert isinstance(logging.lastResort, logging.Handler)
    record = logging.LogRecord(
        "uvicorn.error", logging.ERROR, "", 1, "in %s", ("ASGI",), (OSError, OSError("x"), None)
    )
    await asyncio.to_thread(logging.lastResort.handle, record)
    await asyncio.sleep(0)
    (line,) = lines(log, tmp_path)
    assert (line["event"], line["library"]) == ("library_warning", "uvicorn.error")
    assert (line["message"], line["error"]) == ("in ASGI", "OSError('x')")
    assert line["stack"] == ["OSError: x"]
