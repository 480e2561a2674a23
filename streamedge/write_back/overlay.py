"""An origin as this edge's readers see it: with the writes that it does not have yet.

Owns the rule that what waits in the journal is read from there, until the origin has it. These are
an ``Origin`` and an ``Upstream`` like any other, so that both doors of the cache, HTTP and RTMP,
read what was written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
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
from streamedge.origin.media_types import guess_media_type
from streamedge.origin.names import site_path
from streamedge.origin.objects import ObjectUpstream
from streamedge.spans import Span
from streamedge.write_back.queue import Pending, WriteQueue
from streamedge.write_back.rows import WriteQueueError

NO_OVERRIDES: Mapping[str, str] = MappingProxyType({})
_KEPT = frozenset(
    {"cache-control", "content-disposition", "content-encoding", "content-language", "expires"}
)


class PendingWritesOrigin:
    """``origin``, whose assets' keys begin with ``identity``, behind ``write_queue``.

    ``bodies`` has the journal's files as objects. ``is_site``: its keys have paths, not names.
    ``overrides`` are fields that an object is read with in place of its own, in lower case.
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

    def has(self, name: str) -> bool:
        """Whether the object is newer here. Raises OriginError."""
        return self._pending(name) is not None

    async def head(self, name: str) -> OriginHead:
        pending = self._pending(name)
        if pending is None:
            return await self.origin.head(name)
        return self._head(name, pending)

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
        head = self._head(name, pending)
        require_version(f"written {name!a}", if_match, head.version)
        if if_none_match is not None and is_same_version(if_none_match, head.version):
            return None
        assert pending.path is not None, "a head was made of it"
        try:
            read = await self._bodies.read(pending.path.name, span)
        except OriginError as exc:
            if exc.failure is not OriginFailure.NOT_FOUND:
                raise
            # Its origin has it by now.
            return await self.origin.read(
                name, span, if_match=if_match, if_none_match=if_none_match
            )
        assert read is not None, "only if_none_match is answered with None"
        return _AheadRead(head, read)

    async def close(self) -> None:
        await self.origin.close()

    def _pending(self, name: str) -> Pending | None:
        place = site_path(name) if self._is_site else name
        try:
            return self._write_queue.pending(join_key(self._identity, place))
        except WriteQueueError as exc:
            # Nobody knows what the object is: what the origin has may be older than an answer.
            raise OriginError(OriginFailure.UNAVAILABLE, str(exc)) from exc

    def _head(self, name: str, pending: Pending) -> OriginHead:
        if pending.path is None:
            raise OriginError(OriginFailure.NOT_FOUND, f"{name!a}: deleted, the origin will hear")
        said = {field.lower(): value for field, value in pending.fields}
        said.update(self._overrides)
        return OriginHead(
            Version(pending.etag, pending.size_bytes, int(pending.queued_s)),
            said.get("content-type", "") or guess_media_type(name),
            {
                field: value
                for field, value in said.items()
                if field in _KEPT or field.startswith("x-amz-meta-")
            },
        )


class PendingWritesUpstream:
    """``upstream``, but for requests that bring an object which waits in ``ahead``."""

    def __init__(self, upstream: Upstream, ahead: PendingWritesOrigin) -> None:
        self._upstream = upstream
        self._ahead = ahead
        self._objects = ObjectUpstream(ahead)

    async def send(self, request: OriginRequest) -> OriginResponse:
        """As ``Upstream.send``."""
        # What a query brings is the origin's to say: no write that waits has one.
        is_read = request.method in {"GET", "HEAD"} and not request.query
        is_read = is_read and request.path in {"", site_path(request.name)}
        if is_read and self._ahead.has(request.name):
            return await self._objects.send(request)
        return await self._upstream.send(request)


class _AheadRead:
    """A queued body's bytes under the version that its viewer was told."""

    def __init__(self, head: OriginHead, read: OriginRead) -> None:
        self.head = head
        self.span = read.span
        self._read = read

    def pieces(self) -> AsyncIterator[bytes]:
        return self._read.pieces()

    async def close(self) -> None:
        await self._read.close()
