"""An origin that is a folder of this machine.

Only regular files inside the folder are objects; links that lead out are refused. Files are read in
threads. The origin never writes, lists or watches the folder.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Lock

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin import OriginHead, OriginRead, Version
from streamedge.origin.answers import is_same_version, require_version
from streamedge.origin.health import UNOBSERVED, RequestObserver
from streamedge.origin.media_types import guess_media_type
from streamedge.origin.names import object_key
from streamedge.spans import Span

PIECE_MAX_BYTES = 256 << 10

_ERRNO_FAILURES = {
    errno.ENOENT: OriginFailure.NOT_FOUND,
    errno.ENOTDIR: OriginFailure.NOT_FOUND,
    errno.ELOOP: OriginFailure.NOT_FOUND,
    errno.ENAMETOOLONG: OriginFailure.NOT_FOUND,
    errno.EACCES: OriginFailure.FORBIDDEN,
    errno.EPERM: OriginFailure.FORBIDDEN,
}


class DirectoryOrigin:
    """Objects are the files ``path``/``prefix``/name. Empty path segments, which the system would
    skip, are refused, so that each file has one name.
    """

    def __init__(self, path: Path, prefix: str = "") -> None:
        self._root = path
        self._prefix = prefix
        self.observer: RequestObserver = UNOBSERVED

    async def head(self, name: str) -> OriginHead:
        file = await self._open(name)
        try:
            return _head_of(name, file.version)
        finally:
            await file.close()

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        if span is not None and (span.start < 0 or span.size == 0):
            raise ValueError(f"{span} is not a valid byte range")
        file = await self._open(name)
        try:
            require_version(file.subject, if_match, file.version)
            if if_none_match is not None and is_same_version(if_none_match, file.version):
                await file.close()
                return None
            whole = Span(0, file.version.size_bytes)
            if span is not None and span.start >= whole.end:
                raise OriginError(
                    OriginFailure.RANGE_OUTSIDE,
                    f"{file.subject}: byte {span.start} lies past the end at {whole.end}",
                )
        except BaseException:
            await file.close()
            raise
        return _FileRead(
            _head_of(name, file.version), whole if span is None else span.intersect(whole), file
        )

    async def close(self) -> None:
        """Does nothing: no file stays open between reads."""

    async def _open(self, name: str) -> _File:
        key = object_key(self._prefix, name)
        subject = f"{self._root} {name!a}"
        opening = asyncio.ensure_future(asyncio.to_thread(_open_inside, self._root, key, subject))
        try:
            file = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread cannot be stopped: a file that it still opens is closed afterwards.
            opening.add_done_callback(_close_opened)
            raise
        except OriginError as exc:
            if exc.failure.retryable:
                self.observer.failed(exc.failure)
            else:
                self.observer.answered(404)
            raise
        self.observer.answered(200)
        return file


class _File:
    """An open file and its version when opened. A lock makes ``close`` wait for a running
    ``pread``, whose thread cannot be cancelled, so that no read uses a reused descriptor.
    """

    def __init__(self, subject: str, descriptor: int) -> None:
        self.subject = subject
        self.version = version_of(os.fstat(descriptor))
        self._descriptor: int | None = descriptor
        self._lock = Lock()

    def read(self, position: int, size_bytes: int) -> bytes:
        """Bytes from ``position``, at least one. Blocks. Raises OriginError."""
        with self._lock:
            if self._descriptor is None:
                raise OriginError(OriginFailure.BROKEN, f"{self.subject}: closed while being read")
            try:
                piece = os.pread(self._descriptor, size_bytes, position)
                version = version_of(os.fstat(self._descriptor))
            except OSError as exc:
                raise OriginError(
                    OriginFailure.BROKEN, f"{self.subject}: {exc.strerror} at byte {position}"
                ) from exc
        if not piece:
            raise OriginError(
                OriginFailure.BROKEN,
                f"{self.subject}: ended at byte {position} of {self.version.size_bytes}",
            )
        require_version(self.subject, self.version, version)
        return piece

    def close_now(self) -> None:
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    async def close(self) -> None:
        if self._descriptor is not None:
            # Shielded: cancelling the caller must not remove the job from the threads' queue.
            await asyncio.shield(asyncio.to_thread(self.close_now))


class _FileRead:
    """An ``OriginRead`` over one open file."""

    def __init__(self, head: OriginHead, span: Span, file: _File) -> None:
        self._head = head
        self._span = span
        self._file = file

    @property
    def head(self) -> OriginHead:
        return self._head

    @property
    def span(self) -> Span:
        return self._span

    async def pieces(self) -> AsyncIterator[bytes]:
        position = self._span.start
        while position < self._span.end:
            size_bytes = min(PIECE_MAX_BYTES, self._span.end - position)
            piece = await asyncio.to_thread(self._file.read, position, size_bytes)
            position += len(piece)
            yield piece

    async def buffered(self, within_s: float) -> bytes | None:
        """As ``BufferedBody.buffered``."""
        try:
            body = await asyncio.to_thread(self._file.read, self._span.start, self._span.size)
        except OriginError:
            return None  # the next read has the reason
        return body if len(body) == self._span.size else None

    async def close(self) -> None:
        await self._file.close()


def _open_inside(root: Path, key: str, subject: str) -> _File:
    """Opens ``root``/``key``, or raises OriginError. Blocks."""
    if "" in key.split("/"):
        raise OriginError(OriginFailure.NOT_FOUND, f"{subject}: not the name of a file")
    try:
        real_root = os.path.realpath(root)
        real_path = os.path.realpath(os.path.join(real_root, key), strict=True)
        if os.path.commonpath((real_root, real_path)) != real_root:
            raise OriginError(OriginFailure.NOT_FOUND, f"{subject}: a link leads out of the folder")
        if not stat.S_ISREG(os.stat(real_path, follow_symlinks=False).st_mode):
            raise OriginError(OriginFailure.NOT_FOUND, f"{subject}: not a regular file")
        # O_NONBLOCK: if a pipe has just replaced the file, the open does not wait for a writer.
        descriptor = os.open(real_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        failure = _ERRNO_FAILURES.get(exc.errno or 0, OriginFailure.UNAVAILABLE)
        raise OriginError(failure, f"{subject}: {exc.strerror}") from exc
    return _File(subject, descriptor)


def _close_opened(opening: asyncio.Future[_File]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close_now()


def version_of(status: os.stat_result) -> Version:
    """The version of a file with ``status``."""
    return Version(
        etag=f'"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"',
        size_bytes=status.st_size,
        last_modified_s=status.st_mtime_ns // 1_000_000_000,
    )


def _head_of(name: str, version: Version) -> OriginHead:
    return OriginHead(version, guess_media_type(name))
