"""What the cache folder holds, for operators: objects, their cached ranges, their versions.

It reads the files of the folder as they are: it opens nothing for writing, checks no CRC and takes
no lock, so it disturbs no worker. All functions block on the disk; call them in a thread.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from streamedge.cache.storage.eviction import BLOCK_BYTES
from streamedge.cache.storage.extent import (
    CHUNK_BYTES,
    EXTENT_BYTES,
    ChunkEntry,
    chunks_being_filled,
    has_header,
    read_chunk_table,
)
from streamedge.cache.storage.folder import EXTENTS, RECORDS, cached_path, read_era
from streamedge.cache.storage.pins import is_digest, pinned
from streamedge.cache.storage.records import Record, decode_record_line
from streamedge.cache.storage.store import extent_identity
from streamedge.control.invalidations import matches_pieces
from streamedge.keys import split_key
from streamedge.origin import UNKNOWN_BYTES

OBJECTS_MAX = 1000  # in one page
PAGE_S = 0.25  # a page ends after this time, with fewer objects
_READ_BYTES = 96 * 1024  # of a record's file: all of it but very long header fields


class ObjectKind(Enum):
    """How an object's key was made."""

    OBJECT = "object"
    VARIANT = "variant"  # one of several responses that Vary tells apart
    COMPRESSED = "compressed"
    PACKAGED = "packaged"  # for RTMP: as FLV, or a segment of a container file
    VARIANTS = "variants"  # a marker: the fields by which the variants differ


class RangeState(Enum):
    """The state of a range of an object that has bytes here."""

    CACHED = "cached"
    UNCHECKED = "unchecked"  # written before power failed: its CRC is checked at its first use
    FILLING = "filling"  # a worker is writing it now


class CachedRange(NamedTuple):
    """The bytes ``start <= position < end`` of an object."""

    start: int
    end: int
    state: RangeState


class KeyParts(NamedTuple):
    """What a cache key says: ``details`` are the parts behind the name, such as the query."""

    kind: ObjectKind
    identity: str
    name: str
    details: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CachedObject:
    """One object of the cache. ``id`` is the name of its record's file.

    ``size_bytes`` is None until it is known. ``ranges`` are in order and do not overlap.
    ``used_s``: seconds since 1970, at most a minute old.
    """

    id: str
    record: Record
    parts: KeyParts
    size_bytes: int | None
    ranges: tuple[CachedRange, ...]
    disk_bytes: int
    used_s: float
    is_pinned: bool

    @property
    def cached_bytes(self) -> int:
        """How many of its bytes are here."""
        return sum(
            one.end - one.start for one in self.ranges if one.state is not RangeState.FILLING
        )


@dataclass(frozen=True, slots=True)
class CachePage:
    """Objects in the order of their ids. ``cursor``: where the next page begins; "": at the end.

    ``scanned``: how many records were read for it.
    """

    objects: tuple[CachedObject, ...]
    cursor: str
    scanned: int


def parse_key(key: str) -> KeyParts:
    """What a cache key says; a key of an unknown form is the name of an object."""
    try:
        first, *rest = split_key(key)
    except ValueError:
        return KeyParts(ObjectKind.OBJECT, "", key, ())
    kinds = {
        "variant": ObjectKind.VARIANT,
        "compressed": ObjectKind.COMPRESSED,
        "flv": ObjectKind.PACKAGED,
        "segment": ObjectKind.PACKAGED,
    }
    if first in kinds and rest:
        source = parse_key(rest[0])
        return KeyParts(kinds[first], source.identity, source.name, (*source.details, *rest[1:]))
    return KeyParts(ObjectKind.OBJECT, first, rest[0] if rest else "", tuple(rest[1:]))


