"""The cache folder: opens, creates and removes its files, and falls back to memory on errors.

    era               number of the folder's era, and the boot that it belongs to
    locks             one byte to lock for each asset that a worker fetches from its origin
    changes           the change counter and the write table (``changes``)
    usage             bytes stored so far, a counter for each worker
    assets/ab/<hex>   an asset's record, and the body if it is small
    extents/ab/<hex>  an extent of one version of an asset
    new/              files being created

A file name is a hash of the key, so nothing is loaded at start and each worker finds all files.
When the disk is full or fails, extents are created in memory instead, up to MEMORY_EXTENTS_MAX at
a time, seen by this worker alone and dropped when their readers leave.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import zlib
from dataclasses import replace
from pathlib import Path

from streamedge.cache.storage.changes import ChangeCounter, is_changes_file_whole, prepare_changes
from streamedge.cache.storage.extent import (
    EXTENT_BYTES,
    HEADER_BYTES,
    Extent,
    has_header,
    mark_evicted,
    new_header,
    written_header_bytes,
)
from streamedge.cache.storage.folder import (
    EXTENTS,
    RECORDS,
    Era,
    Usage,
    cached_path,
    prepare_usage,
    read_era,
    unused_era,
    write_era,
)
from streamedge.cache.storage.inline_body import InlineBody
from streamedge.cache.storage.locks import try_lock, unlock
from streamedge.cache.storage.records import (
    Record,
    decode_record,
    encode_record,
    key_hash,
    version_digest,
)
from streamedge.errors import CacheFullError
from streamedge.ops.log import Log
from streamedge.origin import Version

MEMORY_EXTENTS_MAX = 8
_PAGE_BYTES = 4096
_READ_BYTES = 96 * 1024  # of a record's file: mostly all of it
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


def prepare_folder(root: Path) -> list[str]:
    """Prepares the folder for workers: creates its parts, sets its era, removes unfinished files.

    Returns descriptions of repairs. Called once, before any worker starts. Raises OSError
    when the folder cannot be written.
    """
    repairs = []
    for part in (root, *(root / name for name in (RECORDS, EXTENTS, "new"))):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        (root / "metrics").rmdir()  # of an earlier version; nothing was ever in it
    mode = root.stat().st_mode
    if mode & 0o007:  # from an earlier version: other users must not read the cache
        root.chmod(mode & 0o770)
    for leftover in (root / "new").iterdir():
        with contextlib.suppress(IsADirectoryError, FileNotFoundError):
            leftover.unlink()
    boot_id = _boot_id()
    try:
        last = read_era(root)
    except FileNotFoundError:
        last = Era(0, is_clean=False, boot_id="")
    if last is None:
        repairs.append("era was damaged: each chunk is checked before it is used")
        last = Era(unused_era(), is_clean=False, boot_id="")
    is_same_boot = boot_id != "" and last.boot_id == boot_id
    is_unsure = not is_same_boot and not last.is_clean
    number = last.number
    if is_unsure or not is_changes_file_whole(root):
        # Data in the page cache may be lost when power fails, so each chunk is checked.
        number, is_unsure = number + 1, True
    repaired_changes = prepare_changes(root, number, is_unsure=is_unsure)
    if repaired_changes and not is_unsure:
        # Writes may be lost, as when power fails: only a new era is above all earlier values.
        number += 1
        prepare_changes(root, number, is_unsure=True)
    repairs += repaired_changes
    write_era(root, Era(number, is_clean=False, boot_id=boot_id))
    repaired = prepare_usage(root)
    if repaired is not None:
        repairs.append(repaired)
    (root / "locks").touch(mode=0o600)
    return repairs


def _boot_id() -> str:
    """The kernel's name for this boot; "" in a sandbox that hides it (ProcSubset=pid)."""
    try:
        return BOOT_ID_FILE.read_text().strip()
    except OSError:
        return ""


