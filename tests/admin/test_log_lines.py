"""The log on the admin address: which lines are sent, after appends, rotation and truncation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Scope

from streamedge.admin.app import create_admin_app
from streamedge.admin.log_lines import READ_BYTES_MAX, LineFilter, LogFile, log_routes
from streamedge.coordination.shared_state import SharedState
from tests.support.admin.access import open_access
from tests.support.http.asgi_call import call
from tests.support.patience import PATIENCE_S
from tests.support.process.shared_memory import close_shared, make_shared


@pytest.fixture
def shared() -> Iterator[SharedState]:
    state = make_shared(0)
    yield state
    close_shared(state)


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_lines_are_read_whole_and_once(tmp_path: Path) -> None:
    path = tmp_path / "edge.log"
    path.write_text("old\n")
    file = LogFile(path)
    file.open_at_end(0)
    assert file.read() == []
    append(path, '{"a": 1}\n{"b"')
    assert [line for line in file.read() if LineFilter().selects(line)] == [b'{"a": 1}']
    append(path, ": 2}\n")
    assert file.read() == [b'{"b": 2}']


def test_renamed_and_truncated_logs_go_on_from_their_beginning(tmp_path: Path) -> None:
    path = tmp_path / "edge.log"
    path.write_text("one\n")
    file = LogFile(path)
    file.open_at_end(1 << 10)
    assert file.read() == [b"one"]
    path.rename(tmp_path / "edge.log.1")
    assert file.read() == []
    path.write_text("two\nthree\n")
    assert file.read() == [b"two", b"three"]
    path.write_text("4\n")
    assert file.read() == [b"4"]


def test_reader_far_behind_gets_the_newest_lines(tmp_path: Path) -> None:
    path = tmp_path / "edge.log"
    path.write_text("")
    file = LogFile(path)
    file.open_at_end(0)
    append(path, "".join(f'{{"n": {number:06}}}\n' for number in range(40_000)))
    lines = file.read()
    assert lines[-1] == b'{"n": 039999}'
    assert sum(map(len, lines)) <= READ_BYTES_MAX
    assert not LineFilter().selects(lines[0])  # it is cut


@pytest.mark.parametrize(
    ("chosen", "line", "expected"),
    [
        (LineFilter(), b'{"event": "response"}', True),
        (LineFilter("response"), b'{"event": "response"}', True),
        (LineFilter("respons"), b'{"event": "response"}', False),
        (LineFilter("", "FILM"), b'{"event": "response", "path": "/film.mp4"}', True),
        (LineFilter("", "film"), b'{"event": "response", "path": "/page"}', False),
        (LineFilter("play", "film"), b'{"event": "response", "path": "/film.mp4"}', False),
        (LineFilter(), b"text", False),
        (LineFilter(), b"[]", False),
        (LineFilter(), b"", False),
    ],
)
def test_lines_of_an_event_and_with_a_text_are_sent(
    chosen: LineFilter, line: bytes, expected: bool
) -> None:
    assert chosen.selects(line) is expected


@given(st.binary(max_size=60))
def test_any_line_is_selected_or_not(line: bytes) -> None:
    if LineFilter().selects(line):
        assert isinstance(json.loads(line), dict)


async def test_log_that_is_no_file_says_where_it_is(shared: SharedState, tmp_path: Path) -> None:
    routes = log_routes("stdout", lambda: False)
    app = create_admin_app("fra-1", shared, open_access(shared), routes=routes)
    for path in ("/log", "/log/stream"):
        status, body = await call(app, "GET", path)
        assert status == 409
        assert "stdout" in json.loads(body)["error"]
    routes = log_routes(tmp_path / "none.log", lambda: False)
    app = create_admin_app("fra-1", shared, open_access(shared), routes=routes)
    assert (await call(app, "GET", "/log/stream"))[0] == 404


async def test_stream_begins_with_the_newest_lines(shared: SharedState, tmp_path: Path) -> None:
    path = tmp_path / "edge.log"
    path.write_text('{"event": "a", "text": "<script>"}\n{"event": "b"}\n')
    rounds = iter([False, True])
    routes = log_routes(path, lambda: next(rounds))
    app = create_admin_app("fra-1", shared, open_access(shared), routes=routes)
    sent: list[Message] = []

    async def never() -> Message:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def keep(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "GET", "path": "/log/stream", "headers": []}
    scope.update({"query_string": b"event=a", "http_version": "1.1", "scheme": "http"})
    scope.update({"client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", 9090)})
    await asyncio.wait_for(app(scope, never, keep), PATIENCE_S)
    assert sent[0]["status"] == 200
    assert (
        b"".join(message.get("body", b"") for message in sent[1:])
        == b'retry: 2000\n\ndata: {"event": "a", "text": "<script>"}\n\n'
    )
