"""Publication, checks, locks and eviction of one cache file."""

from __future__ import annotations

import os
import signal
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.cache.storage.extent import (
    CHECKS_MAX,
    CHUNK_BYTES,
    HEADER_BYTES,
    Extent,
    Ready,
    check_header,
    mark_evicted,
    new_header,
)
from streamedge.spans import Span
from tests.support.http.location import set_word, words_of
from tests.support.origins.scripted_origin import Pattern

DIGEST = bytes(range(32))
BODY = Pattern(3 * CHUNK_BYTES + 1000, seed=1)
Open = Callable[[int], Extent]
VALID, CRC = 0, 1


def make_file(path: Path) -> None:
    path.write_bytes(new_header(BODY.size_bytes, DIGEST).ljust(HEADER_BYTES, b"\0"))


def open_file(path: Path, era: int) -> Extent:
    return Extent(os.open(path, os.O_RDWR), str(path), BODY.size_bytes, era)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "extent"
    make_file(path)
    return path


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Opens the file, in an era, as one more worker."""
    extents: list[Extent] = []

    def open_one(era: int) -> Extent:
        extents.append(open_file(path, era))
        return extents[-1]

    yield open_one
    for extent in extents:
        extent.close()


def write(extent: Extent, start: int, end: int) -> None:
    extent.write(start, BODY.read(Span(start, end)))


def spoil(extent: Extent, position: int) -> None:
    """Turns a byte of the body over, behind the header's back."""
    (byte,) = extent.read(position, 1)
    os.pwrite(extent.fd, bytes([byte ^ 0xFF]), HEADER_BYTES + position)


# --- publication ----------------------------------------------------------------------------


def test_new_extent_has_no_valid_bytes(opened: Open) -> None:
    extent = opened(2)
    assert extent.chunks == 4
    assert [extent.valid_bytes(chunk) for chunk in range(4)] == [0, 0, 0, 0]
    assert extent.ready(0, BODY.size_bytes) is None
    assert not extent.settle()
    assert not extent.evicted


def test_bytes_of_one_worker_are_read_by_another(opened: Open) -> None:
    one, other = opened(2), opened(2)
    write(one, 0, 100)
    assert other.ready(0, BODY.size_bytes) == Ready(other.fd, HEADER_BYTES, 100)
    assert other.ready(40, 90) == Ready(other.fd, HEADER_BYTES + 40, 50)
    assert other.ready(100, 200) is None
    assert other.read(40, 50) == BODY.read(Span(40, 90))


def test_bytes_are_written_before_they_are_published(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = opened(2), opened(2)
    write(one, 0, 100)
    real = os.pwrite
    seen: list[int] = []

    def watched(fd: int, data: bytes, offset: int) -> int:
        seen.append(other.valid_bytes(0))
        written = real(fd, data, offset)
        seen.append(other.valid_bytes(0))
        return written

    monkeypatch.setattr(os, "pwrite", watched)
    write(one, 100, 300)
    assert seen == [100, 100]
    assert other.valid_bytes(0) == 300


def test_failed_write_publishes_no_bytes(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    extent = opened(2)
    real = os.pwrite
    calls: list[int] = []

    def full_at_the_second(fd: int, data: bytes, offset: int) -> int:
        calls.append(offset)
        if len(calls) == 2:
            raise OSError("disk full")
        return real(fd, data[:10], offset)

    monkeypatch.setattr(os, "pwrite", full_at_the_second)
    with pytest.raises(OSError, match="disk full"):
        write(extent, 0, 100)
    assert extent.valid_bytes(0) == 0


def test_short_writes_are_continued(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    extent = opened(2)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:7], at))
    write(extent, 0, 100)
    assert extent.read(0, 100) == BODY.read(Span(0, 100))


