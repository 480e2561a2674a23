"""Read-your-writes: an overlay of the pending writes over an origin.

An object with a write in the queue is read from the queue until the origin has it; in a fleet, from
the queue of the edge that holds its newest write. The overlay is an ``Origin`` and an ``Upstream``
like any other, so that HTTP and RTMP both read what was written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from streamedge.errors import OriginError, OriginFailure
from streamedge.fleet.pending import HeldWrite
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
from streamedge.write_back.fleet_writes import (
    FleetWrites,
    HolderError,
    NotHeldError,
    body_fields,
)
from streamedge.write_back.queue import Pending, WriteQueue
from streamedge.write_back.rows import WriteQueueError

NO_OVERRIDES: Mapping[str, str] = MappingProxyType({})


class PendingWritesOrigin:
    """``origin`` with the pending writes of ``write_queue`` applied.

    ``identity`` is the start of the origin's asset keys. ``bodies`` serves the files of queued
    bodies as objects. ``is_site``: the keys hold URL paths, not decoded names. ``overrides`` are
    header fields (names in lower case) that replace the object's own. ``fleet_writes``: those that
    wait on other edges; None in a fleet of one. ``write_queue`` is None where this edge queues
    none.
    """

    def __init__(
        self,
        origin: Origin,
        identity: str,
        write_queue: WriteQueue | None,
        bodies: Origin | None,
        *,
        is_site: bool = False,
        overrides: Mapping[str, str] = NO_OVERRIDES,
        fleet_writes: FleetWrites | None = None,
    ) -> None:
        self.origin = origin
        self._is_site = is_site
        self._overrides = overrides
        self._identity = identity
        self._write_queue = write_queue
        self._bodies = bodies
        self._fleet_writes = fleet_writes

    def is_pending(self, name: str) -> bool:
        """Whether a write of the object waits. Raises OriginError."""
        return self._pending(name) is not None

    def is_pending_read(self, request: OriginRequest) -> bool:
        """Whether a request reads an object whose write waits. Raises OriginError."""
        # Queued writes have no query, so a request with a query goes to the origin.
        is_read = request.method in {"GET", "HEAD"} and not request.query
        is_read = is_read and request.path in {"", site_path(request.name)}
        return is_read and self.is_pending(request.name)

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
        is_outdated = False
        while pending is not None:
            head = self._head(name, pending)
            require_version(f"written {name!a}", if_match, head.version)
            if if_none_match is not None and is_same_version(if_none_match, head.version):
                return None
            try:
                return _PendingRead(head, await self._read_body(pending, span))
            except NotHeldError:
                pending = None
            except HolderError:
                is_outdated = True
                pending = self._here(name)
            except OriginError as exc:
                if exc.failure is not OriginFailure.NOT_FOUND:
                    raise
                pending = None
        # The write is done and its file removed: the origin has the object now.
        read = await self.origin.read(name, span, if_match=if_match, if_none_match=if_none_match)
        return _OutdatedRead(read) if is_outdated and read is not None else read

    async def close(self) -> None:
        await self.origin.close()

    def _key(self, name: str) -> str:
        return join_key(self._identity, site_path(name) if self._is_site else name)

    def _here(self, name: str) -> Pending | None:
        try:
            return None if self._write_queue is None else self._write_queue.pending(self._key(name))
        except WriteQueueError as exc:
            # A write may wait that was already answered: the origin may have an older object.
            raise OriginError(OriginFailure.UNAVAILABLE, str(exc)) from exc

    def _pending(self, name: str) -> Pending | HeldWrite | None:
        here = self._here(name)
        if self._fleet_writes is None:
            return here
        key = self._key(name)
        elsewhere = self._fleet_writes.newest(key, None if here is None else here.serial)
        if elsewhere is not None or here is None:
            return elsewhere
        return None if self._fleet_writes.is_superseded(key, here.serial) else here

    async def _read_body(self, pending: Pending | HeldWrite, span: Span | None) -> OriginRead:
        """Raises OriginError, HolderError."""
        if isinstance(pending, Pending):
            if self._bodies is None or pending.path is None:
                raise AssertionError("a queued body without a queue")
            read = await self._bodies.read(pending.path.name, span)
            if read is None:
                raise AssertionError("a version was excluded")
            return read
        if self._fleet_writes is None:
            raise AssertionError("a write of another edge in a fleet of one")
        return await self._fleet_writes.read(pending, span)

    def _head(self, name: str, pending: Pending | HeldWrite) -> OriginHead:
        """The head of a pending object. Raises OriginError NOT_FOUND if it is deleted."""
        if pending.is_delete:
            raise OriginError(
                OriginFailure.NOT_FOUND, f"{name!a}: deleted here, and not yet at the origin"
            )
        values = {field.lower(): value for field, value in pending.fields}
        values.update(self._overrides)
        fields = dict(body_fields(values))
        content_type = fields.pop("content-type", "") or guess_media_type(name)
        version = Version(pending.etag, pending.size_bytes, int(pending.queued_s))
        return OriginHead(version, content_type, fields)


class PendingWritesUpstream:
    """``upstream``, except for requests of objects with a pending write in ``overlay``."""

    def __init__(self, upstream: Upstream, overlay: PendingWritesOrigin) -> None:
        self._upstream = upstream
        self._overlay = overlay
        self._objects = ObjectUpstream(overlay)

    async def send(self, request: OriginRequest) -> OriginResponse:
        """As ``Upstream.send``."""
        if self._overlay.is_pending_read(request):
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


class _OutdatedRead:
    """What the origin has while a newer object cannot be read: it is validated at each use."""

    def __init__(self, read: OriginRead) -> None:
        self.head = replace(read.head, headers=read.head.headers | {"cache-control": "no-cache"})
        self.span = read.span
        self._read = read

    def pieces(self) -> AsyncIterator[bytes]:
        return self._read.pieces()

    async def close(self) -> None:
        await self._read.close()
