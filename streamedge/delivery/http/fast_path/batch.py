"""Answers the hits of one iteration of the event loop together.

First the batch decides all of its requests, then it sends all responses, then it counts and logs
them. So each step's code is still in the processor's caches when it runs again; the kernel's send
path would evict it between one hit and the next. A batch ends with the iteration in which it began.

For a cold key, one request goes to the handler. The others are deferred until its task has started
the origin request, so that they can wait for that response (``http1.connection``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from streamedge.delivery.http.fast_path.remembered import Hit, RememberedRequest, SentHit
from streamedge.delivery.http.fast_path.request_memo import ByteRange

BATCH_MAX = 64
"""Requests in a batch: the first one waits while the others are decided, 5 us each."""


class BatchConnection(Protocol):
    """A connection that has received bytes."""

    loop: asyncio.AbstractEventLoop

    def decide_hit(
        self, now_s: float, pending_keys: set[str]
    ) -> tuple[RememberedRequest[Any, Any], ByteRange | None, Hit[Any]] | None: ...

    def send_hit(
        self,
        remembered: RememberedRequest[Any, Any],
        byte_range: ByteRange | None,
        hit: Hit[Any],
        loop_s: float,
    ) -> SentHit | None: ...

    def abort_with(self, cause: Exception) -> None: ...


class HitBatch:
    """A worker's batch. ``finished`` gets all responses that were sent at once and completely.

    ``before_hits``, where it is set, is called before each batch is decided.
    """

    __slots__ = ("_deferred", "_due", "_finished", "_pending_keys", "before_hits")

    def __init__(self, finished: Callable[[Sequence[SentHit]], None]) -> None:
        self._due: list[BatchConnection] = []
        self._deferred: list[BatchConnection] = []
        self._pending_keys: set[str] = set()
        self._finished = finished
        self.before_hits: Callable[[], None] | None = None

    def add(self, connection: BatchConnection) -> None:
        """Adds a connection, which is decided before the loop waits again."""
        due = self._due
        due.append(connection)
        if len(due) == 1:
            connection.loop.call_soon(self.run)
        elif len(due) == BATCH_MAX:
            self.run()

    def defer(self, connection: BatchConnection) -> None:
        """Decides ``connection`` again once the task of the first request for its key runs."""
        self._deferred.append(connection)

    def finish(self) -> None:
        """Decides all connections that are due or deferred."""
        while self._due or self._deferred:
            self._run_again()

    def _run_again(self) -> None:
        self._due += self._deferred
        self._deferred.clear()
        self._pending_keys.clear()
        self.run()

    def run(self) -> None:
        """Decides, sends and logs all that are due; does nothing when none is."""
        due, self._due = self._due, []
        if not due:
            return
        if self.before_hits is not None:
            self.before_hits()
        now_s, pending_keys, hits = time.time(), self._pending_keys, []
        had_none = not pending_keys
        for connection in due:
            try:
                decided = connection.decide_hit(now_s, pending_keys)
            except Exception as cause:  # noqa: BLE001 - a fault in one request does not affect the others
                connection.abort_with(cause)
                continue
            if decided is not None:
                hits.append((connection, decided))
        if pending_keys and had_none:
            due[0].loop.call_soon(self._run_again)
        loop_s, sent_hits = due[0].loop.time(), []
        for connection, (remembered, byte_range, hit) in hits:
            try:
                sent = connection.send_hit(remembered, byte_range, hit, loop_s)
            except Exception as cause:  # noqa: BLE001 - nor does one while sending
                connection.abort_with(cause)
                continue
            if sent is not None:
                sent_hits.append(sent)
        if sent_hits:
            self._finished(sent_hits)