class CacheInspector:
    """Reads the cache folder ``root``.

    ``clock`` limits the time of a page, in seconds.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock

    def page(
        self, cursor: str = "", pattern: str = "", identity: str = "", limit: int = OBJECTS_MAX
    ) -> CachePage:
        """The objects from the id ``cursor`` on.

        ``pattern``: text in the name; with "*" the whole name. ``identity``: of one origin only.
        Raises OSError if the folder cannot be read.
        """
        until_s = self._clock() + PAGE_S
        era, pins = self._era(), pinned(self._root)
        objects: list[CachedObject] = []
        scanned = 0
        matches = _matcher(pattern)
        for digest in self._digests(cursor):
            if len(objects) >= limit or (scanned and self._clock() >= until_s):
                return CachePage(tuple(objects), digest, scanned)
            scanned += 1
            loaded = self._load(digest)
            if loaded is None:
                continue
            record, status = loaded
            parts = parse_key(record.key)
            if matches(parts.name) and identity in ("", parts.identity):
                objects.append(
                    self._describe(digest, record, parts, status, era, is_pinned=digest in pins)
                )
        return CachePage(tuple(objects), "", scanned)

    def find(self, digest: str) -> CachedObject | None:
        """The object with an id, or None. Raises OSError."""
        loaded = self._load(digest) if is_digest(digest) else None
        if loaded is None:
            return None
        record, status = loaded
        is_pinned = digest in pinned(self._root)
        return self._describe(
            digest, record, parse_key(record.key), status, self._era(), is_pinned=is_pinned
        )

    def ids(self) -> Iterator[str]:
        """The ids of all objects, in order. Raises OSError."""
        return self._digests("")

    def pinned_paths(self) -> frozenset[str]:
        """The files of all pinned objects. Raises OSError."""
        paths = set()
        for digest in pinned(self._root):
            loaded = self._load(digest)
            if loaded is not None:
                paths.add(f"{self._root}/assets/{digest[:2]}/{digest}")
                paths.update(str(path) for _index, path, *_ in extent_files(self._root, loaded[0]))
        return frozenset(paths)

    def pinned_bytes(self) -> int:
        """The disk space of all pinned objects. Raises OSError."""
        objects = (self.find(digest) for digest in pinned(self._root))
        return sum(one.disk_bytes for one in objects if one is not None)

    def _era(self) -> int:
        """The era that workers write into chunks now; 0, which no chunk has, if it is unknown."""
        era = read_era(self._root)
        return 0 if era is None else era.number + 1

    def _digests(self, cursor: str) -> Iterator[str]:
        root = self._root / RECORDS
        for folder in sorted(os.listdir(root)):
            names: list[str] = []
            if folder >= cursor[:2]:
                with contextlib.suppress(NotADirectoryError, FileNotFoundError):
                    names = sorted(os.listdir(root / folder))
            yield from (name for name in names if name >= cursor and is_digest(name))

    def _load(self, digest: str) -> tuple[Record, os.stat_result] | None:
        """A record and the status of its file; None if it is gone or damaged."""
        try:
            fd = os.open(cached_path(self._root, RECORDS, digest), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            data, status = os.read(fd, _READ_BYTES), os.fstat(fd)
            while b"\n" not in data and (more := os.read(fd, _READ_BYTES)):
                data += more
        except OSError:
            return None
        finally:
            os.close(fd)
        record = decode_record_line(data.partition(b"\n")[0])
        return None if record is None else (record, status)

    def _describe(
        self,
        digest: str,
        record: Record,
        parts: KeyParts,
        status: os.stat_result,
        era: int,
        *,
        is_pinned: bool,
    ) -> CachedObject:
        version = record.head.version
        size_bytes = version.size_bytes if version.size_bytes != UNKNOWN_BYTES else None
        disk_bytes = status.st_blocks * BLOCK_BYTES
        ranges: tuple[CachedRange, ...] = ()
        if record.is_marker:
            parts = parts._replace(kind=ObjectKind.VARIANTS)
        elif record.body_crc is not None:
            ranges = (CachedRange(0, version.size_bytes, RangeState.CACHED),)
        else:
            extents = [
                (index, *_extent_ranges(path, body_bytes, name, era))
                for index, path, body_bytes, name in extent_files(self._root, record)
            ]
            disk_bytes += sum(size for _index, size, _ranges in extents)
            ranges = tuple(
                _joined(
                    CachedRange(index * EXTENT_BYTES + start, index * EXTENT_BYTES + end, state)
                    for index, _size, extent in extents
                    for start, end, state in extent
                )
            )
        return CachedObject(
            digest, record, parts, size_bytes, ranges, disk_bytes, status.st_atime, is_pinned
        )


def extent_files(root: Path, record: Record) -> Iterator[tuple[int, Path, int, bytes]]:
    """The extents that a record's version may have: index, path, body bytes and digest.

    An object of unknown size has only those before the first missing one.
    """
    version = record.head.version
    index = 0
    while index * EXTENT_BYTES < max(1, version.size_bytes):
        digest, body_bytes = extent_identity(record.key, version, index)
        path = Path(cached_path(root, EXTENTS, digest.hex()))
        if not version.is_measured and not path.exists():
            return
        yield index, path, body_bytes, digest
        index += 1


def _extent_ranges(
    path: Path, body_bytes: int, digest: bytes, era: int
) -> tuple[int, list[CachedRange]]:
    """An extent's disk space and ranges, from its body's start; nothing if it is missing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0, []
    try:
        disk_bytes = os.fstat(fd).st_blocks * BLOCK_BYTES
        if not has_header(fd, body_bytes, digest):
            return disk_bytes, []
        table = read_chunk_table(fd, body_bytes)
        filling = [
            chunk
            for run in chunks_being_filled(fd, body_bytes)
            for chunk in range(run.start, run.end)
        ]
    except OSError:
        return 0, []
    finally:
        os.close(fd)
    return disk_bytes, list(_chunk_ranges(table, set(filling), body_bytes, era))


def _chunk_ranges(
    table: list[ChunkEntry], filling: set[int], body_bytes: int, era: int
) -> Iterator[CachedRange]:
    for chunk, entry in enumerate(table):
        start = chunk * CHUNK_BYTES
        end = min(start + CHUNK_BYTES, body_bytes)
        valid_end = min(start + entry.valid_bytes, end)
        if valid_end > start:
            state = RangeState.CACHED if entry.era == era else RangeState.UNCHECKED
            yield CachedRange(start, valid_end, state)
        if chunk in filling and valid_end < end:
            yield CachedRange(valid_end, end, RangeState.FILLING)


def _joined(ranges: Iterator[CachedRange]) -> Iterator[CachedRange]:
    """The ranges, with neighbours of the same state as one."""
    last: CachedRange | None = None
    for one in ranges:
        if last is not None and (last.end, last.state) == (one.start, one.state):
            last = last._replace(end=one.end)
            continue
        if last is not None:
            yield last
        last = one
    if last is not None:
        yield last


def _matcher(pattern: str) -> Callable[[str], bool]:
    if "*" not in pattern:
        return lambda name: pattern in name
    pieces = tuple(pattern.split("*"))
    return lambda name: matches_pieces(pieces, name)
