"""The operator's calls on the queue: what they list, what they change, and how they say no."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from streamedge.origin.writing import HeaderFields, Write
from streamedge.process.control import create_admin_app
from streamedge.write_back.queue import LISTED_ROWS_MAX, WriteQueue, prepare_write_queue
from streamedge.write_back.states import State
from tests.support.asgi_call import call
from tests.support.scripted_writer import REPLICATOR
from tests.support.shared_memory import make_shared

LIMIT_BYTES = 1 << 20
FILM = "directory /media \nfilm"
STALE: HeaderFields = (("If-Match", '"old"'),)


@pytest.fixture(name="write_queue")
def _write_queue(tmp_path: Path) -> Iterator[WriteQueue]:
    prepare_write_queue(tmp_path)
    write_queue = WriteQueue(tmp_path, 0, LIMIT_BYTES, REPLICATOR)
    yield write_queue
    write_queue.close()


async def ask(
    write_queue: WriteQueue | None, method: str, target: str
) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer."""
    app = create_admin_app("fra-1", make_shared(0), write_queue)
    status, body = await call(app, method, target)
    return status, json.loads(body)


async def come(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def put(write_queue: WriteQueue, name: str, body: bytes, fields: HeaderFields = ()) -> None:
    key = f"directory /media \n{name}"
    write = Write("PUT", name, fields, len(body))
    assert (await write_queue.accept(key, "media", write, come(body))).succeeded


async def keep(write_queue: WriteQueue, name: str, body: bytes, state: State, problem: str) -> None:
    """Has a write end where only the operator ends it."""
    await put(write_queue, name, body, STALE)
    (row,) = write_queue.rows.take_due(2e9, 1)
    assert row.name == name
    write_queue.rows.finish_attempt(row, state, problem=problem)


async def test_it_lists_what_is_kept_before_what_waits(write_queue: WriteQueue) -> None:
    await keep(write_queue, "b", b"12", State.CONFLICT, "answered 412")
    await keep(write_queue, "c", b"123", State.FAILED, "answered 403 AccessDenied")
    await put(write_queue, "a", b"1")
    (sending,) = write_queue.rows.take_due(2e9, 1)
    await put(write_queue, "a", b"12345")
    status, said = await ask(write_queue, "GET", "/writes")
    assert status == 200
    assert said["by_state"] == {"queued": 1, "sending": 1, "conflict": 1, "failed": 1}
    assert (said["held_bytes"], said["accepted"], said["done"]) == (11, 4, 0)
    assert said["rows_left_off"] == 0
    shown = [(row["state"], row["object"], row["size_bytes"]) for row in said["rows"]]
    assert shown == [
        ("conflict", "b", 2),
        ("failed", "c", 3),
        ("sending", "a", 1),
        ("queued", "a", 5),
    ]
    conflict, _failed, being_sent, queued = said["rows"]
    assert being_sent["serial"] == sending.serial
    assert being_sent["due_in_s"] is None
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


async def test_the_list_is_bounded(write_queue: WriteQueue) -> None:
    for number in range(3):
        await put(write_queue, f"object-{number}", b"1")
    for limit, listed in ((0, 0), (2, 2), (LISTED_ROWS_MAX * 9, 3)):
        status, said = await ask(write_queue, "GET", f"/writes?limit={limit}")
        assert status == 200
        assert len(said["rows"]) == listed
        assert said["rows_left_off"] == 3 - listed
        assert said["by_state"]["queued"] == 3


async def test_where_nothing_is_written_back_the_list_is_empty() -> None:
    status, said = await ask(None, "GET", "/writes")
    assert status == 200
    assert said["rows"] == []
    assert set(said["by_state"].values()) == {0}


@pytest.mark.parametrize(
    ("query", "fields"), [("", STALE), ("?unconditional=0", STALE), ("?unconditional=1", ())]
)
async def test_a_retry_queues_anew(
    write_queue: WriteQueue, query: str, fields: HeaderFields
) -> None:
    await keep(write_queue, "film", b"new", State.CONFLICT, "answered 412")
    assert write_queue.pending(FILM) is None
    status, said = await ask(write_queue, "POST", f"/writes/1/retry{query}")
    assert (status, said) == (200, {"serial": 1, "outcome": "queued"})
    (row,) = (await write_queue.status()).rows
    assert (row.state, row.fields, row.attempts) == (State.QUEUED, fields, 0)
    assert write_queue.pending(FILM) is not None  # readers see it again


async def test_a_discard_removes_the_bytes(write_queue: WriteQueue) -> None:
    await keep(write_queue, "film", b"new", State.FAILED, "answered 403")
    assert len(list(write_queue.bodies.iterdir())) == 1
    status, said = await ask(write_queue, "DELETE", "/writes/1")
    assert (status, said) == (200, {"serial": 1, "outcome": "discarded"})
    assert list(write_queue.bodies.iterdir()) == []
    assert (await write_queue.status()).totals.held_bytes == 0
    assert (await ask(write_queue, "DELETE", "/writes/1"))[0] == 404


@pytest.mark.parametrize("has_write_queue", [True, False])
@pytest.mark.parametrize(("method", "tail"), [("POST", "/retry"), ("DELETE", "")])
@pytest.mark.parametrize("serial", ["1", "2", "0", "9" * 18, "9" * 40, "-1", "x", "٣", "1.0"])
async def test_what_is_not_kept_is_not_there(
    write_queue: WriteQueue, has_write_queue: bool, method: str, tail: str, serial: str
) -> None:
    await put(write_queue, "film", b"waits")  # number 1: it waits, and is nobody's to decide
    asked = write_queue if has_write_queue else None
    status, said = await ask(asked, method, f"/writes/{serial}{tail}")
    assert status == 404
    assert serial in said["error"] or ascii(serial) in said["error"]
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
    answered, said = await ask(write_queue, method, target)
    assert answered == status
    assert said == {"error": reason or HTTPStatus(status).phrase}


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/writes"), ("POST", "/writes/1/retry"), ("DELETE", "/writes/1")]
)
async def test_unreadable_write_queue_is_an_error_response(
    write_queue: WriteQueue, method: str, target: str
) -> None:
    with closing(sqlite3.connect(write_queue.folder / "journal.sqlite")) as connection:
        connection.execute("DROP TABLE writes")
    status, said = await ask(write_queue, method, target)
    assert status == 503
    assert "the write queue" in said["error"]
