"""Read-your-writes: an overlay of the pending writes over an origin.

An object with a write in the queue is read from the queue until the origin has it. The overlay is
an ``Origin`` and an ``Upstream`` like any other, so that HTTP and RTMP both read what was written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType

from streamedge.errors import OriginError, OriginFailure
from streamedge.keys import join_key
from streamedge.origin import (
    Origin,
    OriginHead,
    OriginRead,
    OriginRequest,
    OriginResponse,
    Upstream,
    Version,
)
from streamedge.origin.answers import is_same_version, require_version
from streamedge.origin.buffered import buffered_body
from streamedge.origin.media_types import guess_media_type
from streamedge.origin.names import site_path
from streamedge.origin.objects import ObjectUpstream
from streamedge.spans import Span
from streamedge.write_back.queue import Pending, WriteQueue
from streamedge.write_back.rows import WriteQueueError

NO_OVERRIDES: Mapping[str, str] = MappingProxyType({})
_STORED_FIELDS = frozenset(
    {"cache-control", "content-disposition", "content-encoding", "content-language", "expires"}
)


class PendingWritesOrigin:
    """``origin`` with the pending writes of ``write_queue`` applied.

    ``identity`` is the start of the origin's asset keys. ``bodies`` serves the files of queued
    bodies as objects. ``is_site``: the keys hold URL paths, not decoded names. ``overrides`` are
    header fields (names in lower case) that replace the object's own.
    """

    def __init__(
        self,
        origin: Origin,
        identity: str,
        write_queue: WriteQueue,
        bodies: Origin,
        *,
        is_site: bool = False,
        overrides: Mapping[str, str] = NO_OVERRIDES,
    ) -> None:
        self.origin = origin
        self._is_site = is_site
        self._overrides = overrides
        self._identity = identity
        self._write_queue = write_queue
        self._bodies = bodies

    def is_pending(self, name: str) -> bool:
        """Whether a write of the object waits. Raises OriginError."""
        return self._pending(name) is not None

    async def head(self, name: str) -> OriginHead:
        pending = self._pending(name)
        if pending is None:
            return await self.origin.head(name)
        _path, head = self._present(name, pending)
        return head

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        pending = self._pending(name)
        if pending is None:
            return await self.origin.read(
                name, span, if_match=if_match, if_none_match=if_none_match
            )
        path, head = self._present(name, pending)
        require_version(f"written {name!a}", if_match, head.version)
        if if_none_match is not None and is_same_version(if_none_match, head.version):
            return None
        try:
            read = await self._bodies.read(path.name, span)
        except OriginError as exc:
            if exc.failure is not OriginFailure.NOT_FOUND:
                raise
            # The write is done and its file removed: the origin has the object now.
            return await self.origin.read(
                name, span, if_match=if_match, if_none_match=if_none_match
            )
        return None if read is None else _PendingRead(head, read)

    async def close(self) -> None:
        await self.origin.close()

    def _pending(self, name: str) -> Pending | None:
        path = site_path(name) if self._is_site else name
        try:
            return self._write_queue.pending(join_key(self._identity, path))
        except WriteQueueError as exc:
            # A write may wait that was already answered: the origin may have an older object.
            raise OriginError(OriginFailure.UNAVAILABLE, str(exc)) from exc

    def _present(self, name: str, pending: Pending) -> tuple[Path, OriginHead]:
        """The file of a pending object, and its head. Raises OriginError NOT_FOUND if it is
        deleted.
        """
        if pending.path is None:
            raise OriginError(
                OriginFailure.NOT_FOUND, f"{name!a}: deleted here, and not yet at the origin"
            )
        values = {field.lower(): value for field, value in pending.fields}
        values.update(self._overrides)
        head = OriginHead(
            Version(pending.etag, pending.size_bytes, int(pending.queued_s)),
            values.get("content-type", "") or guess_media_type(name),
            {
                field: value
                for field, value in values.items()
                if field in _STORED_FIELDS or field.startswith("x-amz-meta-")
            },
        )
        return pending.path, head


class PendingWritesUpstream:
    """``upstream``, except for requests of objects with a pending write in ``overlay``."""

    def __init__(self, upstream: Upstream, overlay: PendingWritesOrigin) -> None:
        self._upstream = upstream
        self._overlay = overlay
        self._objects = ObjectUpstream(overlay)

    async def send(self, request: OriginRequest) -> OriginResponse:
        """As ``Upstream.send``."""
        # Queued writes have no query, so a request with a query goes to the origin.
        is_read = request.method in {"GET", "HEAD"} and not request.query
        is_read = is_read and request.path in {"", site_path(request.name)}
        if is_read and self._overlay.is_pending(request.name):
            return await self._objects.send(request)
        return await self._upstream.send(request)


class _PendingRead:
    """The bytes of a queued body, with the version that the response to its write had."""

    def __init__(self, head: OriginHead, read: OriginRead) -> None:
        self.head = head
        self.span = read.span
        self._read = read

    def pieces(self) -> AsyncIterator[bytes]:
        return self._read.pieces()

    async def buffered(self, within_s: float) -> bytes | None:
        """As ``BufferedBody.buffered``."""
        return await buffered_body(self._read, within_s)

    async def close(self) -> None:
        await self._read.close()
