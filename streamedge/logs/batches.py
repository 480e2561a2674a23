"""The control process' side of the spool: complete segments become batches, one file each.

A batch is a folder of segments with a name of its own, which is the name of the delivered file, so
a delivery that is repeated replaces the file. Once a batch may have been sent, nothing is added to
it. It is renamed before it is removed, so one that is removed only in part is never sent again. So
a process may end at any point, and no line is lost or delivered twice.

Source of the file name: CloudFront Developer Guide, "Configuring and using standard logs", "File
name format". All functions here block.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

from isal import isal_zlib

from streamedge.logs.blocks import COMPRESSION_LEVEL, GZIP_WBITS, count_lines, whole_blocks
from streamedge.logs.spool import NEW_PREFIX
from streamedge.logs.spool_names import (
    UNIQUE_ALPHABET,
    UNIQUE_CHARACTERS,
    BatchName,
    LogFormat,
    SegmentName,
    parse_batch,
    parse_segment,
)

SPOOL_FOLDER: Final = "logs"
"""The spool folder, in the cache folder."""

BATCH_BYTES: Final = 32 << 20
"""Of segments, compressed or not, that are delivered before the interval is over."""

GRACE_S: Final = 2.0  # for segments of other workers whose interval ends at the same time
_COPY_BYTES: Final = 1 << 20
_SEGMENTS, _BATCHES, _FILES = "segments", "batches", "files"
_REMOVED_PREFIX = ".removed-"


def segments_folder(root: Path) -> Path:
    """Where workers write segments; ``root`` is the spool folder."""
    return root / _SEGMENTS


def prepare_spool(root: Path) -> None:
    """Creates the spool folder and removes what killed processes left. Raises OSError.

    Called before any process writes.
    """
    for name in (_SEGMENTS, _BATCHES, _FILES):
        (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in (*segments_folder(root).glob(f"{NEW_PREFIX}*"), *(root / _FILES).iterdir()):
        left.unlink()
    for removed in (root / _BATCHES).glob(f"{_REMOVED_PREFIX}*"):
        shutil.rmtree(removed)


class Batch(NamedTuple):
    """A batch with segments of ``size_bytes``; ``due_s``: when its oldest lines were due."""

    path: Path
    name: BatchName
    size_bytes: int
    due_s: int


@dataclass(frozen=True, slots=True)
class SpoolState:
    """The batches that wait for delivery, the oldest first; ``size_bytes`` with all segments."""

    batches: tuple[Batch, ...]
    size_bytes: int


class _Segment(NamedTuple):
    name: SegmentName
    path: Path
    size_bytes: int


def make_batches(root: Path, now_s: float, *, is_last: bool = False) -> None:
    """Makes batches of the complete segments that are due, or large enough together.

    ``is_last``: of all complete segments, because the edge stops. Raises OSError.
    """
    for (distribution, log_format, hour), group in groupby(sorted(_segments(root)), _log_of):
        due: list[_Segment] = []
        size_bytes = 0
        complete = [one for one in group if _is_complete(one)]
        is_due = is_last or any(one.name.due_s + GRACE_S <= now_s for one in complete)
        total_bytes = sum(one.size_bytes for one in complete)
        if not is_due and total_bytes < BATCH_BYTES:
            continue
        for segment in complete:
            due.append(segment)
            size_bytes += segment.size_bytes
            if size_bytes >= BATCH_BYTES:
                _make_batch(root, BatchName(distribution, log_format, hour, _unique()), due)
                due, size_bytes = [], 0
        if due:
            _make_batch(root, BatchName(distribution, log_format, hour, _unique()), due)


def spool_state(root: Path) -> SpoolState:
    """What waits in the spool. Raises OSError."""
    batches = []
    for path in (root / _BATCHES).iterdir():
        name = parse_batch(path.name)
        if name is None:
            continue
        try:
            segments = list(_named(path.iterdir()))
        except FileNotFoundError:  # its delivery has just removed it
            continue
        if not segments:  # its maker was killed
            path.rmdir()
            continue
        size_bytes = sum(one.size_bytes for one in segments)
        due_s = min(one.name.due_s for one in segments)
        batches.append(Batch(path, name, size_bytes, due_s))
    batches.sort(key=lambda batch: (batch.due_s, batch.path))
    size_bytes = sum(batch.size_bytes for batch in batches)
    size_bytes += sum(segment.size_bytes for segment in _segments(root))
    return SpoolState(tuple(batches), size_bytes)


def compress(root: Path, batch: Batch) -> Path:
    """Writes the batch's file, as it is delivered; returns its path. Raises OSError.

    The same batch gives the same bytes. A line without its end, or a block without, is left out:
    its writer was killed while it wrote it.
    """
    path = root / _FILES / batch.name.file_name
    with open(path, "wb") as raw:
        os.chmod(path, 0o600)
        compressor = isal_zlib.compressobj(COMPRESSION_LEVEL, wbits=GZIP_WBITS)
        raw.write(compressor.compress(batch.name.format.head.encode("ascii")))
        segments = sorted(_named(batch.path.iterdir()))
        for segment in segments:
            if not segment.name.is_compressed:
                for lines in _whole_lines(segment.path):
                    raw.write(compressor.compress(lines))
        raw.write(compressor.flush())
        for segment in segments:
            if segment.name.is_compressed:
                with open(segment.path, "rb") as blocks:
                    raw.writelines(whole_blocks(blocks))
    return path


def remove_batch(root: Path, batch: Batch) -> None:
    """Removes a batch that was delivered, and its file. Raises OSError."""
    removed = batch.path.with_name(f"{_REMOVED_PREFIX}{batch.path.name}")
    batch.path.rename(removed)
    shutil.rmtree(removed)
    with contextlib.suppress(FileNotFoundError):
        (root / _FILES / batch.name.file_name).unlink()


def drop_oldest(root: Path, limit_bytes: int, in_use: Container[BatchName]) -> dict[str, int]:
    """Removes the oldest batches, but those ``in_use``, until the spool is within its limit.

    Returns the number of lines by distribution. Raises OSError.
    """
    state = spool_state(root)
    left_bytes = state.size_bytes
    lines: dict[str, int] = {}
    for batch in state.batches:
        if left_bytes <= limit_bytes:
            break
        if batch.name in in_use:
            continue
        count = sum(map(_count_lines, _named(batch.path.iterdir())))
        distribution = batch.name.distribution
        lines[distribution] = lines.get(distribution, 0) + count
        remove_batch(root, batch)
        left_bytes -= batch.size_bytes
    return lines


def _segments(root: Path) -> Iterator[_Segment]:
    return _named(segments_folder(root).iterdir())


def _named(paths: Iterable[Path]) -> Iterator[_Segment]:
    for path in paths:
        name = parse_segment(path.name)
        if name is not None:
            with contextlib.suppress(FileNotFoundError):
                yield _Segment(name, path, path.stat().st_size)


def _log_of(segment: _Segment) -> tuple[str, LogFormat, int]:
    name = segment.name
    return name.distribution, name.format, name.hour


def _is_complete(segment: _Segment) -> bool:
    """Whether the writer has closed the file, or has ended: then its lock is gone."""
    fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _make_batch(root: Path, name: BatchName, segments: Iterable[_Segment]) -> None:
    folder = root / _BATCHES / str(name)
    folder.mkdir(mode=0o700)
    for segment in segments:
        segment.path.rename(folder / segment.path.name)


def _whole_lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as segment:
        rest = b""
        while data := segment.read(_COPY_BYTES):
            data = rest + data
            end = data.rfind(b"\n") + 1
            yield data[:end]
            rest = data[end:]


def _count_lines(segment: _Segment) -> int:
    with open(segment.path, "rb") as file:
        if segment.name.is_compressed:
            return sum(map(count_lines, whole_blocks(file)))
        return sum(data.count(b"\n") for data in iter(lambda: file.read(_COPY_BYTES), b""))


def _unique() -> str:
    return "".join(secrets.choice(UNIQUE_ALPHABET) for _ in range(UNIQUE_CHARACTERS))
