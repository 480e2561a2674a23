"""streamedge/ops/log.py: lines in batches, to a descriptor that may refuse."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamedge.ops.log import GATHERED_LINES_MAX, Log, open_log


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    os.set_blocking(ends[0], False)
    os.set_blocking(ends[1], False)
    yield ends
    for end in ends:
        os.close(end)


def lines(descriptor: int) -> list[dict[str, object]]:
    return [json.loads(line) for line in os.read(descriptor, 1 << 20).splitlines()]


def test_a_line_is_json_with_time_event_and_process(pipe: tuple[int, int]) -> None:
    log = Log(pipe[1], "worker-1")
    log.event("fill_failed", asset="a\nb", size_bytes=3, cause=None, path=Path("/x"))
    log.flush()
    (line,) = lines(pipe[0])
    assert isinstance(line.pop("time"), float)
    assert line == {
        "event": "fill_failed",
        "process": "worker-1",
        "asset": "a\nb",
        "size_bytes": 3,
        "path": "/x",
    }


def test_lines_wait_for_flush_and_go_in_one_write(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(pipe[1], "worker-1")
    real = os.write
    sizes: list[int] = []

    def watched(descriptor: int, data: bytes) -> int:
        sizes.append(len(data))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", watched)
    for number in range(100):
        log.event("one", number=number)
    assert sizes == []
    log.flush()
    log.flush()
    assert len(sizes) == 1
    assert [line["number"] for line in lines(pipe[0])] == list(range(100))


def test_too_many_lines_do_not_wait(tmp_path: Path) -> None:
    log = open_log(str(tmp_path / "log"), "worker-1")
    for _ in range(GATHERED_LINES_MAX + 1):
        log.event("one")
    assert len((tmp_path / "log").read_bytes().splitlines()) == GATHERED_LINES_MAX


def test_what_the_descriptor_takes_in_parts_is_whole(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(pipe[1], "worker-1")
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:5]))
    log.event("one", text="long enough for several")
    log.flush()
    assert lines(pipe[0])[0]["text"] == "long enough for several"
    assert log.dropped == 0


def test_lines_that_are_refused_are_counted(pipe: tuple[int, int]) -> None:
    log = Log(pipe[1], "worker-1")
    log.event("huge", text="x" * (1 << 20))  # more than a pipe holds
    log.event("second")
    log.flush()
    assert log.dropped == 2
    os.read(pipe[0], 1 << 20)
    log.event("third")
    log.flush()
    assert log.dropped == 2
    assert lines(pipe[0])[0]["event"] == "third"


def test_bytes_that_are_no_text_do_not_stop_it(pipe: tuple[int, int]) -> None:
    log = Log(pipe[1], "worker-1")
    log.event("one", name=b"film-\xff".decode("utf-8", "surrogateescape"))
    log.flush()
    assert lines(pipe[0])[0]["name"] == "film-\udcff"


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    for process in ("worker-1", "worker-2"):
        log = open_log(str(tmp_path / "log"), process)
        log.event("up")
        log.flush()
    said = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["process"] for line in said] == ["worker-1", "worker-2"]


def test_standard_streams_have_names(capfd: pytest.CaptureFixture[str]) -> None:
    for target in ("stdout", "stderr"):
        log = open_log(target, "control")
        log.event(target)
        log.flush()
    out, err = capfd.readouterr()
    assert json.loads(out)["event"] == "stdout"
    assert json.loads(err)["event"] == "stderr"


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_log(str(tmp_path / "none" / "log"), "worker-1")


async def test_what_gathers_is_written_by_the_loop(pipe: tuple[int, int]) -> None:
    log = Log(pipe[1], "worker-1")
    log.event("before")
    log.write_on(asyncio.get_running_loop())
    assert [line["event"] for line in lines(pipe[0])] == ["before"]
    for round_number in range(2):
        log.event("first", round=round_number)
        log.event("second")
        readable = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe[0], readable.set)
        await readable.wait()
        asyncio.get_running_loop().remove_reader(pipe[0])
        assert [line["event"] for line in lines(pipe[0])] == ["first", "second"]


def test_lines_may_be_put_together_when_they_are_written(pipe: tuple[int, int]) -> None:
    log = Log(pipe[1], "worker-1")
    made: list[str] = []

    def put_together() -> list[str]:
        made.append("now")
        return ['{"event":"late"}', '{"event":"later"}']

    log.lines(2, put_together)
    assert made == []
    log.line('{"event":"ready"}')
    log.flush()
    assert [line["event"] for line in lines(pipe[0])] == ["late", "later", "ready"]
    assert made == ["now"]


def test_what_cannot_be_put_together_does_not_stay(pipe: tuple[int, int]) -> None:
    log = Log(pipe[1], "worker-1")
    fault = RuntimeError("of ours")

    def put_together() -> list[str]:
        raise fault

    log.lines(1, put_together)
    with pytest.raises(RuntimeError):
        log.flush()
    log.event("next")
    log.flush()
    assert [line["event"] for line in lines(pipe[0])] == ["next"]
