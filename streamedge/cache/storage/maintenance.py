"""What an operator does to cached objects: purge one, verify the bytes of one.

Workers may use the files meanwhile: a purged object's record is refused by all of them from the
next request on, and a file that is removed is marked, so that they close it. All functions block on
the disk; call them in a thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from streamedge.cache.rfc9111.vary import vary_slot_key
from streamedge.cache.storage.changes import ChangeCounter
from streamedge.cache.storage.extent import (
    ChunkEntry,
    chunks_being_filled,
    has_header,
    is_chunk_sound,
    read_chunk_table,
    unlink_extent,
)
from streamedge.cache.storage.folder import RECORDS, cached_path
from streamedge.cache.storage.inspection import CachedObject, extent_files
from streamedge.cache.storage.records import Record, is_body_sound


class Verification(NamedTuple):
    """The result of a check: bytes read, and the files that were damaged and are removed."""

    checked_bytes: int = 0
    damaged: tuple[str, ...] = ()


def purge(root: Path, changes: ChangeCounter, cached: CachedObject) -> None:
    """Removes an object, and all that was made from it, in the cache of this edge.

    No worker serves it again, not even one that has it open. Raises OSError.
    """
    record = cached.record
    changes.announce(record.key, vary_slot_key(record.key))
    for _index, path, _body_bytes, _digest in extent_files(root, record):
        _remove_extent(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(cached_path(root, RECORDS, cached.id))


def verify(root: Path, cached: CachedObject) -> Iterator[Verification]:
    """Reads an object's cached bytes and compares their CRCs, one file after the other.

    A damaged file is removed, and its bytes are fetched again. Chunks that a worker is filling are
    left out. Raises OSError.
    """
    record = cached.record
    if record.is_marker:
        return
    if record.body_crc is not None:
        yield _verify_body(Path(cached_path(root, RECORDS, cached.id)), record)
        return
    for _index, path, body_bytes, digest in extent_files(root, record):
        yield _verify_extent(path, body_bytes, digest)


def _verify_body(path: Path, record: Record) -> Verification:
    try:
        _line, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return Verification()
    if is_body_sound(record, body):
        return Verification(len(body))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return Verification(len(body), (str(path),))


def _verify_extent(path: Path, body_bytes: int, digest: bytes) -> Verification:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Verification()
    try:
        is_sound = has_header(fd, body_bytes, digest)
        checked_bytes = 0
        for chunk, entry in enumerate(read_chunk_table(fd, body_bytes)):
            checked_bytes += entry.valid_bytes
            if is_sound and not is_chunk_sound(fd, chunk, entry):
                is_sound = _has_changed(fd, body_bytes, chunk, entry)
    finally:
        os.close(fd)
    if is_sound:
        return Verification(checked_bytes)
    _remove_extent(path)
    return Verification(checked_bytes, (str(path),))


def _has_changed(fd: int, body_bytes: int, chunk: int, entry: ChunkEntry) -> bool:
    """Whether a worker has written to a chunk, or is about to, since its entry was read."""
    if any(run.start <= chunk < run.end for run in chunks_being_filled(fd, body_bytes)):
        return True
    return read_chunk_table(fd, body_bytes)[chunk] != entry


def _remove_extent(path: Path) -> None:
    """Removes an extent for all workers. Raises OSError."""
    fd = unlink_extent(str(path))
    if fd is not None:
        os.close(fd)
