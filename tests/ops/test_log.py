"""Log lines: gathered, written in batches, buffered or dropped if the output fails."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from streamedge.ops import log_output
from streamedge.ops.log import (
    FIELD_CHARACTERS_MAX,
    FIELD_ITEMS_MAX,
    GATHERED_LINES_MAX,
    open_log,
)
from streamedge.ops.log_output import LogTarget
from tests.support.patience import PATIENCE_S


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """A pipe as standard output, as with a log collector."""
    ends = os.pipe()
    os.set_blocking(ends[0], False)
    monkeypatch.setitem(log_output.STANDARD_STREAMS, "stdout", ends[1])
    monkeypatch.setattr(log_output, "PIPE_BYTES", 64 << 10)
    yield ends
    for end in ends:
        os.close(end)


def lines(descriptor: int) -> list[dict[str, object]]:
    return [json.loads(line) for line in read(descriptor).splitlines()]


def read(descriptor: int) -> bytes:
    """The content of a pipe."""
    data = b""
    while True:
        try:
            piece = os.read(descriptor, 1 << 20)
        except BlockingIOError:
            return data
        if not piece:
            return data
        data += piece


def test_line_is_json_with_time_event_and_process(pipe: tuple[int, int]) -> None:
    log = open_log("stdout", "worker-1")
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


def test_lines_are_gathered_until_flush_and_written_at_once(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    sizes: list[int] = []

    def watched(descriptor: int, data: bytes) -> int:
        sizes.append(len(data))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", watched)
    log = open_log("stdout", "worker-1")
    for number in range(100):
        log.event("one", number=number)
    assert sizes == []
    log.flush()
    log.flush()
    assert len(sizes) == 1
    assert [line["number"] for line in lines(pipe[0])] == list(range(100))


def test_gathered_lines_are_flushed_at_their_limit(tmp_path: Path) -> None:
    log = open_log(str(tmp_path / "log"), "worker-1")
    for _ in range(GATHERED_LINES_MAX + 1):
        log.event("one")
    assert len((tmp_path / "log").read_bytes().splitlines()) == GATHERED_LINES_MAX


def test_line_written_in_parts_is_complete(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:5]))
    log = open_log("stdout", "worker-1")
    log.event("one", text="long enough for several")
    log.flush()
    assert lines(pipe[0])[0]["text"] == "long enough for several"
    assert log.dropped == 0


def test_unread_pipe_does_not_block_and_dropped_lines_are_reported(pipe: tuple[int, int]) -> None:
    log = open_log("stdout", "worker-1", buffer_bytes=4096)
    for number in range(10_000):
        log.event("one", number=number)
        if number % 100 == 0:
            log.flush()
    log.flush()
    assert log.unwritten_bytes <= 4096
    dropped = log.dropped
    assert dropped > 0
    assert os.get_blocking(pipe[1])  # the description that others share is as it was
    received = lines(pipe[0])
    log.flush()
    log.flush()
    received += lines(pipe[0])
    assert [line["event"] for line in received] == ["one"] * (10_000 - dropped) + [
        "log_lines_dropped"
    ]
    assert received[-1]["lines"] == dropped == log.dropped
    log.event("next")
    log.flush()
    assert [line["event"] for line in lines(pipe[0])] == ["next"]


def test_line_longer_than_a_pipe_is_written_in_parts_without_lines_of_others_between(
    pipe: tuple[int, int],
) -> None:
    target = LogTarget("stdout")
    one, other = open_log(target, "worker-0"), open_log(target, "worker-1")
    long = json.dumps({"text": "x" * (1 << 20)})
    one.line(long)
    one.flush()
    other.event("short")
    other.flush()
    received = b""
    while one.unwritten_bytes:
        received += read(pipe[0])
        other.flush()
        one.flush()
    other.flush()
    received += read(pipe[0])
    first, second = received.splitlines()
    assert first.decode() == long
    assert json.loads(second)["event"] == "short"


def test_last_lines_wait_for_another_process_after_the_loop_has_ended(
    pipe: tuple[int, int],
) -> None:
    target = LogTarget("stdout")
    one, other = open_log(target, "worker-0"), open_log(target, "worker-1")
    other.line(json.dumps({"text": "x" * (1 << 20)}))
    other.flush()  # it keeps the lock, because its line is not complete
    loop = asyncio.new_event_loop()
    one.write_on(loop)
    one.event("worker_down")
    loop.close()
    one.finish(timeout_s=0.05)
    assert one.unwritten_bytes > 0
    received = b""
    while other.unwritten_bytes:
        received += read(pipe[0])
        other.flush()
    one.finish()
    received += read(pipe[0])
    assert json.loads(received.splitlines()[-1])["event"] == "worker_down"


def test_incomplete_line_of_a_killed_process_is_ended_by_the_next_writer(
    pipe: tuple[int, int],
) -> None:
    target = LogTarget("stdout")
    killed = os.fork()
    if killed == 0:
        log = open_log(target, "worker-0")
        log.line(json.dumps({"text": "x" * (1 << 20)}))
        log.flush()
        os._exit(0)
    os.waitpid(killed, 0)
    half = read(pipe[0])
    assert b"\n" not in half
    log = open_log(target, "worker-1")
    log.event("next")
    log.flush()
    rest = read(pipe[0])
    assert rest.startswith(b"\n")
    assert json.loads(rest)["event"] == "next"


def test_lines_dropped_by_a_full_disk_are_counted_and_reported_later(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def refuse(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "write", refuse)
    target = LogTarget("stdout")
    log = open_log(target, "worker-1")
    log.event("one")
    log.event("two")
    log.flush()
    assert (log.dropped, log.unwritten_bytes) == (2, 0)
    monkeypatch.setattr(os, "write", real)
    log = open_log(target, "worker-1")
    log.dropped = 2
    log.event("three")
    log.flush()
    log.flush()
    assert [line["event"] for line in lines(pipe[0])] == ["three", "log_lines_dropped"]


@pytest.mark.parametrize("can_be_reopened", [True, False])
def test_log_to_a_pipe_is_complete_even_if_the_pipe_cannot_be_reopened(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, can_be_reopened: bool
) -> None:
    if not can_be_reopened:
        real = os.open

        def refuse(path: str, flags: int, mode: int = 0o777) -> int:
            if path == f"/proc/self/fd/{pipe[1]}":
                raise PermissionError(errno.EACCES, "another user's pipe")
            return real(path, flags, mode)

        monkeypatch.setattr(os, "open", refuse)
    log = open_log("stdout", "worker-1")
    sent = [json.dumps({"number": number, "text": "x" * 9_000}) for number in range(20)]
    received = b""
    for line in sent:
        log.line(line)
    while True:
        log.flush()
        received += read(pipe[0])
        if not log.unwritten_bytes:
            break
    assert received.decode().splitlines() == sent


def test_log_to_an_unread_socket_does_not_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        monkeypatch.setitem(log_output.STANDARD_STREAMS, "stdout", ours.fileno())
        log = open_log("stdout", "worker-1", buffer_bytes=1 << 20)
        log.line(json.dumps({"text": "x" * (900 << 10)}))
        log.flush()
        assert log.unwritten_bytes
        received = b""
        while log.unwritten_bytes:
            received += theirs.recv(1 << 20)
            log.flush()
        theirs.setblocking(False)
        received += theirs.recv(1 << 20)
        assert len(json.loads(received)["text"]) == 900 << 10
        log.close()


async def test_buffered_lines_are_written_once_a_slow_reader_reads(pipe: tuple[int, int]) -> None:
    log = open_log("stdout", "worker-1")
    log.write_on(asyncio.get_running_loop())
    log.line(json.dumps({"text": "x" * (200 << 10)}))
    log.flush()
    received = b""
    while not received.endswith(b"\n"):
        readable = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe[0], readable.set)
        await readable.wait()
        asyncio.get_running_loop().remove_reader(pipe[0])
        received += read(pipe[0])
    assert len(json.loads(received)["text"]) == 200 << 10


async def test_event_in_another_thread_is_written_by_the_loop(pipe: tuple[int, int]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)  # calls that are not thread-safe raise then
    log = open_log("stdout", "worker-1")
    log.write_on(loop)
    readable = asyncio.Event()
    loop.add_reader(pipe[0], readable.set)
    await asyncio.to_thread(log.event, "config_not_read", error="locked")
    async with asyncio.timeout(PATIENCE_S):
        await readable.wait()
    loop.remove_reader(pipe[0])
    (line,) = lines(pipe[0])
    assert (line["event"], line["error"]) == ("config_not_read", "locked")


def test_event_in_another_thread_after_the_end_of_the_loop_is_written_at_the_end(
    pipe: tuple[int, int],
) -> None:
    log = open_log("stdout", "worker-1")
    loop = asyncio.new_event_loop()
    log.write_on(loop)
    loop.close()
    thread = threading.Thread(target=log.event, args=("config_not_read",))
    thread.start()
    thread.join(PATIENCE_S)
    log.finish()
    assert [line["event"] for line in lines(pipe[0])] == ["config_not_read"]


def test_renamed_file_is_reopened_by_all_processes_on_request(tmp_path: Path) -> None:
    target = LogTarget(str(tmp_path / "log"))
    logs = [open_log(target, "worker-0"), open_log(target, "worker-1")]
    for log in logs:
        log.event("before")
        log.flush()
    (tmp_path / "log").rename(tmp_path / "log.1")
    target.request_reopen()
    for log in logs:
        log.event("after")
        log.flush()
    for name, event in (("log.1", "before"), ("log", "after")):
        logged = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert [(line["event"], line["process"]) for line in logged] == [
            (event, "worker-0"),
            (event, "worker-1"),
        ]


def test_log_stays_in_the_old_file_if_the_new_one_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    target = LogTarget(str(tmp_path / "logs" / "log"))
    log = open_log(target, "worker-0")
    log.event("before")
    log.flush()
    (tmp_path / "logs").rename(tmp_path / "old")
    target.request_reopen()
    log.event("after")
    log.flush()
    logged = [json.loads(line) for line in (tmp_path / "old" / "log").read_text().splitlines()]
    assert [line["event"] for line in logged] == ["before", "after", "log_not_reopened"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_log_file_mode_does_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        open_log(str(tmp_path / "log"), "worker-0")
    finally:
        os.umask(before)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640


def test_long_fields_are_cut(tmp_path: Path) -> None:
    log = open_log(str(tmp_path / "log"), "worker-1")
    log.event("one", text="é" * 100_000, items=["y" * 100_000] * 1000, other=Path("z" * 100_000))
    log.flush()
    line = json.loads((tmp_path / "log").read_text())
    text, items, other = line["text"], line["items"], line["other"]
    assert text == "é" * FIELD_CHARACTERS_MAX + "…"
    assert len(items) == FIELD_ITEMS_MAX
    assert {len(item) for item in items} == {FIELD_CHARACTERS_MAX + 1}
    assert len(other) == FIELD_CHARACTERS_MAX + 1


def test_invalid_utf_8_is_escaped(pipe: tuple[int, int]) -> None:
    log = open_log("stdout", "worker-1")
    log.event("one", name=b"film-\xff".decode("utf-8", "surrogateescape"))
    log.flush()
    assert lines(pipe[0])[0]["name"] == "film-\udcff"


def test_existing_file_is_appended_to(tmp_path: Path) -> None:
    for process in ("worker-1", "worker-2"):
        log = open_log(str(tmp_path / "log"), process)
        log.event("up")
        log.flush()
    logged = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["process"] for line in logged] == ["worker-1", "worker-2"]


def test_stdout_and_stderr_are_targets(capfd: pytest.CaptureFixture[str]) -> None:
    for target in ("stdout", "stderr"):
        log = open_log(target, "control")
        log.event(target)
        log.flush()
    out, err = capfd.readouterr()
    assert json.loads(out)["event"] == "stdout"
    assert json.loads(err)["event"] == "stderr"


def test_file_that_cannot_be_opened_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_log(str(tmp_path / "none" / "log"), "worker-1")


async def test_gathered_lines_are_written_by_the_loop(pipe: tuple[int, int]) -> None:
    log = open_log("stdout", "worker-1")
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


def test_lines_are_formatted_when_they_are_written(pipe: tuple[int, int]) -> None:
    log = open_log("stdout", "worker-1")
    calls: list[str] = []

    def make_lines(events: Sequence[str]) -> bytes:
        calls.append("now")
        return b"".join(b'{"event":"%b"}\n' % event.encode() for event in events)

    log.lines(["late", "later"], make_lines)
    assert calls == []
    log.line('{"event":"ready"}')
    log.flush()
    assert [line["event"] for line in lines(pipe[0])] == ["late", "later", "ready"]
    assert calls == ["now"]


def test_line_whose_formatting_fails_loses_no_other(pipe: tuple[int, int]) -> None:
    log = open_log("stdout", "worker-1")

    def make_lines(events: Sequence[str]) -> bytes:
        if "faulty" in events:
            raise RuntimeError("a defect")
        return b"".join(b'{"event":"%b"}\n' % event.encode() for event in events)

    log.event("before")
    for number in range(2):
        log.lines([f"a{number}", "faulty", f"b{number}"], make_lines)
    log.event("next")
    log.flush()
    log.flush()
    read = lines(pipe[0])
    assert [line["event"] for line in read] == [
        *("before", "a0", "b0", "a1", "b1", "next", "log_line_failed"),
        "log_lines_dropped",
    ]
    assert read[-2]["error"] == "RuntimeError('a defect')"
    assert read[-1]["lines"] == log.dropped == 2


def test_log_that_is_off_makes_no_line_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    target = LogTarget("off")
    log = open_log(target, "worker-1")
    log.event("fill_failed")
    log.line("{}")
    log.lines([1], lambda _items: pytest.fail("a line was made"))
    target.request_reopen()
    log.flush()
    log.finish()
    assert (log.dropped, log.unwritten_bytes) == (0, 0)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    log.close()
    target.close()
