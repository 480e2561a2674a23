"""streamedge/media/containers/process.py: helpers that work, and helpers that do not."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamedge.cache.objects import VERSION_ONLY, Cache
from streamedge.errors import MediaError, MediaFault, OriginError
from streamedge.media.containers.process import (
    HelperLimits,
    HelperPool,
    HelperRequest,
    SourceFile,
)
from tests.media.test_library import asset
from tests.media.test_packager import edge_of
from tests.support.origins.scripted_origin import Reply, ScriptedOrigin

ROOT = Path(__file__).parents[3]
LIMITS = HelperLimits(processes=2, memory_bytes=512 << 20, time_s=1)
FILE_BYTES = 100_000

Failure = tuple[str, str, str]


class Bench:
    """A pool of broken helpers, and the failures that it reported."""

    def __init__(self, cache: Cache, origin: ScriptedOrigin) -> None:
        self.cache = cache
        self.origin = origin
        self.failures: list[Failure] = []
        self.pool = HelperPool(
            LIMITS,
            lambda *failure: self.failures.append(failure),
            module="tests.support.media.broken_helper",
        )


@asynccontextmanager
async def bench_of(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Bench, SourceFile]]:
    """A pool, and a source whose helper is idle."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with edge_of(cache_root) as (server, cache, origin):
        server.put("film.mkv", bytes(FILE_BYTES))
        source = asset(origin, "film.mkv")
        reader = await cache.open(source, VERSION_ONLY)
        head = reader.head
        reader.close()
        bench = Bench(cache, server)
        file = SourceFile(
            ("film",), "film.mkv", "idle", FILE_BYTES, lambda: cache.reopen(source, head)
        )
        try:
            yield bench, file
        finally:
            await bench.pool.close()


def other(file: SourceFile, name: str, mode: str = "idle") -> SourceFile:
    return SourceFile((name,), name, mode, file.size_bytes, file.open)


@pytest.mark.parametrize(
    ("mode", "reason", "text"),
    [
        ("hang", "time", "limits.media_helper_time"),
        ("hang_in_c", "time", "limits.media_helper_time"),
        ("sleep", "time", "limits.media_helper_time"),
        ("read_forever", "time", "read the file over and over|limits.media_helper_time"),
        ("grow", "memory", "limits.media_helper_memory"),
        ("crash", "crash", "SIGSEGV"),
        ("abort", "crash", "SIG"),
        ("leave", "crash", "code 3"),
        ("send_half", "crash", "code 0"),
        ("read_too_much", "crash", "READ of 1073741824 bytes"),
        ("send_garbage", "crash", "frame of"),
        ("send_forever", "crash", "too large a result"),
        ("fail_oddly", "crash", "None is not a valid MediaFault"),
    ],
)
async def test_helper_that_breaks_off_fails_its_file_alone(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch, mode: str, reason: str, text: str
) -> None:
    async with bench_of(cache_root, monkeypatch) as (bench, file):
        bad = other(file, "bad.mkv", mode)
        with pytest.raises(MediaError, match=text) as failed:
            await bench.pool.run(bad, HelperRequest())
        assert failed.value.fault is MediaFault.HELPER_FAILED
        ((name, logged, detail),) = bench.failures
        assert (name, logged) == ("bad.mkv", reason)
        assert detail in str(failed.value)
        # It is not tried again at once; other files get a helper of their own.
        with pytest.raises(MediaError, match=text):
            await bench.pool.run(bad, HelperRequest())
        assert len(bench.failures) == 1
        assert json.loads(await bench.pool.run(file, HelperRequest(3, (0, 1)))) == {
            "segment": 3,
            "tracks": [0, 1],
        }
        assert (bench.pool.starts, bench.pool.answers) == (2, 1)


async def test_helper_has_neither_files_nor_network_nor_credentials(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench_of(cache_root, monkeypatch) as (bench, file):
        result = await bench.pool.run(other(file, "x", "try_everything"), HelperRequest())
        assert json.loads(result) == []


async def test_helper_is_kept_for_its_file(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench_of(cache_root, monkeypatch) as (bench, file):
        for number in range(5):
            await bench.pool.run(file, HelperRequest(number))
        assert bench.pool.starts == 1
        # Another version or file has another one, and the limit ends the one used longest ago.
        for name in ("a", "b", "a", "b"):
            await bench.pool.run(other(file, name), HelperRequest())
        assert bench.pool.starts == 3
        await bench.pool.run(file, HelperRequest())
        assert bench.pool.starts == 4


async def test_requests_beyond_the_limit_wait(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench_of(cache_root, monkeypatch) as (bench, file):
        results = await asyncio.gather(
            *(bench.pool.run(other(file, str(n)), HelperRequest(n)) for n in range(7))
        )
        assert [json.loads(result)["segment"] for result in results] == list(range(7))
        assert bench.pool.starts == 7


async def test_cancelled_request_ends_its_helper(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench_of(cache_root, monkeypatch) as (bench, file):
        for _ in range(2 * LIMITS.processes):
            task = asyncio.ensure_future(
                bench.pool.run(other(file, "slow", "sleep"), HelperRequest())
            )
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert await bench.pool.run(file, HelperRequest())
        assert bench.failures == []


async def test_failure_of_the_origin_is_not_the_files(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench_of(cache_root, monkeypatch) as (bench, file):
        bench.origin.script(Reply(status=503), times=10)
        with pytest.raises(OriginError):
            await bench.pool.run(other(file, "bad", "read_forever"), HelperRequest())
        assert bench.failures == []


async def test_helper_that_cannot_be_started_is_reported_once_and_tried_again(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    async with bench_of(cache_root, monkeypatch) as (bench, file):
        for place in ("subprocess.Popen", "socket.socketpair"):
            bench.failures.clear()
            with monkeypatch.context() as patch:
                patch.setattr(f"streamedge.media.containers.process.{place}", refuse)
                for _attempt in range(2):
                    with pytest.raises(MediaError, match="cannot be started") as failed:
                        await bench.pool.run(other(file, place), HelperRequest())
                    assert failed.value.fault is MediaFault.HELPER_NOT_STARTED
            ((name, reason, detail),) = bench.failures
            assert (name, reason) == (place, "start")
            assert "Resource temporarily unavailable" in detail
            assert await bench.pool.run(other(file, place), HelperRequest())
        assert bench.pool.starts == 2


async def test_without_the_extra_a_text_names_it(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench_of(cache_root, monkeypatch) as (_bench, file):
        pool = HelperPool(LIMITS, is_available=lambda: False)
        with pytest.raises(MediaError, match=r"streamedge\[media\]") as failed:
            await pool.run(file, HelperRequest())
        assert failed.value.fault is MediaFault.EXTRA_MISSING
        assert pool.starts == 0
