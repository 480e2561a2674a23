"""A worker's spool: whole lines, one file for each log and hour, bounded memory, full disks."""

from __future__ import annotations

import asyncio
import fcntl
import gzip
import io
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamedge.logs import spool as spool_module
from streamedge.logs.blocks import whole_blocks
from streamedge.logs.spool import COMPRESSED_FROM_BYTES, Lines, SpoolWriter
from streamedge.logs.spool_names import LogFormat, SegmentName, SpoolTarget, parse_segment
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counter, Counts
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import pause

WEB = SpoolTarget("EWEB", LogFormat.WEB, 300.0)
OTHER = SpoolTarget("OTHER", LogFormat.WEB, 300.0)
SHORT = SpoolTarget("ESHORT", LogFormat.WEB, 1.0)
ENDED_S = 439_000 * 3600.0


@asynccontextmanager
async def open_spool(folder: Path, counts: Counts) -> AsyncIterator[SpoolWriter]:
    log = open_log(str(folder.with_suffix(".log")), "worker-0")
    spool = SpoolWriter(folder, "worker-0", log, counts)
    yield spool
    await spool.close()
    await asyncio.to_thread(log.close)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "segments"
    path.mkdir()
    return path


def lines(*texts: str, target: SpoolTarget = WEB) -> Callable[[], Lines]:
    return lambda: [(target, f"{text}\n".encode()) for text in texts]


def segments(folder: Path) -> dict[SegmentName, str]:
    """The texts of all segments, by name."""
    names = {path: parse_segment(path.name) for path in folder.iterdir()}
    return {name: text_of(path, name) for path, name in names.items() if name is not None}


def text_of(path: Path, name: SegmentName) -> str:
    """The lines of a segment."""
    data = path.read_bytes()
    if name.is_compressed:
        data = b"".join(map(gzip.decompress, whole_blocks(io.BytesIO(data))))
    return data.decode()


async def await_true(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_true():
            await asyncio.to_thread(pause)


def is_locked(folder: Path) -> bool:
    """Whether the writer of the only segment has not completed it."""
    (path,) = folder.glob("E*")
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


async def test_lines_are_in_the_file_of_their_distribution_and_hour(folder: Path) -> None:
    async with open_spool(folder, Counts()) as spool:
        spool.add(2, ENDED_S, lines("a", "b"))
        spool.add(1, ENDED_S + 3599.9, lines("c"))
        spool.add(1, ENDED_S + 3600, lines("d"))
        spool.add(1, ENDED_S, lines("e", target=OTHER))
    texts = {(name.distribution, name.hour): text for name, text in segments(folder).items()}
    assert texts == {
        ("EWEB", 439_000): "a\nb\nc\n",
        ("EWEB", 439_001): "d\n",
        ("OTHER", 439_000): "e\n",
    }
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())


async def test_lines_are_written_soon_and_the_file_stays_locked(folder: Path) -> None:
    async with open_spool(folder, Counts()) as spool:
        spool.add(1, ENDED_S, lines("a"))
        await await_true(lambda: list(segments(folder).values()) == ["a\n"])
        assert is_locked(folder)
        spool.add(1, ENDED_S, lines("b"))
        await await_true(lambda: list(segments(folder).values()) == ["a\nb\n"])
    assert not is_locked(folder)


async def test_file_is_complete_when_its_interval_is_over(folder: Path) -> None:
    async with open_spool(folder, Counts()) as spool:
        spool.add(1, ENDED_S, lines("a", target=SHORT))
        await await_true(lambda: bool(segments(folder)))
        await await_true(lambda: not is_locked(folder))


async def test_large_file_is_complete_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 4)
    async with open_spool(folder, Counts()) as spool:
        spool.add(2, ENDED_S, lines("a", "b"))
        await await_true(lambda: bool(segments(folder)))
        await await_true(lambda: not is_locked(folder))


async def test_lines_beyond_the_memory_are_dropped_and_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "GATHERED_LINES_MAX", 3)
    counts = Counts()
    async with open_spool(folder, counts) as spool:
        spool.add(2, ENDED_S, lines("a", "b"))
        spool.add(2, ENDED_S, lines("c", "d"))
        spool.add(1, ENDED_S, lines("e"))
    assert list(segments(folder).values()) == ["a\nb\ne\n"]
    assert counts.gathered(Counter.ACCESS_LOG_LINES_DROPPED, "memory") == 2


