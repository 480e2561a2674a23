"""Reads an object's bytes that are in the cache, and never any others.

For operators: it requests nothing from the origin and opens nothing for writing, as
``inspection``. Bytes that are missing, or that were written before power failed and are unchecked,
are left out. Reads block on the disk; call them in a thread.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from streamedge.cache.storage.extent import EXTENT_BYTES, HEADER_BYTES, has_header
from streamedge.cache.storage.folder import EXTENTS, RECORDS, cached_path
from streamedge.cache.storage.inspection import CachedObject, RangeState
from streamedge.cache.storage.records import is_body_sound
from streamedge.cache.storage.store import extent_identity
from streamedge.spans import Span

_NO_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class CachedBytes:
    """The cached bytes of an object, as the cache map has seen it.

    ``limit_bytes``: at most so many are read. ``is_cut``: whether a read has ended early, for this
    limit or because bytes are missing.
    """

    def __init__(self, root: Path, cached: CachedObject, limit_bytes: int) -> None:
        self.is_cut = False
        self._lock = threading.Lock()  # a read may still run when its caller was cancelled
        self._is_closed = False
        self._root = root
        self._cached = cached
        self._left_bytes = limit_bytes
        self._body: bytes | None = None  # of a small object, in its record's file
        self._files: dict[int, int] = {}  # descriptors of extents by index; -1: it is missing

    def read(self, span: Span) -> bytes:
        """The bytes of a span, up to the first one that is missing.

        Raises OSError if there is no descriptor or memory for them; a later read may succeed.
        """
        try:
            with self._lock:
                return self._read(span)
        finally:
            if self._is_closed:
                self._close_files()

    def close(self) -> None:
        """Closes the files; harmless when called twice. Later reads return nothing.

        Does not wait: a read that runs in a thread closes the files at its end.
        """
        self._is_closed = True
        self._close_files()

    def _read(self, span: Span) -> bytes:
        parts: list[bytes] = []
        position = span.start
        while position < span.end:
            part = self._read_part(position, span.end)
            if not part:
                self.is_cut = True
                break
            parts.append(part)
            position += len(part)
        return b"".join(parts)

    def _close_files(self) -> None:
        """Closes the files unless a read is running, which calls this at its end."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            while self._files:
                fd = self._files.popitem()[1]
                if fd >= 0:
                    os.close(fd)
        finally:
            self._lock.release()

    def _read_part(self, position: int, end: int) -> bytes:
        """Bytes from ``position`` on, of one extent; none if they are missing."""
        end = min(end, self._cached_end(position), position + self._left_bytes)
        if end <= position or self._is_closed:
            return b""
        if self._cached.record.body_crc is not None:
            data = self._small_body()[position:end]
        else:
            index, offset = divmod(position, EXTENT_BYTES)
            fd = self._extent(index)
            size_bytes = min(end - position, EXTENT_BYTES - offset)
            try:
                data = b"" if fd < 0 else os.pread(fd, size_bytes, HEADER_BYTES + offset)
            except OSError:
                data = b""
        self._left_bytes -= len(data)
        return data

    def _cached_end(self, position: int) -> int:
        """Where the cached range around a position ends; the position if it is in none."""
        for one in self._cached.ranges:
            if one.start <= position < one.end and one.state is RangeState.CACHED:
                return one.end
        return position

    def _small_body(self) -> bytes:
        if self._body is None:
            path = Path(cached_path(self._root, RECORDS, self._cached.id))
            try:
                data = path.read_bytes()
            except OSError as exc:
                _require_resources(exc)
                data = b""
            body = data.partition(b"\n")[2]
            self._body = body if is_body_sound(self._cached.record, body) else b""
        return self._body

    def _extent(self, index: int) -> int:
        """The descriptor of an extent's file, or -1."""
        fd = self._files.get(index)
        if fd is None:
            fd = self._files[index] = self._open_extent(index)
        return fd

    def _open_extent(self, index: int) -> int:
        record = self._cached.record
        digest, body_bytes = extent_identity(record.key, record.head.version, index)
        path = cached_path(self._root, EXTENTS, digest.hex())
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            _require_resources(exc)
            return -1
        if has_header(fd, body_bytes, digest):
            return fd
        os.close(fd)
        return -1


def _require_resources(failure: OSError) -> None:
    """Raises a failure that says nothing about the file."""
    if failure.errno in _NO_RESOURCES:
        raise failure
