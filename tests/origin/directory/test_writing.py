"""Writes to a folder: atomic, and never outside it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.answers import find_error_code
from streamedge.origin.directory import writing as directory_writing
from streamedge.origin.directory.origin import DirectoryOrigin
from streamedge.origin.directory.writing import DirectoryWriter
from streamedge.origin.writing import Write, WriteRefusedError, WriteResponse
from tests.support.origins.scripted_origin import read_all

FILM = os.urandom(1 << 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    (folder / "dir").mkdir(parents=True)
    (folder / "dir" / "film.mp4").write_bytes(b"old")
    (tmp_path / "secret").write_bytes(b"secret")
    return folder


async def body_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def put(
    folder: Path, name: str, body: bytes = b"new", *fields: tuple[str, str]
) -> WriteResponse:
    write = Write("PUT", name, fields, len(body))
    return await DirectoryWriter(folder).write(write, body_of(body))


async def delete(folder: Path, name: str, *fields: tuple[str, str]) -> WriteResponse:
    return await DirectoryWriter(folder).write(Write("DELETE", name, fields), None)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


async def test_put_creates_and_replaces_objects(folder: Path) -> None:
    pieces = [FILM[at : at + 70_000] for at in range(0, len(FILM), 70_000)]
    writer = DirectoryWriter(folder)
    answer = await writer.write(Write("PUT", "dir/film.mp4", (), len(FILM)), body_of(*pieces))
    assert answer.status == 200
    assert (await writer.write(Write("PUT", "a/b/c.mp4", (), None), body_of(FILM))).status == 201
    origin = DirectoryOrigin(folder)
    for name in ("dir/film.mp4", "a/b/c.mp4"):
        assert await read_all(await origin.read(name)) == FILM
    assert (await origin.head("dir/film.mp4")).version.etag == answer.field("etag")
    assert names(folder) == {"dir/film.mp4", "a/b/c.mp4"}


async def test_object_is_written_below_the_prefix(folder: Path) -> None:
    writer = DirectoryWriter(folder, "dir")
    assert (await writer.write(Write("PUT", "film.mp4", (), 3), body_of(b"new"))).status == 200
    assert (folder / "dir/film.mp4").read_bytes() == b"new"


async def test_reader_of_the_replaced_file_reads_it_to_its_end(folder: Path) -> None:
    (folder / "dir/film.mp4").write_bytes(FILM)
    read = await DirectoryOrigin(folder).read("dir/film.mp4")
    await put(folder, "dir/film.mp4")
    assert await read_all(read) == FILM


async def test_body_and_names_are_on_disk_before_the_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        fsync(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append(os.path.relpath(path, folder).partition("streamedge-new-")[0])

    monkeypatch.setattr(os, "fsync", record)
    await put(folder, "x/y.mp4")
    assert synced == [".", "x/.", "x"]
    synced.clear()
    await delete(folder, "x/y.mp4")
    assert synced == ["x"]


async def test_delete_removes_the_object(folder: Path) -> None:
    assert (await delete(folder, "dir/film.mp4")).status == 204
    assert names(folder) == set()
    assert (await delete(folder, "dir/film.mp4")).status == 204
    assert (await delete(folder, "nowhere/film.mp4")).status == 204
    assert not (folder / "nowhere").exists()


async def test_conditions_are_checked(folder: Path) -> None:
    etag = (await DirectoryOrigin(folder).head("dir/film.mp4")).version.etag
    for fields, status in (
        ([("If-None-Match", "*")], 412),
        ([("If-Match", '"0"')], 412),
        ([("If-Match", etag)], 200),
        ([("If-Match", etag)], 412),  # the object has changed
        ([("If-Match", "*")], 200),
    ):
        assert (await put(folder, "dir/film.mp4", b"new", *fields)).status == status
    assert (await put(folder, "dir/other.mp4", b"new", ("If-Match", "*"))).status == 412
    assert (await put(folder, "dir/other.mp4", b"new", ("If-None-Match", "*"))).status == 201
    assert (await delete(folder, "dir/other.mp4", ("If-Match", '"0"'))).status == 412
    assert (await delete(folder, "dir/none.mp4", ("If-Match", "*"))).status == 412
    assert (await delete(folder, "none/none.mp4", ("If-Match", "*"))).status == 412
    assert names(folder) == {"dir/film.mp4", "dir/other.mp4"}


async def test_one_of_two_concurrent_conditional_puts_wins(folder: Path) -> None:
    """The condition is checked again when the body has arrived."""
    both_come = asyncio.Barrier(2)

    async def body(data: bytes) -> AsyncIterator[bytes]:
        await both_come.wait()
        yield data

    write = Write("PUT", "dir/new.mp4", (("If-None-Match", "*"),), 1)
    answers = await asyncio.gather(
        *(DirectoryWriter(folder).write(write, body(data)) for data in (b"a", b"b"))
    )
    assert sorted(answer.status for answer in answers) == [201, 412]
    winner = [data for data, answer in zip((b"a", b"b"), answers, strict=True) if answer.succeeded]
    assert [(folder / "dir/new.mp4").read_bytes()] == winner


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (("Content-MD5", base64.b64encode(hashlib.md5(b"new").digest()).decode()), 200),
        (("Content-MD5", base64.b64encode(bytes(16)).decode()), 400),
        (("x-amz-checksum-crc32c", "AAAAAA=="), 400),
        (("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="), 400),
        (("x-amz-checksum-sha256", "no digest"), 400),
        (("x-amz-content-sha256", hashlib.sha256(b"new").hexdigest()), 200),
        (("x-amz-content-sha256", "0" * 64), 400),
    ],
)
async def test_checksums_are_verified(folder: Path, field: tuple[str, str], status: int) -> None:
    assert (await put(folder, "dir/film.mp4", b"new", field)).status == status
    assert (folder / "dir/film.mp4").read_bytes() == (b"new" if status == 200 else b"old")
    assert names(folder) == {"dir/film.mp4"}


async def test_trailing_checksum_is_verified(folder: Path) -> None:
    fields = (
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
    )
    for checksum, status in (("NhCmhg==", 200), ("AAAAAA==", 400)):
        body = f"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:{checksum}\r\n\r\n".encode()
        write = Write("PUT", "dir/film.mp4", fields, len(body))
        assert (await DirectoryWriter(folder).write(write, body_of(body))).status == status
        assert (folder / "dir/film.mp4").read_bytes() == b"hello"


async def test_viewer_that_leaves_changes_nothing(folder: Path) -> None:
    async def leave() -> AsyncIterator[bytes]:
        yield FILM
        raise ConnectionResetError

    write = Write("PUT", "dir/film.mp4", (), 2 * len(FILM))
    with pytest.raises(ConnectionResetError):
        await DirectoryWriter(folder).write(write, leave())
    short = await DirectoryWriter(folder).write(write, body_of(FILM))
    assert short.status == 400
    assert (folder / "dir/film.mp4").read_bytes() == b"old"
    assert names(folder) == {"dir/film.mp4"}


async def test_cancelled_write_changes_nothing(folder: Path) -> None:
    waits = asyncio.Event()

    async def stall() -> AsyncIterator[bytes]:
        yield FILM
        waits.set()
        await asyncio.Event().wait()

    write = Write("PUT", "dir/film.mp4", (), None)
    writing = asyncio.create_task(DirectoryWriter(folder).write(write, stall()))
    await waits.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert (folder / "dir/film.mp4").read_bytes() == b"old"
    assert names(folder) == {"dir/film.mp4"}


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "./a", "a\0b", "a\\b", "\udc80"])
async def test_invalid_names_are_refused(folder: Path, name: str) -> None:
    for act in (put, delete):
        with pytest.raises(OriginError) as caught:
            await act(folder, name)
        assert caught.value.failure is OriginFailure.NOT_FOUND
    assert (folder.parent / "secret").read_bytes() == b"secret"


@pytest.mark.parametrize("name", ["", "/etc/x", "a//b", "a/", "dir/"])
async def test_name_without_a_file_is_refused(folder: Path, name: str) -> None:
    assert (await put(folder, name)).status == 400
    assert (await delete(folder, name)).status == 400


async def test_folder_cannot_replace_a_file_nor_a_file_a_folder(folder: Path) -> None:
    assert (await put(folder, "dir")).status == 409
    assert (await put(folder, "dir/film.mp4/x")).status == 409
    assert (await delete(folder, "dir")).status == 409
    assert (await delete(folder, "dir/film.mp4/x")).status == 409
    assert names(folder) == {"dir/film.mp4"}


CONDITIONS: tuple[tuple[str, str], ...] = (
    ("If-Match", "*"),
    ("If-Match", '"0"'),
    ("If-None-Match", "*"),
)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize(
    "name",
    [
        "dir/film.mp4",
        "dir/new.mp4",
        "new/film.mp4",
        "in/film.mp4",
        "dir",
        "dir/film.mp4/x",
        "out/film.mp4",
        "out/new/film.mp4",
        "a//b",
        "../secret",
        "a\0b",
        f"dir/{'n' * 255}",
        f"dir/{'n' * 256}",
        f"new/{'n' * 256}",
        f"{'n' * 256}/film.mp4",
        f"new/{'n' * 256}/film.mp4",
        "n/" * 512 + "film.mp4",
    ],
)
async def test_check_finds_what_the_write_would_and_changes_nothing(
    folder: Path, tmp_path: Path, method: str, name: str
) -> None:
    (folder / "in").symlink_to("dir")
    (folder / "out").symlink_to(tmp_path)
    writer = DirectoryWriter(folder)
    before = sorted(folder.rglob("*"))
    for fields in ((), *((field,) for field in CONDITIONS)):
        write = Write(method, name, fields, 3)
        checked = await outcome(writer.check(write))
        assert sorted(folder.rglob("*")) == before
        written = await outcome(writer.write(write, body_of(b"new")))
        assert checked == (None if written == "done" else written)
        for path in set(folder.rglob("*")) - set(before):
            if path.is_file():
                path.unlink()
        shutil.rmtree(folder / "new", ignore_errors=True)
        (folder / "dir/film.mp4").write_bytes(b"old")


async def outcome(call: Awaitable[WriteResponse | None]) -> str | None:
    """The status and code of a refusal, the failure of an origin, "done", or None."""
    try:
        response = await call
    except WriteRefusedError as exc:
        response = exc.response
    except OriginError as exc:
        return str(exc.failure)
    if response is None:
        return None
    if response.succeeded:
        return "done"
    return f"{response.status} {find_error_code(response.body)}"


async def test_check_of_a_folder_that_the_edge_may_not_write(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_args: object, **_options: object) -> bool:
        return False

    monkeypatch.setattr(os, "access", deny)  # root may write everywhere
    writer = DirectoryWriter(folder)
    for write in (Write("PUT", "dir/new.mp4"), Write("DELETE", "dir/film.mp4")):
        assert await outcome(writer.check(write)) == "403 AccessDenied"
    await writer.check(Write("DELETE", "dir/new.mp4"))


async def test_check_of_a_folder_that_is_not_there_is_unavailable(folder: Path) -> None:
    with pytest.raises(OriginError) as caught:
        await DirectoryWriter(folder / "none").check(Write("PUT", "film.mp4"))
    assert caught.value.failure is OriginFailure.UNAVAILABLE


async def test_links_are_followed_only_inside_the_folder(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "film.mp4").write_bytes(b"outside")
    (folder / "out").symlink_to(outside)
    (folder / "in").symlink_to("dir")
    (folder / "film.mp4").symlink_to(outside / "film.mp4")
    for act in (put, delete):
        assert (await act(folder, "out/film.mp4")).status == 403
        assert (await act(folder, "out/new/film.mp4")).status == 403
    assert (await put(folder, "in/film.mp4")).status == 200
    assert (folder / "dir/film.mp4").read_bytes() == b"new"
    assert (await put(folder, "film.mp4", b"mine")).status == 201  # the link was not an object
    assert (folder / "film.mp4").read_bytes() == b"mine"
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"film.mp4": b"outside"}


async def test_link_created_during_the_write_is_not_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    realpath = os.path.realpath

    def swap(path: str, **more: bool) -> str:
        real = realpath(path, **more)
        if str(path).endswith("dir") and not (folder / "dir").is_symlink():
            (folder / "dir").rename(folder / "was")
            (folder / "dir").symlink_to(outside)
        return real

    monkeypatch.setattr(os.path, "realpath", swap)
    assert (await put(folder, "dir/film.mp4")).status == 409
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "status"), [(errno.ENOSPC, 507), (errno.EACCES, 403), (errno.EROFS, 403)]
)
async def test_disk_error_has_its_status(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def refuse(_descriptor: int, _data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(directory_writing, "write_all", refuse)
    assert (await put(folder, "dir/film.mp4")).status == status
    assert names(folder) == {"dir/film.mp4"}


async def test_failing_disk_is_unavailable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OriginError) as caught:
        await put(folder, "dir/film.mp4")
    assert caught.value.failure is OriginFailure.UNAVAILABLE
    assert names(folder) == {"dir/film.mp4"}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text("./\\a\0é~%", max_size=12))
async def test_no_name_writes_outside_the_folder(folder: Path, name: str) -> None:
    statuses = set()
    with contextlib.suppress(OriginError):
        statuses.add((await put(folder, name)).status)
    assert statuses <= {200, 201, 400, 409}
    assert {path.name for path in folder.parent.iterdir()} == {"media", "secret"}
    assert (folder.parent / "secret").read_bytes() == b"secret"
