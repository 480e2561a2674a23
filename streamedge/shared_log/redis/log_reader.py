"""Reads the log without a delay: appended entries are pushed to a connection that also reads.

A pushed entry names the entry that it follows. If that is the one that the reader has, nothing was
missed; otherwise, and after a second of silence, the log itself is read, over the same connection.
"""

from __future__ import annotations

import asyncio

from redis.exceptions import ResponseError

from streamedge.fleet.entries import PlacedEntry
from streamedge.fleet.position import START, format_position
from streamedge.shared_log.engine import EngineError, HistoryError
from streamedge.shared_log.redis.address import Address
from streamedge.shared_log.redis.connections import Subscription
from streamedge.shared_log.redis.lines import parse_entry_line, parsing
from streamedge.shared_log.redis.scripts import READ

SILENCE_S = 1.0
"""After this time without an entry the log is read, which also shows that the engine answers."""
SILENCE_TIMEOUT_S = 0.5
READ_TIMEOUT_S = 5.0  # for many entries over a slow path
READ_BYTES_MAX = 2 << 20
"""In one reply; it counts to the server's client-output-buffer-limit for pubsub."""
_OTHER_HISTORY = b"-"


class LogReader:
    """``read_after`` of the engine; one task at a time calls it."""

    def __init__(self, address: Address, log: str, channel: str) -> None:
        self._address = address
        self._log = log
        self._channel = channel
        self._subscription: Subscription | None = None
        self._at: tuple[int, str] | None = None
        """The entry that messages of this subscription follow without a gap."""

    async def read_after(
        self, position: int, entry_id: str, count: int, wait_s: float
    ) -> list[PlacedEntry]:
        """See ``Engine.read_after``."""
        subscription = await self._subscribed()
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + wait_s
        after = (position, entry_id)
        fresh = self._at == after  # what comes next was, or will be, pushed
        while True:
            if not fresh:
                entries = await self._read(subscription, after, count)
                if entries or loop.time() >= deadline_s:
                    return entries
                fresh = True
            pushed = self._pushed(subscription, after, count)
            if pushed:
                self._at = (pushed[-1].position, pushed[-1].id)
                return pushed
            if pushed is None:
                fresh = False
                continue
            left_s = max(0.0, deadline_s - loop.time())
            if not subscription.is_queried and not await subscription.wait(min(left_s, SILENCE_S)):
                await subscription.query(READ, [self._log], *_arguments(after, 1))
            if subscription.is_queried and not await subscription.wait(SILENCE_TIMEOUT_S):
                await self.close()
                raise EngineError(
                    f"the engine at {self._address.place} has been silent for"
                    f" {SILENCE_S + SILENCE_TIMEOUT_S:.1f} s"
                )
            answer = subscription.take_answer()
            if answer == _OTHER_HISTORY:
                raise _history_error(position)
            if subscription.peek() is None:
                if answer == b"" and loop.time() >= deadline_s:
                    return []
                fresh = not _is_missing(answer, position)

    async def close(self) -> None:
        subscription, self._subscription, self._at = self._subscription, None, None
        if subscription is not None:
            await subscription.close()

    async def _subscribed(self) -> Subscription:
        if self._subscription is None or not self._subscription.is_open:
            await self.close()
            subscription = Subscription(self._address)
            await subscription.subscribe(self._channel)
            self._subscription = subscription
        return self._subscription

    def _pushed(
        self, subscription: Subscription, after: tuple[int, str], count: int
    ) -> list[PlacedEntry] | None:
        """What was pushed behind ``after``; None if something is missing in between."""
        if subscription.overflowed:
            subscription.clear()
            return None
        entries: list[PlacedEntry] = []
        while len(entries) < count and (message := subscription.peek()) is not None:
            try:
                line = parse_entry_line(message)
                if line.position > after[0]:  # an older one was read before it was pushed
                    if line.after != after[1]:
                        break
                    entries.append(line.placed())
                    after = (line.position, line.id)
            except ValueError:
                break
            subscription.pop()
        else:
            return entries
        if not entries:
            subscription.clear()
            return None
        return entries

    async def _read(
        self, subscription: Subscription, after: tuple[int, str], count: int
    ) -> list[PlacedEntry]:
        """The entries behind ``after`` in the log; sets ``_at`` if these are all."""
        self._at = None
        reply: bytes = await subscription.run(
            READ, [self._log], *_arguments(after, count), timeout_s=READ_TIMEOUT_S
        )
        if reply == _OTHER_HISTORY:
            raise _history_error(after[0])
        with parsing():
            entries = [parse_entry_line(line).placed() for line in reply.split(b"\n") if line]
        if len(entries) < count and len(reply) < READ_BYTES_MAX:
            self._at = (entries[-1].position, entries[-1].id) if entries else after
        return entries


def _is_missing(answer: bytes | ResponseError | None, position: int) -> bool:
    """Whether an answer has an entry behind ``position``, which then was not pushed; or an error,
    which reading the log will raise or mend."""
    if isinstance(answer, ResponseError):
        return True
    with parsing():
        return answer is not None and answer != b"" and parse_entry_line(answer).position > position


def _arguments(after: tuple[int, str], count: int) -> tuple[str, str, int, int]:
    """Those of the script that reads."""
    position, entry_id = after
    return format_position(position), entry_id, count, READ_BYTES_MAX


def _history_error(position: int) -> HistoryError:
    place = "its beginning" if position == START else format_position(position)
    return HistoryError(f"the shared log does not go on from {place}")
