"""DirectoryOrigin: regular files inside the folder, and nothing else."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from threading import Event

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin import Origin, Version
from streamedge.origin.directory.origin import PIECE_MAX_BYTES, DirectoryOrigin
from streamedge.spans import Span
from tests.support.origins.scripted_origin import read_all
from tests.support.patience import PATIENCE_S

FILM = bytes(range(256)) * 4000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    (folder / "dir").mkdir(parents=True)
    (folder / "dir" / "film.mp4").write_bytes(FILM)
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (tmp_path / "media-private").mkdir()
    (tmp_path / "media-private" / "secret.mp4").write_bytes(b"secret")
    return folder


async def failure_of(folder: Path, name: str, prefix: str = "") -> OriginFailure:
    origin: Origin = DirectoryOrigin(folder, prefix)
    with pytest.raises(OriginError) as caught:
        await origin.head(name)
    with pytest.raises(OriginError):
        await origin.read(name)
    return caught.value.failure


def open_descriptors() -> set[str]:
    return {
        target
        for number in os.listdir("/proc/self/fd")
        if (target := os.path.realpath(f"/proc/self/fd/{number}")).endswith("film.mp4")
    }


async def test_head_has_version_type_and_size(folder: Path) -> None:
    head = await DirectoryOrigin(folder).head("dir/film.mp4")
    status = (folder / "dir/film.mp4").stat()
    assert head.version.size_bytes == len(FILM)
    assert head.version.last_modified_s == int(status.st_mtime)
    assert head.version.is_strong
    assert head.content_type == "video/mp4"
    assert head.headers == {}


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (None, Span(0, len(FILM))),
        (Span(0, 1), Span(0, 1)),
        (Span(1000, 900_000), Span(1000, 900_000)),
        (Span(len(FILM) - 1, 1 << 40), Span(len(FILM) - 1, len(FILM))),
    ],
)
async def test_read_returns_the_span(folder: Path, span: Span | None, expected: Span) -> None:
    read = await DirectoryOrigin(folder, "/dir/").read("film.mp4", span)
    assert read is not None
    assert read.span == expected
    assert read.head == await DirectoryOrigin(folder).head("dir/film.mp4")
    assert await read_all(read) == FILM[expected.start : expected.end]
    assert not open_descriptors()


async def test_pieces_are_of_bounded_size(folder: Path) -> None:
    read = await DirectoryOrigin(folder).read("dir/film.mp4")
    assert read is not None
    sizes = [len(piece) async for piece in read.pieces()]
    assert max(sizes) == PIECE_MAX_BYTES
    await read.close()
    await read.close()


async def test_empty_file_is_an_empty_object(folder: Path) -> None:
    (folder / "empty.mp4").touch()
    origin = DirectoryOrigin(folder)
    assert await read_all(await origin.read("empty.mp4")) == b""
    with pytest.raises(OriginError) as caught:
        await origin.read("empty.mp4", Span(0, 1))
    assert caught.value.failure is OriginFailure.RANGE_OUTSIDE


async def test_span_past_the_end_is_refused(folder: Path) -> None:
    with pytest.raises(OriginError) as caught:
        await DirectoryOrigin(folder).read("dir/film.mp4", Span(len(FILM), len(FILM) + 1))
    assert caught.value.failure is OriginFailure.RANGE_OUTSIDE
    assert not open_descriptors()


@pytest.mark.parametrize("span", [Span(5, 5), Span(-1, 4)])
async def test_invalid_span_is_a_value_error(folder: Path, span: Span) -> None:
    with pytest.raises(ValueError, match="range"):
        await DirectoryOrigin(folder).read("dir/film.mp4", span)


# --- names without an object ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "missing.mp4",
        "dir",
        "dir/",
        "",
        "/dir/film.mp4",
        "dir//film.mp4",
        "dir/film.mp4/",
        "dir/film.mp4/x",
        "../secret.mp4",
        "dir/../../secret.mp4",
        "dir/../dir/film.mp4",
        "./dir/film.mp4",
        "a\0b",
        "a\nb",
        "a\x7fb",
        "dir\\film.mp4",
        "x" * 300,
        "\udcff",
    ],
)
async def test_invalid_name_is_not_found(folder: Path, name: str) -> None:
    assert await failure_of(folder, name) is OriginFailure.NOT_FOUND


async def test_absolute_name_is_not_taken_from_the_root(folder: Path) -> None:
    assert await failure_of(folder, str(folder / "dir/film.mp4")) is OriginFailure.NOT_FOUND


async def test_links_out_of_the_folder_are_not_found(folder: Path) -> None:
    (folder / "file.mp4").symlink_to(folder.parent / "secret.mp4")
    (folder / "relative.mp4").symlink_to("../secret.mp4")
    (folder / "sibling").symlink_to(folder.parent / "media-private")
    (folder / "up").symlink_to("..")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    for name in (
        "file.mp4",
        "relative.mp4",
        "sibling/secret.mp4",
        "up/secret.mp4",
        "loop.mp4",
        "dangling.mp4",
    ):
        assert await failure_of(folder, name) is OriginFailure.NOT_FOUND


async def test_links_inside_the_folder_are_followed(folder: Path) -> None:
    (folder / "link.mp4").symlink_to("dir/film.mp4")
    (folder / "again").symlink_to(folder / "dir")
    (folder.parent / "root").symlink_to(folder)
    for root, name in ((folder, "link.mp4"), (folder, "again/film.mp4")):
        assert await read_all(await DirectoryOrigin(root).read(name)) == FILM
    assert await read_all(await DirectoryOrigin(folder.parent / "root").read("link.mp4")) == FILM


async def test_pipes_and_folders_are_not_objects(folder: Path) -> None:
    os.mkfifo(folder / "pipe.mp4")
    (folder / "folder.mp4").mkdir()
    assert await failure_of(folder, "pipe.mp4") is OriginFailure.NOT_FOUND
    assert await failure_of(folder, "folder.mp4") is OriginFailure.NOT_FOUND


async def test_missing_folder_is_not_found(tmp_path: Path) -> None:
    assert await failure_of(tmp_path / "none", "film.mp4") is OriginFailure.NOT_FOUND


async def test_unreadable_file_is_forbidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert await failure_of(folder, "dir/film.mp4") is OriginFailure.FORBIDDEN


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    segments=st.lists(
        st.sampled_from(["..", ".", "", "dir", "up", "film.mp4", "secret.mp4", "media-private"]),
        max_size=8,
    )
)
def test_no_path_reads_a_file_outside_the_folder(folder: Path, segments: list[str]) -> None:
    up = folder / "up"
    if not up.is_symlink():
        up.symlink_to("..")

    async def walk() -> bytes | OriginFailure:
        try:
            return await read_all(await DirectoryOrigin(folder).read("/".join(segments)))
        except OriginError as error:
            return error.failure

    assert asyncio.run(walk()) in (FILM, OriginFailure.NOT_FOUND)


# --- versions and change --------------------------------------------------------------------


async def test_new_bytes_are_a_new_version(folder: Path) -> None:
    origin = DirectoryOrigin(folder)
    version = (await origin.head("dir/film.mp4")).version
    assert await read_all(await origin.read("dir/film.mp4", if_match=version)) == FILM
    assert await origin.read("dir/film.mp4", if_none_match=version) is None
    (folder / "new.mp4").write_bytes(FILM)
    (folder / "new.mp4").replace(folder / "dir/film.mp4")
    assert (await origin.head("dir/film.mp4")).version != version
    with pytest.raises(OriginError) as caught:
        await origin.read("dir/film.mp4", if_match=version)
    assert caught.value.failure is OriginFailure.CHANGED
    assert await read_all(await origin.read("dir/film.mp4", if_none_match=version)) == FILM
    assert not open_descriptors()


async def test_replaced_file_is_read_to_its_end(folder: Path) -> None:
    read = await DirectoryOrigin(folder).read("dir/film.mp4")
    (folder / "new.mp4").write_bytes(b"new")
    (folder / "new.mp4").replace(folder / "dir/film.mp4")
    assert await read_all(read) == FILM


@pytest.mark.parametrize(
    ("size_bytes", "failure"),
    [(PIECE_MAX_BYTES, OriginFailure.BROKEN), (len(FILM) + 1, OriginFailure.CHANGED)],
)
async def test_file_that_changes_while_read_is_broken_or_changed(
    folder: Path, size_bytes: int, failure: OriginFailure
) -> None:
    read = await DirectoryOrigin(folder).read("dir/film.mp4")
    assert read is not None
    pieces = read.pieces()
    assert await anext(pieces) == FILM[:PIECE_MAX_BYTES]
    os.truncate(folder / "dir/film.mp4", size_bytes)
    with pytest.raises(OriginError) as caught:
        await anext(pieces)
    assert caught.value.failure is failure
    await read.close()
    assert not open_descriptors()


async def test_unknown_version_of_another_size_has_changed(folder: Path) -> None:
    with pytest.raises(OriginError) as caught:
        await DirectoryOrigin(folder).read("dir/film.mp4", if_match=Version("", 1))
    assert caught.value.failure is OriginFailure.CHANGED


# --- cancellation ---------------------------------------------------------------------------


async def test_read_after_close_is_broken(folder: Path) -> None:
    read = await DirectoryOrigin(folder).read("dir/film.mp4")
    assert read is not None
    await read.close()
    with pytest.raises(OriginError) as caught:
        await anext(read.pieces())
    assert caught.value.failure is OriginFailure.BROKEN


async def test_cancelled_open_leaves_no_file_open(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, go_on = Event(), Event()
    open_file = os.open

    def open_slowly(path: str, flags: int) -> int:
        opening.set()
        assert go_on.wait(PATIENCE_S)
        return open_file(path, flags)

    monkeypatch.setattr(os, "open", open_slowly)
    reading = asyncio.create_task(DirectoryOrigin(folder).read("dir/film.mp4"))
    await asyncio.to_thread(opening.wait, 10)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    go_on.set()
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
    assert not open_descriptors()


async def test_close_waits_for_a_cancelled_piece(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = Event(), Event()
    pread = os.pread

    def pread_slowly(descriptor: int, size_bytes: int, position: int) -> bytes:
        inside.set()
        assert go_on.wait(PATIENCE_S)
        return pread(descriptor, size_bytes, position)

    monkeypatch.setattr(os, "pread", pread_slowly)
    read = await DirectoryOrigin(folder).read("dir/film.mp4")
    assert read is not None
    taking = asyncio.ensure_future(anext(read.pieces()))
    await asyncio.to_thread(inside.wait, 10)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    closing = asyncio.create_task(read.close())
    assert open_descriptors()
    go_on.set()
    await closing
    assert not open_descriptors()
