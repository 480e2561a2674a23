"""Posters: small pictures of films in the cache, for operators.

A poster is made on demand of bytes that are cached; nothing is requested from an origin for it. A
helper process decodes them (``containers.poster_helper``), one film at a time. The last posters
stay in memory, POSTERS_BYTES of them; so does the reason why a film has none, while no more of it
is cached.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

from streamedge.cache.storage.cached_bytes import CachedBytes
from streamedge.cache.storage.inspection import CachedObject, ObjectKind, RangeState
from streamedge.errors import MediaError, MediaFault, StreamEdgeError
from streamedge.media.containers.process import (
    HelperLimits,
    HelperPool,
    HelperRequest,
    SourceFile,
    has_extra,
)
from streamedge.media.sniffing import FileKind, sniff
from streamedge.origin import Version
from streamedge.spans import Span

POSTERS_BYTES = 8 << 20  # of all posters in memory
ENTRY_BYTES = 512  # of memory beside the picture
POSTER_BYTES_MAX = 64 << 10
READ_BYTES_MAX = 64 << 20  # of a film, for its poster
WAITING_MAX = 32  # requests

HELPER_MODULE = "streamedge.media.containers.poster_helper"
_OK = 200
FORMATS = {  # libavformat's names
    FileKind.MP4: "mp4",
    FileKind.FLV: "flv",
    FileKind.MATROSKA: "matroska",
    FileKind.MPEG_TS: "mpegts",
}
_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".f4v", ".3gp", ".flv"),
    *(".mkv", ".webm", ".ts", ".m2ts", ".mts"),
)


class PosterError(StreamEdgeError):
    """An object has no poster; the message says why."""


class PostersBusyError(StreamEdgeError):
    """No poster can be made now: WAITING_MAX requests are waiting, or no helper can be started."""


class _Entry(NamedTuple):
    """``picture``: a JPEG, or why there is none with ``readable_bytes`` of the object."""

    picture: bytes | str
    readable_bytes: int

    @property
    def memory_bytes(self) -> int:
        return ENTRY_BYTES + len(self.picture)


def is_film(cached: CachedObject) -> bool:
    """Whether an object may have a poster, by its content type and name."""
    if cached.parts.kind not in {ObjectKind.OBJECT, ObjectKind.VARIANT}:
        return False
    head = cached.record.head
    if head.status != _OK or not cached.size_bytes:
        return False
    content_type = head.content_type.lower()
    return content_type.startswith("video/") or cached.parts.name.lower().endswith(_SUFFIXES)


class Posters:
    """The posters of the objects in the cache folder ``root``.

    ``report``, ``is_available``: as of ``HelperPool``.
    """

    def __init__(
        self,
        root: Path,
        limits: HelperLimits,
        report: Callable[[str, str, str], None],
        *,
        module: str = HELPER_MODULE,
        is_available: Callable[[], bool] = has_extra,
    ) -> None:
        self._root = root
        self._helpers = HelperPool(
            limits, report, is_available=is_available, module=module, idle_s=0.0
        )
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._entries: OrderedDict[tuple[str, Version], _Entry] = OrderedDict()
        self.memory_bytes = 0  # of all posters

    async def poster(self, cached: CachedObject) -> bytes:
        """An object's poster, a JPEG. Raises PosterError, PostersBusyError."""
        picture = self._remembered(cached)
        if picture is None:
            if self._waiting >= WAITING_MAX:
                raise PostersBusyError("many posters are being made: try again later")
            self._waiting += 1
            try:
                async with self._lock:
                    picture = self._remembered(cached)
                    if picture is None:
                        picture = await self._make(cached)
                        self._remember(cached, picture)
            finally:
                self._waiting -= 1
        if isinstance(picture, str):
            raise PosterError(picture)
        return picture

    async def close(self) -> None:
        """Ends the helper."""
        await self._helpers.close()

    def _remembered(self, cached: CachedObject) -> bytes | str | None:
        key = cached.id, cached.record.head.version
        entry = self._entries.get(key)
        if entry is None:
            return None
        if isinstance(entry.picture, str) and entry.readable_bytes != _readable_bytes(cached):
            return None
        self._entries.move_to_end(key)
        return entry.picture

    def _remember(self, cached: CachedObject, picture: bytes | str) -> None:
        key = cached.id, cached.record.head.version
        before = self._entries.pop(key, None)
        if before is not None:
            self.memory_bytes -= before.memory_bytes
        entry = self._entries[key] = _Entry(picture, _readable_bytes(cached))
        self.memory_bytes += entry.memory_bytes
        while self.memory_bytes > POSTERS_BYTES:
            self.memory_bytes -= self._entries.popitem(last=False)[1].memory_bytes

    async def _make(self, cached: CachedObject) -> bytes | str:
        """A poster, or why there is none.

        Raises PosterError for what may succeed later, PostersBusyError.
        """
        if not is_film(cached):
            return "it is no film"
        film = _Film(CachedBytes(self._root, cached, READ_BYTES_MAX))
        try:
            container = await asyncio.to_thread(_sniffed, film.bytes, cached.size_bytes or 0)
            if container is None:
                return film.reason("it is no film that the edge knows")
            source = SourceFile(
                (cached.id, cached.record.head.version),
                cached.parts.name,
                container,
                cached.size_bytes or 0,
                lambda: film,
            )
            picture = await self._helpers.run(source, HelperRequest())
        except MediaError as exc:
            reason = film.reason(str(exc))
            if exc.fault is MediaFault.HELPER_NOT_STARTED:
                raise PostersBusyError("no process can be started: try again later") from exc
            if exc.fault is MediaFault.HELPER_FAILED:  # which ``HelperPool`` remembers for a while
                raise PosterError(reason) from exc
            return reason
        except OSError as exc:
            raise PostersBusyError(f"its bytes cannot be read now: {exc.strerror}") from exc
        finally:
            film.close()
        return picture if 0 < len(picture) <= POSTER_BYTES_MAX else "its poster is too large"


class _Film:
    """The cached bytes of a film, for the helper."""

    def __init__(self, cached_bytes: CachedBytes) -> None:
        self.bytes = cached_bytes

    def prefetch(self, want: Span, lead_bytes: int) -> None:
        """Does nothing: only cached bytes are read."""

    async def read(self, span: Span) -> bytes:
        return await asyncio.to_thread(self.bytes.read, span)

    def close(self) -> None:
        self.bytes.close()

    def reason(self, fault: str) -> str:
        """Why there is no poster: bytes that are missing, or else ``fault``."""
        return "the bytes that it needs are not cached" if self.bytes.is_cut else fault


def _readable_bytes(cached: CachedObject) -> int:
    """How many bytes ``CachedBytes`` can read; it reads none that are unchecked."""
    return sum(one.end - one.start for one in cached.ranges if one.state is RangeState.CACHED)


def _sniffed(cached_bytes: CachedBytes, size_bytes: int) -> str | None:
    """libavformat's name of a film's format, or None."""
    parser: Generator[Span, bytes, FileKind] = sniff(size_bytes)
    try:
        span = next(parser)
        while True:
            data = cached_bytes.read(span)
            if len(data) < span.size:
                return None
            span = parser.send(data)
    except StopIteration as stop:
        return FORMATS.get(stop.value)
    except MediaError:
        return None
    finally:
        parser.close()
