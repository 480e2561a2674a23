"""One cache file: its valid bytes, the locks on its chunks, and the bytes themselves.

An extent is a header of 64 KiB and up to 64 MiB of body, a part of one version of one asset. The
header is mapped by every worker that has the file open and holds, for each 64 KiB chunk, how many
bytes from the chunk's start are valid, their CRC, and the era in which they were written. Data is
written before it is published, so a reader may send all bytes that ``ready`` returns.

The writer of a chunk holds a lock on it: an open-file-description lock on the chunk's *number*, so
that the kernel frees the chunks of a killed worker at once. Two opens of a file by one worker would
not share its locks; the store therefore opens an extent once.

This module never talks to an origin and never decides which bytes to fill.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from typing import ClassVar, NamedTuple

from streamedge.cache.storage import locks
from streamedge.spans import Span

CHUNK_BYTES = 64 * 1024
EXTENT_BYTES = 64 * 1024 * 1024
# More than the table needs, and mostly a hole: the page cache can then keep each chunk in one piece
# of memory.
HEADER_BYTES = 64 * 1024

_MAGIC = 0x32455453  # "STE2"
_FIXED = struct.Struct("<IIQ32s")  # magic, evicted, body bytes, digest of key, version, index
_WORD_BYTES = 4
_EVICTED_WORD = 1
_TABLE_WORD = 256  # the chunk table begins 1 KiB into the header
_WORDS_PER_CHUNK = 3  # valid bytes, their CRC-32, era
_CHUNK_ENTRY = struct.Struct("=III")
CHECKS_MAX = 4  # chunks of an earlier era that one call reads and checks: 256 KiB
_OPEN_MARK = Span(1 << 40, (1 << 40) + 1)  # locked, shared, by each worker that has the file open


class Ready(NamedTuple):
    """Bytes that can be sent now: ``size_bytes`` of file ``fd`` from ``offset`` on."""

    fd: int
    offset: int
    size_bytes: int


# For every hit: it takes a third of the time that a call of the class takes.
quick_ready = partial(tuple.__new__, Ready)


class Extent:
    """An open cache file. Positions are bytes of the body; ``era`` is the cache folder's."""

    __slots__ = (
        "_locked",
        "_map",
        "_words",
        "body_bytes",
        "checks",
        "complete",
        "era",
        "fd",
        "path",
    )

    start: ClassVar[int] = HEADER_BYTES  # of the body in the file

    def __init__(self, fd: int, path: str, body_bytes: int, era: int) -> None:
        self.fd = fd
        self.path = path
        self.body_bytes = body_bytes
        self.era = era
        self.complete = False
        self.checks = 0  # chunks of an earlier era that were read and checked
        self._map = mmap.mmap(fd, HEADER_BYTES)
        self._words = memoryview(self._map).cast("I")
        self._locked: set[int] = (
            set()
        )  # chunks that this worker has locked: its own locks never conflict
        if path:
            locks.share(fd, _OPEN_MARK)

    @property
    def chunks(self) -> int:
        """Number of chunks in the body."""
        return -(-self.body_bytes // CHUNK_BYTES)

    @property
    def evicted(self) -> bool:
        """Whether the file has been unlinked: finish reading, but store nothing more."""
        return self._words[_EVICTED_WORD] != 0

    def chunk_bytes(self, chunk: int) -> int:
        """Size of a chunk: CHUNK_BYTES for all but the last."""
        return min(CHUNK_BYTES, self.body_bytes - chunk * CHUNK_BYTES)

    def valid_bytes(self, chunk: int) -> int:
        """Number of valid bytes from the chunk's start; checks the CRC after a new era."""
        word = _TABLE_WORD + chunk * _WORDS_PER_CHUNK
        valid = self._words[word]
        if valid and self._words[word + 2] != self.era:
            return self._check_once(chunk)
        return valid

    def ready_bytes(self, position: int, end: int) -> int:
        """Number of bytes from ``position`` on, before ``end``, that can be read now."""
        end = min(end, self.body_bytes)
        if self.complete:
            return max(0, end - position)
        at, checked = position, 0
        while at < end:
            chunk, within = divmod(at, CHUNK_BYTES)
            if not self._is_settled(chunk):
                if checked == CHECKS_MAX:
                    break  # enough for one call: others wait for the event loop
                checked += 1
            valid = self.valid_bytes(chunk)
            if valid <= within:
                break
            at += valid - within
            if valid < CHUNK_BYTES:
                break
        if checked:
            self.settle()
        return max(0, min(at, end) - position)

    def ready(self, position: int, end: int) -> Ready | None:
        """The bytes from ``position`` on that can be sent, or None."""
        size = self.ready_bytes(position, end)
        return Ready(self.fd, HEADER_BYTES + position, size) if size else None

    def settle(self) -> bool:
        """Sets ``complete`` if every chunk is valid, so that ``ready`` need not read the table.

        Reads no chunk: chunks of an earlier era count once each has been used and checked.
        """
        if not self.complete:
            chunks = self.chunks
            if not chunks:
                return False
            table = self._words[_TABLE_WORD : _TABLE_WORD + chunks * _WORDS_PER_CHUNK]
            whole = [CHUNK_BYTES] * (chunks - 1) + [self.chunk_bytes(chunks - 1)]
            self.complete = (
                table[::_WORDS_PER_CHUNK].tolist() == whole
                and table[2::_WORDS_PER_CHUNK].tolist() == [self.era] * chunks
            )
        return self.complete

    def is_cut(self) -> bool:
        """Whether the file is shorter than the valid bytes in its header."""
        table = self._words[_TABLE_WORD : _TABLE_WORD + self.chunks * _WORDS_PER_CHUNK]
        valid = table[::_WORDS_PER_CHUNK].tolist()
        last = next((chunk for chunk in range(self.chunks - 1, -1, -1) if valid[chunk]), None)
        needed = 0 if last is None else HEADER_BYTES + last * CHUNK_BYTES + valid[last]
        return os.fstat(self.fd).st_size < needed

    def whole_bytes(self, chunk: int, limit_bytes: int) -> int:
        """Size of the run of whole chunks from ``chunk`` on; stops counting at ``limit_bytes``."""
        size = 0
        while size < limit_bytes and chunk < self.chunks:
            if self.valid_bytes(chunk) < self.chunk_bytes(chunk):
                break
            size += self.chunk_bytes(chunk)
            chunk += 1
        return size

    def read(self, position: int, size: int) -> bytes:
        """Copies bytes that ``ready`` has reported."""
        return os.pread(self.fd, size, HEADER_BYTES + position)

    def resume(self, chunk: int) -> int:
        """Prepares a locked chunk for more writes; returns its valid bytes after a CRC check.

        A worker that is killed between the two stores of a publication leaves a CRC that does not
        match. A whole chunk of this era is past that, and is not read again.
        """
        word = _TABLE_WORD + chunk * _WORDS_PER_CHUNK
        valid = self._words[word]
        whole = valid == self.chunk_bytes(chunk) and self._words[word + 2] == self.era
        return self._accept(chunk, keep=not valid or whole or self._matches(chunk))

    def write(self, position: int, data: bytes | memoryview) -> None:
        """Stores ``data`` and publishes it. ``position`` must be where its chunk's valid bytes end.

        The caller holds the locks of the chunks. Raises OSError (disk full), and ValueError if the
        valid bytes end elsewhere.
        """
        view = memoryview(data)
        offset = HEADER_BYTES + position
        written = 0
        while written < len(view):
            written += os.pwrite(self.fd, view[written:], offset + written)
        words = self._words
        for piece in Span(position, position + len(view)).split(CHUNK_BYTES):
            chunk, within = divmod(piece.start, CHUNK_BYTES)
            word = _TABLE_WORD + chunk * _WORDS_PER_CHUNK
            if within and words[word] != within:
                raise ValueError(f"chunk {chunk} has {words[word]} valid bytes, not {within}")
            so_far = words[word + 1] if within else 0
            words[word + 1] = zlib.crc32(
                view[piece.start - position : piece.end - position], so_far
            )
            words[word + 2] = self.era
            words[word] = piece.end - chunk * CHUNK_BYTES

    def lock(self, chunks: Span) -> Span:
        """Locks the free run at the start of ``chunks`` and returns it; it may be empty.

        Chunks that this worker has locked are not free either: each lock has one owner.
        """
        if not self._locked.isdisjoint(range(chunks.start, chunks.end)):
            first = min(self._locked.intersection(range(chunks.start, chunks.end)))
            chunks = Span(chunks.start, first)
        while chunks.size and not locks.try_lock(self.fd, chunks):
            other = locks.holder(self.fd, chunks)
            if other is not None:  # None: it was unlocked in the meantime
                chunks = Span(chunks.start, max(chunks.start, other.start))
        self._locked.update(range(chunks.start, chunks.end))
        return chunks

    def is_locked_elsewhere(self, chunk: int) -> bool:
        """Whether another worker has locked a chunk. Changes no lock."""
        return locks.holder(self.fd, Span(chunk, chunk + 1)) is not None

    def unlock(self, chunks: Span) -> None:
        """Unlocks chunks, filled or not."""
        if chunks.size:
            locks.unlock(self.fd, chunks)
            self._locked.difference_update(range(chunks.start, chunks.end))

    def close(self) -> None:
        """Closes the file, which releases this worker's locks on it."""
        self._words.release()
        self._map.close()
        os.close(self.fd)

    def _is_settled(self, chunk: int) -> bool:
        """Whether a chunk's table entry is valid without a check of its bytes."""
        word = _TABLE_WORD + chunk * _WORDS_PER_CHUNK
        return not self._words[word] or self._words[word + 2] == self.era

    def _matches(self, chunk: int) -> bool:
        """Whether a chunk's valid bytes have the CRC that was stored for them."""
        word = _TABLE_WORD + chunk * _WORDS_PER_CHUNK
        valid, crc = self._words[word], self._words[word + 1]
        if valid > self.chunk_bytes(chunk):
            return False
        data = self.read(chunk * CHUNK_BYTES, valid)
        return len(data) == valid and zlib.crc32(data) == crc

    def _accept(self, chunk: int, *, keep: bool) -> int:
        """Marks a checked chunk with this era, emptied unless ``keep``; returns its valid bytes."""
        word = _TABLE_WORD + chunk * _WORDS_PER_CHUNK
        if not keep:
            self._words[word] = 0
        self._words[word + 2] = self.era
        return self._words[word]

    def _check_once(self, chunk: int) -> int:
        """Checks a chunk of an earlier era; returns its valid bytes, 0 if the check fails."""
        self.checks += 1
        if self._matches(chunk):
            return self._accept(chunk, keep=True)
        if chunk in self._locked:
            return self._accept(chunk, keep=False)
        locked = self.lock(Span(chunk, chunk + 1))
        if locked.size == 0:
            return 0  # its fill has dropped it already, and is writing it again
        try:
            return self._accept(chunk, keep=self._matches(chunk))
        finally:
            self.unlock(locked)


def new_header(body_bytes: int, digest: bytes) -> bytes:
    """The first bytes of a new extent's file; the rest of the header is zero."""
    return _FIXED.pack(_MAGIC, 0, body_bytes, digest)


def written_header_bytes(body_bytes: int) -> int:
    """Size of the header part that is written through the map, in whole pages; the rest is a hole.

    These pages need their disk blocks from the start: if the disk is full at a later page fault,
    the kernel kills the worker.
    """
    table_words = -(-body_bytes // CHUNK_BYTES) * _WORDS_PER_CHUNK
    return -(-(_TABLE_WORD + table_words) * _WORD_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE


def check_header(header: bytes, body_bytes: int, digest: bytes) -> bool:
    """Whether a file's first bytes fit the extent that its name stands for."""
    return header[: _FIXED.size] == new_header(body_bytes, digest)


class ChunkEntry(NamedTuple):
    """A chunk's entry in the table: its valid bytes, their CRC-32, and the era of the writing."""

    valid_bytes: int
    crc: int
    era: int


def read_chunk_table(fd: int, body_bytes: int) -> list[ChunkEntry]:
    """The chunk table of the file ``fd``, without a check of any chunk. Raises OSError.

    A file that is shorter than its table has fewer entries.
    """
    size = -(-body_bytes // CHUNK_BYTES) * _CHUNK_ENTRY.size
    data = os.pread(fd, size, _TABLE_WORD * _WORD_BYTES)
    whole = len(data) // _CHUNK_ENTRY.size * _CHUNK_ENTRY.size
    return [ChunkEntry(*entry) for entry in _CHUNK_ENTRY.iter_unpack(data[:whole])]


def chunks_being_filled(fd: int, body_bytes: int) -> Iterator[Span]:
    """The runs of chunks of the file ``fd`` that a worker has locked to fill them."""
    start, end = 0, -(-body_bytes // CHUNK_BYTES)
    while start < end:
        run = locks.holder(fd, Span(start, end))
        if run is None:
            return
        yield run.intersect(Span(start, end))
        start = run.end


def is_chunk_sound(fd: int, chunk: int, entry: ChunkEntry) -> bool:
    """Whether a chunk's valid bytes have the CRC of its entry. Raises OSError."""
    data = os.pread(fd, entry.valid_bytes, HEADER_BYTES + chunk * CHUNK_BYTES)
    return len(data) == entry.valid_bytes and zlib.crc32(data) == entry.crc


def has_header(fd: int, body_bytes: int, digest: bytes) -> bool:
    """Whether the file ``fd`` begins with the header of the extent. Raises OSError."""
    return check_header(os.pread(fd, _FIXED.size, 0), body_bytes, digest)


def unlink_extent(path: str) -> int | None:
    """Unlinks an extent and marks it, so that workers close it; returns its open file.

    None if it is missing. Raises OSError.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        os.unlink(path)
        mark_evicted(fd)
    except FileNotFoundError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_open_elsewhere(fd: int) -> bool:
    """Whether a worker has the extent in the file ``fd`` open."""
    return locks.holder(fd, _OPEN_MARK) is not None


def mark_evicted(fd: int) -> None:
    """Marks the file as unlinked, for the workers that have it mapped."""
    os.pwrite(fd, struct.pack("<I", 1), _EVICTED_WORD * _WORD_BYTES)