def test_ready_covers_whole_chunks_up_to_the_first_gap(opened: Open) -> None:
    extent = opened(2)
    write(extent, 0, CHUNK_BYTES + 10)
    write(extent, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES)
    assert extent.ready_bytes(5, BODY.size_bytes) == CHUNK_BYTES + 5
    assert extent.ready_bytes(2 * CHUNK_BYTES, BODY.size_bytes) == CHUNK_BYTES
    assert extent.ready_bytes(CHUNK_BYTES + 10, BODY.size_bytes) == 0
    assert extent.ready_bytes(CHUNK_BYTES + 11, BODY.size_bytes) == 0


def test_last_chunk_may_be_short(opened: Open) -> None:
    extent = opened(2)
    assert extent.chunk_bytes(3) == 1000
    write(extent, 0, BODY.size_bytes)
    assert extent.valid_bytes(3) == 1000
    assert extent.ready_bytes(0, BODY.size_bytes + 5) == BODY.size_bytes
    assert extent.ready_bytes(BODY.size_bytes, BODY.size_bytes + 5) == 0


def test_extent_is_complete_when_every_chunk_is_whole(opened: Open) -> None:
    extent, other = opened(2), opened(2)
    write(extent, 0, BODY.size_bytes - 1)
    assert not extent.settle()
    write(extent, BODY.size_bytes - 1, BODY.size_bytes)
    assert extent.settle()
    assert extent.complete
    assert extent.ready(1, BODY.size_bytes) == Ready(
        extent.fd, HEADER_BYTES + 1, BODY.size_bytes - 1
    )
    assert extent.ready(BODY.size_bytes, BODY.size_bytes) is None
    assert not other.complete
    assert other.settle()


# --- checks ---------------------------------------------------------------------------------


def test_crc_of_a_chunk_covers_all_its_writes(opened: Open) -> None:
    extent = opened(2)
    for start, end in ((0, 1), (1, 700), (700, CHUNK_BYTES + 9)):
        write(extent, start, end)
    first, second = Span(0, CHUNK_BYTES), Span(CHUNK_BYTES, CHUNK_BYTES + 9)
    assert words_of(extent, 0) == (CHUNK_BYTES, zlib.crc32(BODY.read(first)), 2)
    assert words_of(extent, 1) == (9, zlib.crc32(BODY.read(second)), 2)


def test_new_era_checks_chunks_and_drops_only_damaged_ones(opened: Open) -> None:
    before = opened(2)
    write(before, 0, 2 * CHUNK_BYTES + 500)
    spoil(before, CHUNK_BYTES + 77)
    after = opened(3)
    assert [after.valid_bytes(chunk) for chunk in range(4)] == [CHUNK_BYTES, 0, 500, 0]
    assert after.ready_bytes(0, BODY.size_bytes) == CHUNK_BYTES
    assert after.lock(Span(1, 2)) == Span(1, 2)
    assert after.resume(1) == 0
    write(after, CHUNK_BYTES, 2 * CHUNK_BYTES)
    assert after.ready_bytes(0, BODY.size_bytes) == 2 * CHUNK_BYTES + 500


