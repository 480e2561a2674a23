"""The calls on the write-back queue at the admin address: lists, effects and errors."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from streamedge.admin.app import create_admin_app
from streamedge.origin.writing import HeaderFields, Write
from streamedge.write_back.queue import LISTED_ROWS_MAX, WriteQueue, prepare_write_queue
from streamedge.write_back.states import State
from tests.support.admin.access import open_access
from tests.support.http.asgi_call import call
from tests.support.origins.scripted_writer import REPLICATOR
from tests.support.process.shared_memory import make_shared

LIMIT_BYTES = 1 << 20
FILM = "directory /media \nfilm"
STALE: HeaderFields = (("If-Match", '"old"'),)


@pytest.fixture(name="write_queue")
def _write_queue(tmp_path: Path) -> Iterator[WriteQueue]:
    prepare_write_queue(tmp_path)
    write_queue = WriteQueue(tmp_path, 0, LIMIT_BYTES, REPLICATOR)
    yield write_queue
    write_queue.close()


async def request(
    write_queue: WriteQueue | None, method: str, target: str
) -> tuple[int, dict[str, Any]]:
    """The status and JSON of a response."""
    shared = make_shared(0)
    app = create_admin_app("fra-1", shared, open_access(shared), write_queue)
    status, body = await call(app, method, target)
    return status, json.loads(body)


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def put(write_queue: WriteQueue, name: str, body: bytes, fields: HeaderFields = ()) -> None:
    key = f"directory /media \n{name}"
    write = Write("PUT", name, fields, len(body))
    assert (await write_queue.accept(key, "media", write, chunks(body))).succeeded


async def fail_write(
    write_queue: WriteQueue, name: str, body: bytes, state: State, problem: str
) -> None:
    """Accepts a write and ends it as a dead letter."""
    await put(write_queue, name, body, STALE)
    (row,) = write_queue.rows.take_due(2e9, 1)
    assert row.name == name
    write_queue.rows.finish_attempt(row, state, problem=problem)


async def test_list_has_dead_letters_before_pending_writes(write_queue: WriteQueue) -> None:
    await fail_write(write_queue, "b", b"12", State.CONFLICT, "answered 412")
    await fail_write(write_queue, "c", b"123", State.FAILED, "answered 403 AccessDenied")
    await put(write_queue, "a", b"1")
    (sending,) = write_queue.rows.take_due(2e9, 1)
    await put(write_queue, "a", b"12345")
    status, body = await request(write_queue, "GET", "/writes")
    assert status == 200
    assert body["by_state"] == {"queued": 1, "sending": 1, "conflict": 1, "failed": 1}
    assert (body["held_bytes"], body["accepted"], body["done"]) == (11, 4, 0)
    assert body["rows_left_off"] == 0
    rows = [(row["state"], row["object"], row["size_bytes"]) for row in body["rows"]]
    assert rows == [
        ("conflict", "b", 2),
        ("failed", "c", 3),
        ("sending", "a", 1),
        ("queued", "a", 5),
    ]
    conflict, _failed, in_flight, queued = body["rows"]
    assert in_flight["serial"] == sending.serial
    assert in_flight["due_in_s"] is None
    assert queued["due_in_s"] == 0.0
    age_s = conflict.pop("age_s")
    assert 0 <= age_s < 60
    assert conflict == {
        "serial": 1,
        "state": "conflict",
        "method": "PUT",
        "origin": "media",
        "object": "b",
        "size_bytes": 2,
        "etag": '"c20ad4d76fe97759aa27a0c99bff6710"',  # MD5 of "12"
        "fields": [["If-Match", '"old"']],
        "attempts": 1,
        "due_in_s": None,
        "problem": "answered 412",
    }


async def test_list_is_limited(write_queue: WriteQueue) -> None:
    for number in range(3):
        await put(write_queue, f"object-{number}", b"1")
    for limit, listed in ((0, 0), (2, 2), (LISTED_ROWS_MAX * 9, 3)):
        status, body = await request(write_queue, "GET", f"/writes?limit={limit}")
        assert status == 200
        assert len(body["rows"]) == listed
        assert body["rows_left_off"] == 3 - listed
        assert body["by_state"]["queued"] == 3


async def test_list_is_empty_without_write_back() -> None:
    status, body = await request(None, "GET", "/writes")
    assert status == 200
    assert body["rows"] == []
    assert set(body["by_state"].values()) == {0}


@pytest.mark.parametrize(
    ("query", "fields"), [("", STALE), ("?unconditional=0", STALE), ("?unconditional=1", ())]
)
async def test_retry_queues_a_dead_letter_again(
    write_queue: WriteQueue, query: str, fields: HeaderFields
) -> None:
    await fail_write(write_queue, "film", b"new", State.CONFLICT, "answered 412")
    assert write_queue.pending(FILM) is None
    status, body = await request(write_queue, "POST", f"/writes/1/retry{query}")
    assert (status, body) == (200, {"serial": 1, "outcome": "queued"})
    (row,) = (await write_queue.status()).rows
    assert (row.state, row.fields, row.attempts) == (State.QUEUED, fields, 0)
    assert write_queue.pending(FILM) is not None  # readers see it again


async def test_discard_removes_the_body(write_queue: WriteQueue) -> None:
    await fail_write(write_queue, "film", b"new", State.FAILED, "answered 403")
    assert len(list(write_queue.bodies.iterdir())) == 1
    status, body = await request(write_queue, "DELETE", "/writes/1")
    assert (status, body) == (200, {"serial": 1, "outcome": "discarded"})
    assert list(write_queue.bodies.iterdir()) == []
    assert (await write_queue.status()).totals.held_bytes == 0
    assert (await request(write_queue, "DELETE", "/writes/1"))[0] == 404


@pytest.mark.parametrize("has_write_queue", [True, False])
@pytest.mark.parametrize(("method", "tail"), [("POST", "/retry"), ("DELETE", "")])
@pytest.mark.parametrize("serial", ["1", "2", "0", "9" * 18, "9" * 40, "-1", "x", "٣", "1.0"])
async def test_write_that_is_no_dead_letter_is_404(
    write_queue: WriteQueue, has_write_queue: bool, method: str, tail: str, serial: str
) -> None:
    await put(
        write_queue, "film", b"waits"
    )  # serial 1: a pending write cannot be retried or discarded
    queue_or_none = write_queue if has_write_queue else None
    status, body = await request(queue_or_none, method, f"/writes/{serial}{tail}")
    assert status == 404
    assert serial in body["error"] or ascii(serial) in body["error"]
    assert len((await write_queue.status()).rows) == 1


@pytest.mark.parametrize(
    ("method", "target", "status", "reason"),
    [
        ("GET", "/writes?limit=-1", 400, "limit is a number, not '-1'"),
        ("GET", "/writes?limit=", 400, "limit is a number, not ''"),
        ("POST", "/writes/1/retry?unconditional=yes", 400, "unconditional is 0 or 1, not 'yes'"),
        ("POST", "/writes", 405, "Method Not Allowed"),
        ("GET", "/writes/1/retry", 405, "Method Not Allowed"),
        ("GET", "/written", 404, None),
    ],
)
async def test_errors_are_json_with_a_reason(
    write_queue: WriteQueue, method: str, target: str, status: int, reason: str | None
) -> None:
    actual, body = await request(write_queue, method, target)
    assert actual == status
    assert body == {"error": reason or HTTPStatus(status).phrase}


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/writes"), ("POST", "/writes/1/retry"), ("DELETE", "/writes/1")]
)
async def test_unreadable_write_queue_is_an_error_response(
    write_queue: WriteQueue, method: str, target: str
) -> None:
    with closing(sqlite3.connect(write_queue.folder / "journal.sqlite")) as connection:
        connection.execute("DROP TABLE writes")
    status, body = await request(write_queue, method, target)
    assert status == 503
    assert "the write queue" in body["error"]
