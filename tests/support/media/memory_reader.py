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
    """The first ``available_bytes`` have arrived; ``failure`` is raised by all reads."""

    def __init__(self, data: bytes, available_bytes: int | None = None) -> None:
        self.data = data
        self.available_bytes = len(data) if available_bytes is None else available_bytes
        self.failure: OriginError | None = None
        self.reads: list[Span] = []
        self.prefetched: list[Span] = []
        self.closed = False
        self.result = CacheResult.HIT
        self._waits: list[tuple[Span, Callable[[Failure | None], None]]] = []

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
        return sum(span.size for span in self.reads)

    def release(self, available_bytes: int) -> None:
        """More bytes arrive; wakes what waits for them."""
        self.available_bytes = available_bytes
        woken, self._waits = self._waits, []
        for want, call in woken:
            if want.start < available_bytes:
                call(None)
            else:
                self._waits.append((want, call))

    def ready_end(self, position: int, end: int) -> int:
        return max(position, min(end, self.available_bytes))

    def is_complete(self, position: int) -> bool:
        return self.available_bytes == len(self.data)

    def copy(self, span: Span) -> bytes:
        assert span.end <= self.available_bytes
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
        assert want.start >= self.available_bytes, "these bytes are available already"
        entry = (want, woken)
        self._waits.append(entry)
        return lambda: self._waits.remove(entry) if entry in self._waits else None

    async def read(self, span: Span) -> bytes:
        span = span.intersect(Span(0, len(self.data)))
        self.reads.append(span)
        if self.failure is not None:
            raise self.failure
        return self.data[span.start : span.end]

    def close(self) -> None:
        self.closed = True
