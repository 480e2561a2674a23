"""A reader: the view that one response, player or parser has of one version of an asset.

It returns the bytes that are ready, waits for the others, and leaves the version at the end. All
its bytes are of the version that it was opened on, whatever happens to the asset meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

from streamedge.cache.fill_plan import LEAD_BYTES
from streamedge.cache.open_object import Failure, OpenObject, Waiter
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.extent import Ready
from streamedge.cache.storage.records import NO_TARGET, Asset, InvalidationTarget, Provenance
from streamedge.control.invalidation_index import Verdict
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.origin import UNKNOWN_BYTES, Fields, OriginHead
from streamedge.spans import NO_BYTES, Span


class CacheResult(StrEnum):
    """The result of an open, in the words of CloudFront's X-Cache."""

    HIT = "Hit"
    MISS = "Miss"
    REFRESH_HIT = "RefreshHit"
    ERROR = "Error"


class Reader:
    """Open on the version ``open_object`` until ``close``. ``result``: of the open, for X-Cache."""

    __slots__ = (
        "_ahead",
        "_is_urgent",
        "_waiter",
        "open_object",
        "position",
        "result",
        "subject",
        "want_end",
    )

    def __init__(
        self, open_object: OpenObject, result: CacheResult, subject: InvalidationTarget = NO_TARGET
    ) -> None:
        self.open_object = open_object
        self.subject = subject  # what invalidations match for this reader
        self.position = 0
        self.want_end = UNKNOWN_BYTES
        self.result = result
        self._ahead = NO_BYTES  # requested ahead, last
        self._is_urgent = True
        self._waiter: Waiter | None = None  # the last one
        open_object.enter(self)

    @property
    def head(self) -> OriginHead:
        return self.open_object.head

    @property
    def asset(self) -> Asset:
        """The asset of its version."""
        return self.open_object.asset

    def provenance(self) -> Provenance:
        """The fields, target and log position that revocations match; also after ``close``."""
        record = self.open_object.record
        return Provenance(self.subject, record.position, record.head.headers)

    def is_current(self) -> bool:
        """Whether no write and no invalidation (hard or soft) came since the request to the origin.
        The TTL does not count.

        A player's seek opens the medium again when this is False, and continues with the old one
        when that fails. Harmless after ``close``.
        """
        return self.open_object.validity(self.subject).verdict is Verdict.FRESH

    def clone(self) -> Reader:
        """Another reader of the same version."""
        return Reader(self.open_object, self.result, self.subject)

    @property
    def size_bytes(self) -> int:
        """Size of the whole object."""
        return self.open_object.version.size_bytes

    @property
    def trailers(self) -> Fields:
        """The trailer fields, once all of the body is here."""
        return list(self.open_object.record.trailers)

    def age_s(self, now_s: float) -> float:
        """Its age (RFC 9111 §4.2.3), in seconds."""
        return self.open_object.record.age_s(now_s)

    def lifetime_s(self, rules: TtlRules) -> float:
        """Its freshness lifetime, in seconds of age."""
        return self.open_object.lifetime_s(rules)

    def ready(self, position: int, end: int) -> Ready | None:
        """The bytes from ``position`` on, before ``end``, that can be sent now; None: wait."""
        self.position = position
        return self.open_object.files.ready(position, end)

    def ready_end(self, position: int, end: int) -> int:
        """The end of the bytes from ``position`` on that are there; at most ``end``."""
        self.position = position
        return self.open_object.files.ready_end(position, end)

    def is_complete(self, position: int) -> bool:
        """Whether the extent at ``position`` is known to be whole, so no request is needed."""
        return self.open_object.files.is_complete(position)

    def copy(self, span: Span) -> bytes:
        """Copies bytes that ``ready_end`` reported.

        Raises OriginError BROKEN if a cache file is truncated; its bytes are then fetched again.
        """
        data = self.open_object.copy(span)
        if len(data) < span.size:
            raise OriginError(OriginFailure.BROKEN, "a cache file is shorter than it should be")
        return data

    def report_missing(self, position: int) -> None:
        """Reports that a ready byte is missing in its file, so it is fetched again."""
        self.open_object.drop_extent_at(position)

    def read_ahead(self) -> None:
        """From now on it reads ahead: no viewer waits for its bytes, until ``expedite``."""
        self._is_urgent = False

    def expedite(self) -> None:
        """From now on a viewer waits for its bytes."""
        if not self._is_urgent:
            self._is_urgent = True
            if self._waiter is not None:
                self.open_object.expedite(self._waiter)

    def prefetch(self, want: Span, lead_bytes: int = LEAD_BYTES) -> None:
        """Requests bytes without waiting; errors of a full cache are raised by a later wait.

        Their fill continues while the reader approaches them, also when other readers leave.
        """
        self._ahead = want
        self.want_end = want.end
        try:
            self.open_object.demand(want, lead_bytes, is_urgent=False)
        except CacheFullError:
            return

    def when_ready(
        self,
        want: Span,
        wake: Callable[[Failure | None], None],
        *,
        eager: bool = False,
        lead_bytes: int = LEAD_BYTES,
    ) -> Callable[[], None]:
        """Calls ``wake`` once the byte at ``want.start`` is there (None) or cannot come (error).

        ``want`` is how far the reader means to go. ``eager``: at once, rather than with others
        every few milliseconds. Returns a function that cancels the wait.
        """
        self.position, self.want_end = want.start, self._read_end(want)
        waiter = Waiter(want, lead_bytes, eager, wake, self._is_urgent)
        self._waiter = waiter
        self.open_object.add_waiter(waiter)
        return lambda: self.open_object.remove_waiter(waiter)

    async def wait(self, want: Span, *, eager: bool = False, lead_bytes: int = LEAD_BYTES) -> None:
        """Returns once the byte at ``want.start`` is there.

        Raises OriginError or CacheFullError when it cannot come.
        """
        if self.ready(want.start, want.start + 1) is not None:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake(failure: Failure | None) -> None:
            if future.done():
                return
            if failure is None:
                future.set_result(None)
            else:
                future.set_exception(_copy_of(failure))

        cancel_wait = self.when_ready(want, wake, eager=eager, lead_bytes=lead_bytes)
        try:
            await future
        finally:
            cancel_wait()

    async def read(self, span: Span) -> bytes:
        """Copies the bytes of ``span`` (clipped to the object's end), waiting for all of them."""
        parts = []
        at = span.start
        self.want_end = self._read_end(span)
        while at < (limit := min(span.end, self.size_bytes)):  # may change in the loop
            end = self.ready_end(at, limit)
            if end == at:
                await self.wait(Span(at, limit), eager=True)
            else:
                # Copied now: an extent in memory may be freed once the reader has passed it.
                part = self.open_object.copy(Span(at, end))
                parts.append(part)
                at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_end(self, want: Span) -> int:
        """The end of ``want``, or of the bytes requested ahead if the reader approaches them."""
        ahead = self._ahead
        is_near = ahead.start - LEAD_BYTES <= want.start < ahead.end
        return max(want.end, ahead.end) if is_near else want.end

    def close(self) -> None:
        """Leaves the version; harmless when called twice."""
        self._waiter = None  # it refers to the response that refers to this reader
        self.open_object.leave(self)


def _copy_of(failure: Failure) -> Failure:
    """A copy to raise in another task: a shared exception would collect tracebacks."""
    if isinstance(failure, OriginError):
        copy: Failure = OriginError(failure.failure, str(failure))
    else:
        copy = CacheFullError(str(failure))
    copy.__cause__ = failure
    return copy
