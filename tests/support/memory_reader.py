"""A cache reader over bytes in memory; only released bytes are available."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from streamedge.cache.open_object import Failure
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.storage.records import NO_TARGET, Provenance
from streamedge.errors import OriginError
from streamedge.spans import Span


class MemoryReader:
    """Bytes up to ``there`` have come; ``failure`` is what keeps the others from coming."""

    def __init__(self, data: bytes, there: int | None = None) -> None:
        self.data = data
        self.there = len(data) if there is None else there
        self.failure: OriginError | None = None
        self.asked: list[Span] = []
        self.prefetched: list[Span] = []
        self.closed = False
        self.result = CacheResult.HIT
        self._woken: list[tuple[Span, Callable[[Failure | None], None]]] = []

    def is_current(self) -> bool:
        return True

    def provenance(self) -> Provenance:
        return Provenance(NO_TARGET, 0, {})

    @property
    def as_reader(self) -> Reader:
        return cast(Reader, self)

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    @property
    def read_bytes(self) -> int:
        return sum(span.size for span in self.asked)

    def release(self, there: int) -> None:
        """More bytes have come."""
        self.there = there
        woken, self._woken = self._woken, []
        for want, call in woken:
            if want.start < there:
                call(None)
            else:
                self._woken.append((want, call))

    def ready_end(self, position: int, end: int) -> int:
        return max(position, min(end, self.there))

    def is_complete(self, position: int) -> bool:
        return self.there == len(self.data)

    def copy(self, span: Span) -> bytes:
        assert span.end <= self.there
        return self.data[span.start : span.end]

    def prefetch(self, want: Span, lead_bytes: int = 0) -> None:
        self.prefetched.append(want)

    def when_ready(
        self,
        want: Span,
        woken: Callable[[Failure | None], None],
        *,
        eager: bool = False,
        lead_bytes: int = 0,
    ) -> Callable[[], None]:
        assert want.start >= self.there, "waiting for what is there never ends well"
        entry = (want, woken)
        self._woken.append(entry)
        return lambda: self._woken.remove(entry) if entry in self._woken else None

    async def read(self, span: Span) -> bytes:
        span = span.intersect(Span(0, len(self.data)))
        self.asked.append(span)
        if self.failure is not None:
            raise self.failure
        return self.data[span.start : span.end]

    def close(self) -> None:
        self.closed = True