def close_folder(root: Path) -> None:
    """Marks the folder clean, with all data on disk; called once, after the last worker has ended.

    Raises OSError if the folder is gone or cannot be written; the next start then checks each
    chunk, as after a power failure.
    """
    era = read_era(root)
    if era is None:
        raise OSError(errno.EINVAL, "the era file is damaged", str(root / "era"))
    os.sync()
    write_era(root, era._replace(is_clean=True))


class Store:
    """A worker's access to the cache folder. ``slot`` is the worker's number."""

    def __init__(self, root: Path, slot: int, log: Log) -> None:
        self.root = root
        self._root = str(root)
        self._slot = slot
        self._log = log
        self._serial = itertools.count()
        self._memory_extents = 0
        self._loaded: tuple[Record, InlineBody] | None = None  # of the last ``load_record``
        self._is_disk_failing = False
        self._usage: Usage | None = None
        self._locks = -1
        self.changes = ChangeCounter(root)
        self.era = 1
        try:
            era = read_era(root)
            number = unused_era() if era is None else era.number
            self.era = number + 1  # a new file's era words are 0: never this
            self._usage = Usage(root)
            self._locks = os.open(root / "locks", os.O_RDWR | os.O_CLOEXEC)
        except (OSError, ValueError) as exc:
            self._note_failure("open cache folder", exc)

    @property
    def is_usable(self) -> bool:
        """Whether the folder exists and its disk accepts writes."""
        if self._locks < 0 or self._is_disk_failing:
            return False
        try:
            return os.path.samestat(os.stat(self.root / "locks"), os.fstat(self._locks))
        except OSError:
            return False

    @property
    def memory_extents(self) -> int:
        """Number of extents in memory, at most MEMORY_EXTENTS_MAX."""
        return self._memory_extents

    def find_extent(self, digest: bytes, body_bytes: int) -> Extent | None:
        """Opens an extent that any worker has created; None if it is missing or damaged."""
        path = cached_path(self._root, EXTENTS, digest.hex())
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                self._note_failure("open extent", exc)
            return None
        try:
            sound = os.fstat(fd).st_size >= HEADER_BYTES and has_header(fd, body_bytes, digest)
            if sound:
                extent = Extent(fd, path, body_bytes, self.era)
                if not extent.is_cut():
                    return extent
                self.drop_extent(extent)
                extent.close()
                return None
        except OSError as exc:
            self._note_failure("read extent", exc)
            sound = True  # the disk fails; the file may be sound
        os.close(fd)
        if not sound:
            self._log.event("extent_dropped", path=path, reason="damaged header")
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            except OSError as exc:
                self._note_failure("remove damaged extent", exc)
        return None

    def drop_extent(self, extent: Extent) -> None:
        """Removes, for all workers, an extent whose file is truncated; its bytes are fetched again.
        The caller closes the file.
        """
        self._log.event(
            "extent_dropped", path=extent.path, reason="the file is shorter than its header says"
        )
        with contextlib.suppress(OSError):
            mark_evicted(extent.fd)
        _unlink_if_same(extent.path, extent.fd)

    def make_extent(self, digest: bytes, body_bytes: int) -> Extent:
        """Opens an extent, created if needed, in memory if the disk fails.

        Raises CacheFullError.
        """
        for _attempt in range(3):
            extent = self.find_extent(digest, body_bytes)
            if extent is not None:
                return extent
            try:
                extent = self._create(digest, body_bytes)
            except OSError as exc:
                self._note_failure("create extent", exc)
                break
            if extent is not None:
                return extent
        return self.make_memory_extent(digest, body_bytes)

    def make_memory_extent(self, digest: bytes, body_bytes: int) -> Extent:
        """Creates an extent in memory. Raises CacheFullError."""
        if self._memory_extents >= MEMORY_EXTENTS_MAX:
            raise CacheFullError(
                "the cache's disk is full or fails, and all extents in memory are in use"
            )
        fd = os.memfd_create("streamedge-extent", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, HEADER_BYTES)
        except OSError as exc:
            os.close(fd)
            raise CacheFullError(f"the disk fails and memory cannot be allocated: {exc}") from exc
        self._memory_extents += 1
        return Extent(fd, "", min(body_bytes, EXTENT_BYTES), self.era)

    def close_extent(self, extent: Extent) -> None:
        """Closes an extent's file, or frees its memory."""
        if not extent.path:
            self._memory_extents -= 1
        extent.close()

    def stored(self, size: int) -> None:
        """Counts bytes that were written to disk."""
        if self._usage is not None:
            self._usage.add(self._slot, size)
        if self._is_disk_failing:
            self._is_disk_failing = False
            self._log.event("disk_recovered")

    def note_disk_failure(self, exc: OSError) -> None:
        """Logs a failed write to an extent, once until the next successful write."""
        self._note_failure("write extent", exc)

    def load_record(self, key: str) -> Record | None:
        """An asset's stored record, or None."""
        self._close_loaded()
        path = cached_path(self._root, RECORDS, key_hash(key).digest)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as exc:
            self._note_failure("read record", exc)
            return None
        body = None
        try:
            data = _read_all(fd)
            record = decode_record(data, key)
            if record is not None and record.body_crc is not None:
                size_bytes = record.head.version.size_bytes
                body = InlineBody(fd, path, len(data) - size_bytes, size_bytes)
                self._loaded = record, body
            return record
        except OSError as exc:
            self._note_failure("read record", exc)
            return None
        finally:
            if body is None:
                os.close(fd)

    def find_body(self, record: Record) -> InlineBody | None:
        """Opens the body in a record's file; None if it is not there any more.

        For the record that ``load_record`` returned last it is the same open file: another worker
        may have replaced it meanwhile.
        """
        loaded = self._take_loaded(record)
        if loaded is None:
            present = self.load_record(record.key)
            if (
                present is None
                or present.body_crc != record.body_crc
                or present.head.version != record.head.version
            ):
                return None
            loaded = self._take_loaded(present)
        return loaded

    def save_record(self, record: Record) -> None:
        """Stores a record without a body; an error is logged, and the asset is fetched again
        soon.
        """
        fd = self._replace_record(record.key, encode_record(replace(record, body_crc=None)))
        if fd is not None:
            os.close(fd)

    def save_small(self, record: Record, body: bytes) -> tuple[Record, InlineBody] | None:
        """Stores a record and its object's whole body as one file, and keeps the file open.

        Returns the record with the body's CRC; None if the disk fails, which is logged.
        """
        record = record.with_body(zlib.crc32(body))
        data = encode_record(record, body)
        path = cached_path(self._root, RECORDS, key_hash(record.key).digest)
        fd = self._create_small(path, data)
        if fd is None:
            fd = self._replace_record(record.key, data)
        if fd is None:
            return None
        return record, InlineBody(fd, path, len(data) - len(body), len(body))

    def drop_body(self, body: InlineBody) -> None:
        """Removes, for all workers, a small object whose file is truncated. The caller closes the
        file.
        """
        self._log.event("extent_dropped", path=body.path, reason="the file is truncated")
        _unlink_if_same(body.path, body.fd)

    def forget_record(self, key: str) -> None:
        """Removes a record, so that each worker's next open fetches it."""
        with contextlib.suppress(OSError):
            os.unlink(cached_path(self._root, RECORDS, key_hash(key).digest))

    def touch_record(self, key: str) -> None:
        """Marks a record as used now, so that it is not evicted before its extents."""
        self.touch(cached_path(self._root, RECORDS, key_hash(key).digest))

    def touch(self, path: str) -> None:
        """Marks a file as used now, for eviction; works on mounts that keep no access times."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def lock_asset(self, key: str) -> bool:
        """Tries to take the lock under which one worker fetches an asset; whether it has it."""
        if self._locks < 0:
            return True
        return try_lock(self._locks, key_hash(key).lock)

    def unlock_asset(self, key: str) -> None:
        """Releases the lock, so that another worker can fetch the asset."""
        if self._locks >= 0:
            unlock(self._locks, key_hash(key).lock)

    def _new_path(self) -> str:
        return f"{self._root}/new/{self._slot}-{os.getpid()}-{next(self._serial)}"

    def _take_loaded(self, record: Record) -> InlineBody | None:
        """The body that ``load_record`` opened with ``record``, once."""
        if self._loaded is None or self._loaded[0] is not record:
            return None
        body, self._loaded = self._loaded[1], None
        return body

    def _close_loaded(self) -> None:
        if self._loaded is not None:
            self._loaded[1].close()
            self._loaded = None

    def _create_small(self, path: str, data: bytes) -> int | None:
        """Writes the file of a new small object; returns its descriptor.

        It needs no temporary name: the CRC shows a file that is not written to its end yet, or
        never will be because its worker was killed. None: there is a file already, or the disk
        fails.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            if os.write(fd, data) == len(data):
                self._count_record(data)
                return fd
        except OSError:
            pass  # ``_replace_record`` logs it
        _unlink_if_same(path, fd)
        os.close(fd)
        return None

    def _replace_record(self, key: str, data: bytes) -> int | None:
        """Writes a record's file under a temporary name and renames it, so it appears whole.

        Returns its descriptor, or None after an error, which is logged.
        """
        path, new = cached_path(self._root, RECORDS, key_hash(key).digest), self._new_path()
        fd = -1
        try:
            fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if os.write(fd, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            try:
                os.replace(new, path)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(os.path.dirname(path))
                os.replace(new, path)
        except OSError as exc:
            self._note_failure("write record", exc)
            if fd >= 0:
                os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(new)
            return None
        self._count_record(data)
        return fd

    def _count_record(self, data: bytes) -> None:
        self.stored(-(-len(data) // _PAGE_BYTES) * _PAGE_BYTES)

    def _create(self, digest: bytes, body_bytes: int) -> Extent | None:
        """Creates an extent's file under a temporary name and links it, so it appears whole.

        None: another worker has created it meanwhile.
        """
        path, new = cached_path(self._root, EXTENTS, digest.hex()), self._new_path()
        header = new_header(body_bytes, digest).ljust(written_header_bytes(body_bytes), b"\0")
        extent = None
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if os.pwrite(fd, header, 0) < len(header):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.ftruncate(fd, HEADER_BYTES)
            with contextlib.suppress(FileExistsError):
                try:
                    os.link(new, path)
                except FileNotFoundError:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(os.path.dirname(path))
                    os.link(new, path)
                extent = Extent(fd, path, body_bytes, self.era)
        finally:
            if extent is None:
                os.close(fd)
            os.unlink(new)
        self.stored(len(header))
        return extent

    def _note_failure(self, action: str, exc: OSError | ValueError) -> None:
        if not self._is_disk_failing:
            self._is_disk_failing = True
            self._log.event("disk_write_failed", action=action, error=str(exc))


def extent_identity(key: str, version: Version, index: int) -> tuple[bytes, int]:
    """The digest that names an extent's file, and the size of its body."""
    body_bytes = EXTENT_BYTES
    if version.is_measured:
        body_bytes = min(EXTENT_BYTES, version.size_bytes - index * EXTENT_BYTES)
    return version_digest(key, version, index), body_bytes


def _unlink_if_same(path: str, fd: int) -> None:
    """Removes an open file, but not a successor of the same name."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == os.fstat(fd).st_ino:
            os.unlink(path)


def _read_all(fd: int) -> bytes:
    """The content of a file. Raises OSError."""
    data = os.read(fd, _READ_BYTES)
    if len(data) < _READ_BYTES:
        return data
    parts = [data]
    while data := os.read(fd, _READ_BYTES):
        parts.append(data)
    return b"".join(parts)
