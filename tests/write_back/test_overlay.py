"""Pending writes are read from the queue, all other objects from the origin."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from streamedge.errors import OriginError, OriginFailure
from streamedge.keys import join_key
from streamedge.origin import OriginRequest, OriginResponse, Version
from streamedge.origin.directory.origin import DirectoryOrigin
from streamedge.origin.objects import ObjectUpstream
from streamedge.origin.writing import Write
from streamedge.spans import Span
from streamedge.write_back.overlay import PendingWritesOrigin, PendingWritesUpstream
from streamedge.write_back.queue import WriteQueue, prepare_write_queue
from tests.support.origins.scripted_writer import REPLICATOR, body_of, put

TYPED = ("Content-Type", "text/plain")


@pytest.fixture(name="write_queue")
def _write_queue(tmp_path: Path) -> Iterator[WriteQueue]:
    prepare_write_queue(tmp_path)
    write_queue = WriteQueue(tmp_path, 0, 1 << 20, REPLICATOR)
    yield write_queue
    write_queue.close()


@pytest.fixture(name="origin")
def _origin(tmp_path: Path) -> DirectoryOrigin:
    folder = tmp_path / "origin"
    folder.mkdir()
    for name in ("film", "gone", "other"):
        (folder / name).write_bytes(b"at the origin")
    return DirectoryOrigin(folder)


@pytest.fixture(name="overlay")
async def _ahead(origin: DirectoryOrigin, write_queue: WriteQueue) -> PendingWritesOrigin:
    """``film`` is written and ``gone`` deleted, both wait."""
    await write_queue.accept(
        join_key("files", "film"), "main", put("film", TYPED), body_of(b"waits here")
    )
    await write_queue.accept(join_key("files", "gone"), "main", Write("DELETE", "gone"), None)
    return PendingWritesOrigin(origin, "files", write_queue, DirectoryOrigin(write_queue.bodies))


async def body(overlay: PendingWritesOrigin, name: str, span: Span | None = None) -> bytes:
    read = await overlay.read(name, span)
    assert read is not None
    try:
        return b"".join([piece async for piece in read.pieces()])
    finally:
        await read.close()


async def test_pending_write_is_read_instead_of_the_origins_object(
    overlay: PendingWritesOrigin,
) -> None:
    head = await overlay.head("film")
    assert (head.version.size_bytes, head.content_type) == (10, "text/plain")
    assert await body(overlay, "film") == b"waits here"
    assert await body(overlay, "film", Span(6, 10)) == b"here"
    assert await body(overlay, "other") == b"at the origin"
    assert await overlay.read("film", if_none_match=head.version) is None


async def test_override_fields_replace_those_of_a_pending_object(
    overlay: PendingWritesOrigin, origin: DirectoryOrigin, write_queue: WriteQueue
) -> None:
    overrides = {"content-type": "a/b", "content-disposition": "attachment"}
    site = PendingWritesOrigin(
        origin, "files", write_queue, DirectoryOrigin(write_queue.bodies), overrides=overrides
    )
    head = await site.head("film")
    assert (head.content_type, head.headers) == ("a/b", {"content-disposition": "attachment"})


async def test_pending_delete_is_not_found(overlay: PendingWritesOrigin) -> None:
    with pytest.raises(OriginError) as failure:
        await overlay.head("gone")
    assert failure.value.failure is OriginFailure.NOT_FOUND


async def test_if_match_of_another_version_is_changed(
    overlay: PendingWritesOrigin,
) -> None:
    with pytest.raises(OriginError) as failure:
        await overlay.read("film", if_match=Version('"old"', 10, 0))
    assert failure.value.failure is OriginFailure.CHANGED


async def test_removed_body_is_read_from_the_origin(
    overlay: PendingWritesOrigin, write_queue: WriteQueue
) -> None:
    for file in write_queue.bodies.iterdir():
        file.unlink()
    assert await body(overlay, "film") == b"at the origin"


async def test_unreadable_queue_makes_reads_unavailable(
    overlay: PendingWritesOrigin, write_queue: WriteQueue
) -> None:
    with closing(sqlite3.connect(write_queue.folder / "journal.sqlite")) as connection:
        connection.execute("DROP TABLE writes")
    write_queue.signal.notify()
    with pytest.raises(OriginError) as failure:
        await overlay.read("film")
    assert failure.value.failure is OriginFailure.UNAVAILABLE


@dataclass(slots=True)
class RecordingUpstream:
    """An upstream that records its requests."""

    upstream: ObjectUpstream
    requests: list[OriginRequest] = field(default_factory=list)

    async def send(self, request: OriginRequest) -> OriginResponse:
        self.requests.append(request)
        return await self.upstream.send(request)


async def read_body(response: OriginResponse) -> bytes:
    pieces: AsyncIterator[bytes] = response.body()
    return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize(
    ("request_", "status", "answer", "is_requested"),
    [
        (OriginRequest("GET", "film"), 200, b"waits here", False),
        (OriginRequest("GET", "film", fields=(("range", "bytes=0-4"),)), 206, b"waits", False),
        (OriginRequest("HEAD", "film"), 200, b"", False),
        (OriginRequest("GET", "gone"), 404, b"", False),
        (OriginRequest("GET", "other"), 200, b"at the origin", True),
        (OriginRequest("GET", "film", "v=1"), 200, b"at the origin", True),
        (OriginRequest("POST", "film"), 405, b"", True),
    ],
)
async def test_requests_for_pending_objects_do_not_reach_the_origin(
    overlay: PendingWritesOrigin,
    origin: DirectoryOrigin,
    request_: OriginRequest,
    status: int,
    answer: bytes,
    is_requested: bool,
) -> None:
    recording = RecordingUpstream(ObjectUpstream(origin))
    response = await PendingWritesUpstream(recording, overlay).send(request_)
    assert (response.status, await read_body(response)) == (status, answer)
    assert bool(recording.requests) is is_requested
