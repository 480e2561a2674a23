"""Batches of the spool: no line is lost or doubled, wherever a process is killed."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from streamedge.logs import batches
from streamedge.logs.batches import (
    BATCH_BYTES,
    GRACE_S,
    compress,
    drop_oldest,
    make_batches,
    prepare_spool,
    remove_batch,
    segments_folder,
    spool_state,
)
from streamedge.logs.blocks import compress_block
from streamedge.logs.cloudfront import HEAD
from streamedge.logs.spool_names import (
    LogFormat,
    SegmentName,
    due_s,
    format_hour,
    parse_batch,
    parse_hour,
    parse_segment,
)

HOUR = 439_000
DUE_S = HOUR * 3600 + 300


class KilledError(Exception):
    """In place of the end of the process."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    prepare_spool(tmp_path / "logs")
    return tmp_path / "logs"


def add_segment(
    root: Path, data: bytes, writer: str, distribution: str = "EWEB", hour: int = HOUR
) -> Path:
    name = SegmentName(distribution, LogFormat.WEB, hour, DUE_S, writer)
    path = segments_folder(root) / str(name)
    path.write_bytes(data)
    return path


def add_blocks(root: Path, data: bytes, writer: str) -> Path:
    name = SegmentName("EWEB", LogFormat.WEB, HOUR, DUE_S, writer, is_compressed=True)
    path = segments_folder(root) / str(name)
    path.write_bytes(data)
    return path


def delivered(root: Path) -> list[bytes]:
    """The lines of the files of all batches."""
    lines = []
    for batch in spool_state(root).batches:
        lines += gzip.decompress(compress(root, batch).read_bytes()).splitlines()[2:]
    return lines


def test_names_are_read_as_they_were_written() -> None:
    segment = SegmentName("E_1-a", LogFormat.RTMP, HOUR, DUE_S, "worker-0-1f-3")
    assert parse_segment(str(segment)) == segment
    compressed = segment._replace(is_compressed=True)
    assert parse_segment(str(compressed)) == compressed
    assert parse_hour(format_hour(HOUR)) == HOUR
    assert parse_segment("x") is None
    assert parse_segment("a.2020-01-01-00.web.x.y") is None
    assert parse_batch(str(segment)) is None


def test_intervals_end_at_the_same_time_in_all_processes() -> None:
    assert due_s(300, 600) == due_s(300, 899.9) == 900
    assert due_s(1.5, 3.1) == 5


def test_segments_of_workers_become_one_file_when_they_are_due(root: Path) -> None:
    add_segment(root, b"a\nb\n", "w0")
    add_segment(root, b"c\n", "w1")
    add_segment(root, b"d\n", "w0", "OTHER")
    make_batches(root, DUE_S)
    assert spool_state(root).batches == ()
    make_batches(root, DUE_S + GRACE_S)
    first, second = spool_state(root).batches
    assert {first.name.distribution, second.name.distribution} == {"EWEB", "OTHER"}
    web = first if first.name.distribution == "EWEB" else second
    path = compress(root, web)
    assert path.name == f"EWEB.{format_hour(HOUR)}.{web.name.unique}.gz"
    assert gzip.decompress(path.read_bytes()) == HEAD.encode() + b"a\nb\nc\n"
    assert path.read_bytes() == compress(root, web).read_bytes()


def test_hours_are_files_of_their_own(root: Path) -> None:
    add_segment(root, b"a\n", "w0")
    add_segment(root, b"b\n", "w0", hour=HOUR + 1)
    make_batches(root, DUE_S + GRACE_S)
    assert {batch.name.hour for batch in spool_state(root).batches} == {HOUR, HOUR + 1}


