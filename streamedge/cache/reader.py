"""A reader: one response's, one viewer's or one parser's view of one version of an asset.

Owns nothing but its place: what is ready, waiting for the rest, and leaving. All its bytes are of
the version it was opened on, whatever happens to the asset meanwhile; leaving stops no fill.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum

from streamedge.cache.fill_plan import LEAD_BYTES
from streamedge.cache.open_object import Failure, OpenObject, Waiter
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.extent import Ready
from streamedge.cache.storage.records import NO_TARGET, Asset, InvalidationTarget, Provenance
from streamedge.control.invalidation_index import Verdict
from streamedge.errors import CacheFullError, OriginError, OriginFailure
from streamedge.origin import UNKNOWN_BYTES, Fields, OriginHead
from streamedge.spans import Span


class CacheResult(Enum):
    """How an open went, in the words of CloudFront's X-Cache."""

    HIT = "Hit"
    MISS = "Miss"
    REFRESH_HIT = "RefreshHit"
    ERROR = "Error"


class Reader:
    """Open on a version until ``close``. ``result`` is how the open went, in X-Cache's words."""

    __slots__ = ("_is_urgent", "_opened", "_waiter", "position", "result", "subject", "want_end")

    def __init__(
        self, opened: OpenObject, result: CacheResult, subject: InvalidationTarget = NO_TARGET
    ) -> None:
        self._opened = opened
        self.subject = subject  # what invalidations are matched against, of who reads
        self.position = 0
        self.want_end = UNKNOWN_BYTES
        self.result = result
        self._is_urgent = True
        self._waiter: Waiter | None = None  # the last one
        opened.enter(self)

    @property
    def head(self) -> OriginHead:
        return self._opened.head

    @property
    def asset(self) -> Asset:
        """Whose version it is."""
        return self._opened.asset

    def provenance(self) -> Provenance:
        """What it reads, for whom, and the position at which the origin was last asked; also after
        ``close``."""
        record = self._opened.record
        return Provenance(self.subject, record.position, record.head.headers)

    def is_current(self) -> bool:
        """Whether somebody who comes now would get this version, as far as it was not written to
        or invalidated (hard or soft) since its origin was asked; its TTL has no part in that.

        For a play that goes on: a seek after an invalidation opens the medium anew when this is
        False, and goes on with what it has when that fails. Harmless after ``close``.
        """
        return self._opened.validity(self.subject).verdict is Verdict.FRESH

    def again(self) -> Reader:
        """Another reader of the same version."""
        return Reader(self._opened, self.result, self.subject)

    @property
    def size_bytes(self) -> int:
        """Size of the whole object."""
        return self._opened.version.size_bytes

    @property
    def trailers(self) -> Fields:
        """What came behind its body, once all of that is here."""
        return list(self._opened.record.trailers)

    def age_s(self, now_s: float) -> float:
        """Its age (RFC 9111 §4.2.3), in seconds."""
        return self._opened.record.age_s(now_s)

    def lifetime_s(self, rules: TtlRules) -> float:
        """Up to which age it is fresh, in seconds."""
        return self._opened.lifetime_s(rules)

    def ready(self, position: int, end: int) -> Ready | None:
        """What can be sent from ``position`` on, before ``end``; None: wait for it."""
        self.position = position
        return self._opened.ready(position, end)

    def ready_end(self, position: int, end: int) -> int:
        """Up to where bytes from ``position`` on are there; at most ``end``."""
        self.position = position
        return self._opened.ready_end(position, end)

    def is_complete(self, position: int) -> bool:
        """Whether nothing need be asked for at ``position``: its extent is known to be whole."""
        return self._opened.is_complete(position)

    def copy(self, span: Span) -> bytes:
        """Bytes that ``ready_end`` said are there.

        Raises OriginError BROKEN when a cache file turns out to be cut short; it is fetched anew.
        """
        data = self._opened.copy(span)
        if len(data) < span.size:
            raise OriginError(OriginFailure.BROKEN, "a cache file is shorter than it should be")
        return data

    def lost(self, position: int) -> None:
        """A byte that was ready is not in its file: the file is dropped, its bytes fetched anew."""
        self._opened.lose(position)

    def read_ahead(self) -> None:
        """What it waits for is read ahead: no viewer waits for it yet, until ``expedite``."""
        self._is_urgent = False

    def expedite(self) -> None:
        """A viewer waits for what it reads, from now on."""
        if not self._is_urgent:
            self._is_urgent = True
            if self._waiter is not None:
                self._opened.expedite(self._waiter)

    def prefetch(self, want: Span, lead_bytes: int = LEAD_BYTES) -> None:
        """Asks for bytes without waiting for them; a full cache shows when they are waited for."""
        self.want_end = want.end
        try:
            self._opened.demand(want, lead_bytes, is_urgent=False)
        except CacheFullError:
            return

    def when_ready(
        self,
        want: Span,
        woken: Callable[[Failure | None], None],
        *,
        eager: bool = False,
        lead_bytes: int = LEAD_BYTES,
    ) -> Callable[[], None]:
        """Calls ``woken`` once the byte at ``want.start`` is there (None) or cannot come (why).

        ``want`` is how far the reader means to go. ``eager``: at once, rather than with others
        every few milliseconds. Returns what takes the wish back.
        """
        self.position, self.want_end = want.start, want.end
        waiter = Waiter(want, lead_bytes, eager, woken, self._is_urgent)
        self._waiter = waiter
        self._opened.add_waiter(waiter)
        return lambda: self._opened.remove_waiter(waiter)

    async def wait(self, want: Span, *, eager: bool = False, lead_bytes: int = LEAD_BYTES) -> None:
        """Returns once the byte at ``want.start`` is there.

        Raises OriginError or CacheFullError when it cannot come.
        """
        if self.ready(want.start, want.start + 1) is not None:
            return
        landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def woken(failure: Failure | None) -> None:
            if landed.done():
                return
            if failure is None:
                landed.set_result(None)
            else:
                landed.set_exception(_copy_of(failure))

        take_back = self.when_ready(want, woken, eager=eager, lead_bytes=lead_bytes)
        try:
            await landed
        finally:
            take_back()

    async def read(self, span: Span) -> bytes:
        """Copies the bytes of ``span`` (clipped to the object's end), waiting for all of them."""
        parts = []
        at = span.start
        self.want_end = span.end
        while at < (limit := min(span.end, self.size_bytes)):  # its size may be found meanwhile
            end = self.ready_end(at, limit)
            if end == at:
                await self.wait(Span(at, limit), eager=True)
            else:
                # Now, because memory that stands for the disk may go once the reader has passed.
                part = self._opened.copy(Span(at, end))
                parts.append(part)
                at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Leaves; harmless when done twice."""
        self._opened.leave(self)


def _copy_of(failure: Failure) -> Failure:
    """The same failure to raise in one more task: a shared one would gather tracebacks."""
    if isinstance(failure, OriginError):
        again: Failure = OriginError(failure.failure, str(failure))
    else:
        again = CacheFullError(str(failure))
    again.__cause__ = failure
    return again
