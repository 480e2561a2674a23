"""The presences that last, kept up to date by the reports that are pushed.

A presence is kept for its lease from when its report came, by this process's clock, unless the edge
withdraws it. So it lasts at least as long as its edge counts on it, even if the engine drops it
earlier: because its clock jumped, because it failed over, or because it was emptied.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from redis.exceptions import ResponseError

from streamedge.fleet.members import Presence
from streamedge.shared_log.engine import EngineError, Presences
from streamedge.shared_log.redis.address import Address
from streamedge.shared_log.redis.connections import Subscription
from streamedge.shared_log.redis.lines import (
    PresenceLine,
    name_in_presence_line,
    parse_presence_line,
    parse_presences,
    parsing,
)
from streamedge.shared_log.redis.log_reader import SILENCE_S, SILENCE_TIMEOUT_S
from streamedge.shared_log.redis.scripts import PRESENCES


class PresenceTable:
    """``presence_after`` of the engine; one task at a time calls it."""

    def __init__(
        self, address: Address, *, state: str, names: str, key_prefix: str, channel: str
    ) -> None:
        self._address = address
        self._keys = [state, names]
        self._key_prefix = key_prefix
        self._channel = channel
        self._subscription: Subscription | None = None
        self._lasting: dict[str, tuple[Presence, float]] = {}  # with the end of its lease
        self._complete_at_s = 0.0
        self._unreadable_until_s = 0.0
        """Until then a presence lasts that another version of the program wrote."""

    async def after(self, wait_s: float) -> Presences:
        """See ``Engine.presence_after``."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + wait_s
        if self._subscription is None or not self._subscription.is_open:
            subscription = await self._subscribe()
            await self._read(subscription)
            return self._presences()
        subscription = self._subscription
        while True:
            left_s = max(0.0, deadline_s - loop.time())
            if not subscription.is_queried and not await subscription.wait(min(left_s, SILENCE_S)):
                await subscription.query(PRESENCES, self._keys, self._key_prefix)
            if subscription.is_queried and not await subscription.wait(SILENCE_TIMEOUT_S):
                await self.close()
                raise EngineError(
                    f"the engine at {self._address.place} has been silent for"
                    f" {SILENCE_S + SILENCE_TIMEOUT_S:.1f} s"
                )
            has_changed = self._apply_messages(subscription)
            answer = subscription.take_answer()
            if subscription.overflowed or isinstance(answer, ResponseError):
                subscription.clear()
                await self._read(subscription)
            elif answer is not None:
                self._replace(answer)
            if has_changed or loop.time() >= deadline_s:
                return self._presences()

    def beside(self, presences: Mapping[str, Presence]) -> dict[str, Presence]:
        """These presences, as the engine has just returned them, and those that last besides."""
        return {**self._presences().by_name, **presences}

    async def close(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.close()

    async def _subscribe(self) -> Subscription:
        await self.close()
        subscription = Subscription(self._address)
        await subscription.subscribe(self._channel)
        self._subscription = subscription
        return subscription

    async def _read(self, subscription: Subscription) -> None:
        """Reads all presences from the engine."""
        self._replace(await subscription.run(PRESENCES, self._keys, self._key_prefix))

    def _replace(self, reply: bytes) -> None:
        now_s = asyncio.get_running_loop().time()
        with parsing():
            complete_ms, _data_set, lasting = parse_presences(reply)
        self._complete_at_s = now_s + complete_ms / 1000
        self._lasting = {name: one for name, one in self._lasting.items() if one[1] > now_s}
        for left_ms, presence in lasting:
            self._lasting[presence.name] = (presence, now_s + (left_ms + 1) / 1000)

    def _apply_messages(self, subscription: Subscription) -> bool:
        """Applies what has come, of each edge the newest; whether anything has."""
        has_changed = subscription.overflowed
        newest: dict[bytes, bytes] = {}  # in the order in which they came
        while (message := subscription.peek()) is not None:
            subscription.pop()
            name = name_in_presence_line(message)
            newest.pop(name, None)
            newest[name] = message
        for message in newest.values():
            with contextlib.suppress(ValueError):  # of something else
                self._apply(parse_presence_line(message))
                has_changed = True
        return has_changed

    def _apply(self, line: PresenceLine) -> None:
        now_s = asyncio.get_running_loop().time()
        end_s = now_s + line.lease_ms / 1000
        self._complete_at_s = now_s + line.complete_ms / 1000
        if line.lease_ms == 0:
            self._lasting.pop(line.name, None)
        elif line.presence is None:
            self._unreadable_until_s = max(self._unreadable_until_s, end_s)
        else:
            self._lasting[line.name] = (line.presence, end_s)

    def _presences(self) -> Presences:
        now_s = asyncio.get_running_loop().time()
        return Presences(
            {name: presence for name, (presence, end_s) in self._lasting.items() if end_s > now_s},
            now_s >= max(self._complete_at_s, self._unreadable_until_s),
        )