@pytest.mark.parametrize(
    ("compressed_from_bytes", "written"),
    [(COMPRESSED_FROM_BYTES, slice(3)), (1, slice(-1))],
    ids=["plain lines", "blocks"],
)
async def test_full_disk_drops_whole_lines_and_leaves_no_part_of_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, compressed_from_bytes: int, written: slice
) -> None:
    monkeypatch.setattr(spool_module, "COMPRESSED_FROM_BYTES", compressed_from_bytes)
    counts = Counts()
    write, is_full = os.write, False

    def write_some(fd: int, data: bytes) -> int:
        return write(fd, data[written] if is_full else data)

    async with open_spool(folder, counts) as spool:
        spool.add(1, ENDED_S, lines("first"))
        await await_true(lambda: bool(segments(folder)))
        monkeypatch.setattr(os, "write", write_some)
        is_full = True
        spool.add(2, ENDED_S, lines("second", "third"))
        await await_true(lambda: counts.gathered(Counter.ACCESS_LOG_LINES_DROPPED, "disk") == 2)
        is_full = False
        spool.add(1, ENDED_S, lines("fourth"))
    assert list(segments(folder).values()) == ["first\nfourth\n"]


async def test_many_lines_are_compressed_and_few_are_not(folder: Path) -> None:
    many = [f"{number} {'x' * 64}" for number in range(COMPRESSED_FROM_BYTES // 64)]
    async with open_spool(folder, Counts()) as spool:
        spool.add(1, ENDED_S, lines("a"))
        await await_true(lambda: len(segments(folder)) == 1)
        spool.add(len(many), ENDED_S, lines(*many))
        await await_true(lambda: len(segments(folder)) == 2)
        spool.add(1, ENDED_S, lines("b"))
    texts = {name.is_compressed: text for name, text in segments(folder).items()}
    assert texts == {False: "a\nb\n", True: "".join(f"{text}\n" for text in many)}
    (compressed,) = folder.glob("*.gz")
    assert compressed.stat().st_size < COMPRESSED_FROM_BYTES // 2


async def test_folder_that_is_gone_drops_lines_and_later_ones_are_written(folder: Path) -> None:
    counts = Counts()
    folder.rmdir()
    async with open_spool(folder, counts) as spool:
        spool.add(1, ENDED_S, lines("lost"))
        await await_true(lambda: counts.gathered(Counter.ACCESS_LOG_LINES_DROPPED, "disk") == 1)
        folder.mkdir()
        spool.add(1, ENDED_S, lines("kept"))
    assert list(segments(folder).values()) == ["kept\n"]


async def test_fault_in_a_line_loses_no_other_line(folder: Path) -> None:
    counts = Counts()

    def faulty() -> Lines:
        raise ValueError("no line")

    async with open_spool(folder, counts) as spool:
        spool.add(1, ENDED_S, lines("a"))
        spool.add(1, ENDED_S, faulty)
        spool.add(1, ENDED_S, lines("b"))
    assert list(segments(folder).values()) == ["a\nb\n"]
    assert counts.gathered(Counter.ACCESS_LOG_LINES_DROPPED, "fault") == 1


async def test_batches_of_an_hour_are_formatted_together_and_a_faulty_one_loses_no_other(
    folder: Path,
) -> None:
    counts = Counts()
    calls: list[list[str]] = []

    def make_lines(texts: Sequence[str]) -> Lines:
        calls.append(list(texts))
        if "faulty" in texts:
            raise ValueError("no line")
        return [(WEB, f"{text}\n".encode()) for text in texts]

    async with open_spool(folder, counts) as spool:
        for text in ("a", "b"):
            spool.add_batch(1, ENDED_S, text, make_lines)
        spool.add_batch(1, ENDED_S + 3600, "faulty", make_lines)
        spool.add_batch(1, ENDED_S + 3600, "c", make_lines)
    assert calls == [["a", "b"], ["faulty", "c"], ["faulty"], ["c"]]
    assert sorted(segments(folder).values()) == ["a\nb\n", "c\n"]
    assert counts.gathered(Counter.ACCESS_LOG_LINES_DROPPED, "fault") == 1


async def test_lines_wait_until_a_thread_can_be_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "FLUSH_LINES", 2)
    counts = Counts()

    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with open_spool(folder, counts) as spool:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            for text in ("a", "b", "c"):
                spool.add(1, ENDED_S, lines(text))
        await await_true(lambda: list(segments(folder).values()) == ["a\nb\nc\n"])


async def test_lines_of_a_process_that_ends_without_a_thread_are_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with open_spool(folder, Counts()) as spool:
        spool.add(1, ENDED_S, lines("a"))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            await spool.close()
    assert list(segments(folder).values()) == ["a\n"]
    assert not is_locked(folder)