def test_a_segment_that_is_written_waits_for_its_writer_to_end(root: Path) -> None:
    path = add_segment(root, b"a\n", "w0")
    add_segment(root, b"b\n", "w1")
    fd = os.open(path, os.O_WRONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    make_batches(root, DUE_S + GRACE_S)
    assert delivered(root) == [b"b"]
    os.close(fd)  # as when the process is killed
    make_batches(root, DUE_S + GRACE_S)
    assert sorted(delivered(root)) == [b"a", b"b"]


def test_the_line_that_a_killed_worker_was_writing_is_left_out(root: Path) -> None:
    add_segment(root, b"whole\nhal", "w0")
    add_segment(root, b"next\n", "w1")
    make_batches(root, DUE_S + GRACE_S)
    assert delivered(root) == [b"whole", b"next"]


def test_compressed_lines_are_delivered_as_they_are_beside_others(root: Path) -> None:
    blocks = compress_block([b"a\nb", b"\n"]), compress_block([b"c\n"])
    add_blocks(root, b"".join(blocks), "w0")
    add_segment(root, b"d\n", "w0")
    add_blocks(root, blocks[1] + blocks[0][:-1], "w1")  # its writer was killed
    make_batches(root, DUE_S + GRACE_S)
    (batch,) = spool_state(root).batches
    path = compress(root, batch)
    assert gzip.decompress(path.read_bytes()) == HEAD.encode() + b"d\na\nb\nc\nc\n"
    assert b"".join(blocks) in path.read_bytes()
    assert path.read_bytes() == compress(root, batch).read_bytes()
    assert drop_oldest(root, 0, set()) == {"EWEB": 5}


def test_much_is_delivered_before_it_is_due(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_BYTES", 4)
    assert BATCH_BYTES == 32 << 20
    for number in range(5):
        add_segment(root, b"%d\n" % number, f"w{number}")
    make_batches(root, 0.0)
    sizes = [batch.size_bytes for batch in spool_state(root).batches]
    assert sorted(sizes) == [2, 4, 4]
    assert sorted(delivered(root)) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("call", ["mkdir", "rename"])
@pytest.mark.parametrize("after", range(4))
def test_batch_whose_making_is_killed_has_each_line_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int
) -> None:
    for number in range(4):
        add_segment(root, b"%d\n" % number, f"w{number}")
    with monkeypatch.context() as patch:
        patch.setattr(Path, call, _killed_after(getattr(Path, call), after))
        with contextlib.suppress(KilledError):
            make_batches(root, DUE_S + GRACE_S)
    before = {batch.name for batch in spool_state(root).batches}
    prepare_spool(root)
    make_batches(root, DUE_S + GRACE_S)
    assert sorted(delivered(root)) == [b"0", b"1", b"2", b"3"]
    # What may have been sent under a name has not changed.
    assert before <= {batch.name for batch in spool_state(root).batches}


@pytest.mark.parametrize("call", ["rename", "unlink", "rmdir"])
def test_batch_whose_removal_is_killed_is_never_sent_in_part(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    for number in range(3):
        add_segment(root, b"%d\n" % number, f"w{number}")
    make_batches(root, DUE_S + GRACE_S)
    (batch,) = spool_state(root).batches
    whole = compress(root, batch).read_bytes()
    with monkeypatch.context() as patch:
        if call == "rename":
            patch.setattr(Path, call, _killed_after(Path.rename, 0))
        else:
            patch.setattr(os, call, _killed_after(getattr(os, call), 1 if call == "unlink" else 0))
        with pytest.raises(KilledError):
            remove_batch(root, batch)
    prepare_spool(root)
    left = spool_state(root).batches
    if call == "rename":
        assert left == (batch,)
        assert compress(root, batch).read_bytes() == whole
    else:
        assert left == ()
        assert list((root / "batches").iterdir()) == []


def test_the_oldest_lines_are_dropped_at_the_limit_but_not_what_is_being_sent(root: Path) -> None:
    for number in range(4):
        name = SegmentName("EWEB", LogFormat.WEB, HOUR, DUE_S + number, f"w{number}")
        (segments_folder(root) / str(name)).write_bytes(b"x\n" * 10)
        make_batches(root, DUE_S + number + GRACE_S)
    oldest, second, third, _fourth = spool_state(root).batches
    assert drop_oldest(root, 80, set()) == {}
    assert drop_oldest(root, 40, {oldest.name}) == {"EWEB": 20}
    left = [batch.name for batch in spool_state(root).batches]
    assert oldest.name in left
    assert second.name not in left
    assert third.name not in left


def _killed_after(call: Callable[..., object], count: int) -> Callable[..., object]:
    """``call``, which raises KilledError after ``count`` calls."""
    calls = [0]

    def counting(*arguments: object, **options: object) -> object:
        if calls[0] == count:
            raise KilledError
        calls[0] += 1
        return call(*arguments, **options)

    return counting