def test_no_chunk_is_checked_within_its_era(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    extent = opened(2)
    write(extent, 0, CHUNK_BYTES)
    opened(3).valid_bytes(0)
    again = opened(3)
    monkeypatch.setattr(os, "pread", None)
    assert again.valid_bytes(0) == CHUNK_BYTES
    assert again.ready_bytes(0, CHUNK_BYTES) == CHUNK_BYTES
    assert again.resume(0) == CHUNK_BYTES


@pytest.mark.parametrize("valid", [CHUNK_BYTES + 1, 2**32 - 1])
def test_impossible_number_of_valid_bytes_is_dropped(opened: Open, valid: int) -> None:
    before = opened(2)
    write(before, 0, CHUNK_BYTES)
    set_word(before, 0, VALID, valid)
    assert opened(3).valid_bytes(0) == 0


def test_truncated_file_loses_its_missing_chunks(opened: Open) -> None:
    before = opened(2)
    write(before, 0, 2 * CHUNK_BYTES)
    os.ftruncate(before.fd, HEADER_BYTES + CHUNK_BYTES + 5)
    after = opened(3)
    assert [after.valid_bytes(chunk) for chunk in range(2)] == [CHUNK_BYTES, 0]


def test_torn_publication_is_dropped_on_resume(opened: Open) -> None:
    extent = opened(2)
    write(extent, 0, 100)
    write(extent, CHUNK_BYTES, CHUNK_BYTES + 100)
    set_word(extent, 0, CRC, 12345)
    assert extent.resume(0) == 0
    assert extent.resume(1) == 100
    write(extent, 0, 40)
    assert extent.resume(0) == 40


def test_damaged_chunk_that_another_worker_fills_is_not_changed(opened: Open) -> None:
    filler, reader = opened(2), opened(3)
    write(filler, 0, 100)
    spoil(filler, 50)
    assert filler.lock(Span(0, 1)) == Span(0, 1)
    assert reader.valid_bytes(0) == 0
    assert words_of(filler, 0)[VALID] == 100


# --- locks ----------------------------------------------------------------------------------


def test_two_workers_never_lock_one_chunk(opened: Open) -> None:
    one, other = opened(2), opened(2)
    assert one.lock(Span(1, 3)) == Span(1, 3)
    assert other.lock(Span(1, 2)).size == 0
    assert other.lock(Span(2, 4)).size == 0
    one.unlock(Span(1, 3))
    assert other.lock(Span(1, 3)) == Span(1, 3)


def test_lock_takes_the_first_free_run(opened: Open) -> None:
    one, other, third = opened(2), opened(2), opened(2)
    assert one.lock(Span(3, 4)) == Span(3, 4)
    assert other.lock(Span(1, 2)) == Span(1, 2)
    assert third.lock(Span(0, 4)) == Span(0, 1)
    other.unlock(Span(1, 2))
    assert third.lock(Span(1, 4)) == Span(1, 3)
    assert third.lock(Span(0, 0)).size == 0


def test_lock_has_one_owner_within_a_worker(opened: Open) -> None:
    one, other = opened(2), opened(2)
    assert one.lock(Span(1, 3)) == Span(1, 3)
    assert one.lock(Span(0, 4)) == Span(0, 1)
    assert one.lock(Span(1, 2)).size == 0
    one.unlock(Span(0, 1))
    assert other.lock(Span(0, 4)) == Span(0, 1)
    assert one.is_locked_elsewhere(0)
    assert not one.is_locked_elsewhere(1)
    assert other.is_locked_elsewhere(1)


def test_close_releases_the_locks(opened: Open, path: Path) -> None:
    gone = open_file(path, 2)
    other = opened(2)
    assert gone.lock(Span(0, 4)) == Span(0, 4)
    assert other.lock(Span(0, 4)).size == 0
    gone.close()
    assert other.lock(Span(0, 4)) == Span(0, 4)


def test_killed_process_holds_no_lock(opened: Open, path: Path) -> None:
    hears, says = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            extent = open_file(path, 2)
            os.write(says, b"%d" % extent.lock(Span(0, 4)).size)
            signal.pause()
        finally:
            os._exit(1)
    extent = opened(2)
    try:
        assert os.read(hears, 1) == b"4"
        assert extent.lock(Span(0, 4)).size == 0
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(hears)
        os.close(says)
    assert extent.lock(Span(0, 4)) == Span(0, 4)


# --- header and eviction --------------------------------------------------------------------


def test_header_identifies_the_extent() -> None:
    header = new_header(BODY.size_bytes, DIGEST)
    assert check_header(header.ljust(64, b"\0"), BODY.size_bytes, DIGEST)
    assert not check_header(header, BODY.size_bytes + 1, DIGEST)
    assert not check_header(header, BODY.size_bytes, bytes(32))
    assert not check_header(header[:-1], BODY.size_bytes, DIGEST)
    assert not check_header(b"", BODY.size_bytes, DIGEST)


@settings(deadline=None)
@given(st.integers(0, 47), st.integers(1, 255))
def test_every_byte_of_the_header_counts(place: int, change: int) -> None:
    header = bytearray(new_header(BODY.size_bytes, DIGEST))
    header[place] ^= change
    assert not check_header(bytes(header), BODY.size_bytes, DIGEST)


def test_evicted_file_is_marked_for_all_workers(opened: Open, path: Path) -> None:
    one, other = opened(2), opened(2)
    write(one, 0, 100)
    descriptor = os.open(path, os.O_WRONLY)
    mark_evicted(descriptor)
    os.close(descriptor)
    assert one.evicted
    assert other.evicted
    assert other.read(0, other.ready_bytes(0, 100)) == BODY.read(Span(0, 100))
    assert not check_header(os.pread(one.fd, 64, 0), BODY.size_bytes, DIGEST)


# --- a model --------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3), st.integers(1, 2 * CHUNK_BYTES)),
        st.tuples(st.just("read"), st.integers(0, BODY.size_bytes), st.integers(0, 3 * 65536)),
        st.tuples(st.just("spoil"), st.integers(0, 3), st.integers(0, CHUNK_BYTES)),
        st.tuples(st.just("new era"), st.just(0), st.just(0)),
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_extent_behaves_like_its_model(steps: list[tuple[str, int, int]]) -> None:
    """The model is the valid bytes of each chunk; damaged chunks end with their era."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "extent")
        make_file(path)
        era = 2
        extent = open_file(path, era)
        valid = [0, 0, 0, 0]
        spoiled: set[int] = set()
        for step, first, second in steps:
            if step == "write":
                position = first * CHUNK_BYTES + valid[first]
                end = min(position + second, BODY.size_bytes)
                for chunk in range(first + 1, 4):  # a fill writes missing bytes only
                    if valid[chunk]:
                        end = min(end, chunk * CHUNK_BYTES)
                        break
                if first in spoiled or end <= position:
                    continue
                write(extent, position, end)
                for piece in Span(position, end).split(CHUNK_BYTES):
                    valid[piece.start // CHUNK_BYTES] = piece.end - piece.start // 65536 * 65536
            elif step == "read":
                reach = first
                while reach < BODY.size_bytes:
                    chunk, within = divmod(reach, CHUNK_BYTES)
                    if valid[chunk] <= within:
                        break
                    reach = chunk * CHUNK_BYTES + valid[chunk]
                    if valid[chunk] < CHUNK_BYTES:
                        break
                expected = max(0, min(reach, first + second) - first)
                assert extent.ready_bytes(first, first + second) == expected
                span = Span(first, first + expected)
                if not any(span.intersect(chunk_span(chunk)).size for chunk in spoiled):
                    assert extent.read(first, expected) == BODY.read(span)
            elif step == "spoil":
                if second < valid[first] and first not in spoiled:
                    spoil(extent, first * CHUNK_BYTES + second)
                    spoiled.add(first)
            else:
                extent.close()
                era += 1
                extent = open_file(path, era)
                for chunk in spoiled:
                    valid[chunk] = 0
                spoiled.clear()
                assert [extent.valid_bytes(chunk) for chunk in range(4)] == valid
        assert extent.settle() == (sum(valid) == BODY.size_bytes)
        extent.close()


def chunk_span(chunk: int) -> Span:
    return Span(chunk * CHUNK_BYTES, (chunk + 1) * CHUNK_BYTES)


def test_ready_checks_a_limited_number_of_chunks(tmp_path: Path) -> None:
    chunks = 4 * CHECKS_MAX
    body = os.urandom(chunks * CHUNK_BYTES)
    fd = os.open(tmp_path / "extent", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, new_header(len(body), b"\0" * 32), 0)
    os.ftruncate(fd, HEADER_BYTES)
    before = Extent(fd, str(tmp_path / "extent"), len(body), era=1)
    before.write(0, body)
    before.close()
    extent = Extent(
        os.open(tmp_path / "extent", os.O_RDWR), str(tmp_path / "extent"), len(body), era=2
    )
    position = looks = 0
    while position < len(body):
        checks = extent.checks
        ready = extent.ready_bytes(position, len(body))
        assert ready > 0
        assert extent.checks - checks <= CHECKS_MAX
        position += ready
        looks += 1
    assert looks == chunks // CHECKS_MAX
    assert extent.complete
    extent.close()
