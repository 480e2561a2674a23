"""A source for a sender: a file of which some bytes have arrived."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

from streamedge.cache.open_object import Failure
from streamedge.cache.storage.extent import Ready
from streamedge.spans import Span


class PartialFile:
    """A file of which ``available_bytes`` can be sent; records which bytes a sender waits for."""

    def __init__(self, folder: Path, data: bytes, available_bytes: int | None = None) -> None:
        path = folder / f"object-{random.getrandbits(64):x}"
        path.write_bytes(data)
        self.fd = os.open(path, os.O_RDWR)
        path.unlink()
        self.available_bytes = len(data) if available_bytes is None else available_bytes
        self.bytes_after_loss = self.available_bytes  # what is left once a sender reports a loss
        self.lost_at: list[int] = []
        self.waits: list[tuple[Span, bool]] = []  # span and ``eager`` of each wait
        self.waiting = asyncio.Event()
        self.callback: Callable[[Failure | None], None] | None = None

    def ready(self, position: int, end: int) -> Ready | None:
        size = min(end, self.available_bytes) - position
        return Ready(self.fd, position, size) if size > 0 else None

    def report_missing(self, position: int) -> None:
        self.lost_at.append(position)
        self.available_bytes = min(self.available_bytes, self.bytes_after_loss)

    def when_ready(
        self, want: Span, woken: Callable[[Failure | None], None], *, eager: bool = False
    ) -> Callable[[], None]:
        assert self.callback is None
        assert want.size
        assert isinstance(eager, bool)
        self.waits.append((want, eager))
        self.callback = woken
        self.waiting.set()
        return self._cancel_wait

    def arrive(self, available_bytes: int) -> None:
        """More bytes arrive; wakes the sender that waits."""
        self.available_bytes = available_bytes
        self._wake(None)

    def fail(self, failure: Failure) -> None:
        """The fill fails; wakes the sender that waits."""
        self._wake(failure)

    def _wake(self, failure: Failure | None) -> None:
        assert self.callback is not None
        callback, self.callback = self.callback, None
        self.waiting.clear()
        callback(failure)

    def _cancel_wait(self) -> None:
        self.callback = None
