"""Several origins that stand in for each other, as one origin.

Owns which of them is asked, and whether what came of it is passed on or the next one asked. Each
has a circuit breaker (``breaker``), so that one that is out of order is not asked each time. Only
GET, HEAD and OPTIONS without a body are ever asked again; everything else is the first one's.
Never tries the same origin twice: that is the cache's business, as with any origin.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from itertools import takewhile
from typing import TypeVar

from streamedge.errors import OriginError, OriginFailure
from streamedge.http_date import parse_http_date_s
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts
from streamedge.origin import (
    Duplex,
    Fields,
    Origin,
    OriginHead,
    OriginRead,
    OriginRequest,
    OriginResponse,
    Upstream,
    Version,
)
from streamedge.origin.answers import fold_fields
from streamedge.origin.group.breaker import Breaker, BreakerEvent, BreakerState
from streamedge.spans import Span

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})
_TOO_MANY_REQUESTS = 429

# How a config calls failures: by a word, or by the status that viewers get of them.
_CAUSES: dict[OriginFailure, int | str] = {
    OriginFailure.NOT_FOUND: 404,
    OriginFailure.FORBIDDEN: 403,
    OriginFailure.CHANGED: 412,
    OriginFailure.RANGE_OUTSIDE: 416,
    OriginFailure.UNAVAILABLE: 502,
    OriginFailure.REFUSED: "connect",
    OriginFailure.BROKEN: "connect",  # lost before it brought an answer
    OriginFailure.TIMEOUT: "timeout",
}
Answer = TypeVar("Answer")


class Verdict(Enum):
    """What came of asking one origin."""

    PASSED = "passed"  # it is the answer
    ELSEWHERE = "elsewhere"  # the origin is in order, but another may have what it has not
    FAILED = "failed"  # the origin is out of order


@dataclass(slots=True)
class Member:
    """An origin of a group, by both of its faces. Its breaker counts for that group alone."""

    name: str
    origin: Origin
    upstream: Upstream
    breaker: Breaker = field(default_factory=Breaker)


class OriginGroup:
    """``members`` in the order in which they are asked, as an ``Origin`` and an ``Upstream``.

    ``failover`` has the statuses and, as "connect" and "timeout", the failures that make the next
    one be asked. A read of one version is asked of the next one whatever the failure. What the
    last of them says is the answer.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[Member],
        failover: frozenset[int | str],
        log: Log,
        counts: Counts,
    ) -> None:
        self._name = name
        self._members = tuple(members)
        self._failover = failover
        self._log = log
        self._counts = counts

    async def send(self, request: OriginRequest) -> OriginResponse:
        """As ``Upstream.send``."""
        if request.method not in _REPEATABLE or request.body is not None:
            return await self._members[0].upstream.send(request)

        async def send_to(member: Member) -> OriginResponse:
            response = await member.upstream.send(request)
            return _WatchedResponse(response, partial(self._broke_off, member))

        fields = fold_fields(request.fields)
        of_version = not fields.keys().isdisjoint(("if-match", "if-unmodified-since"))
        return await self._ask(
            send_to,
            lambda response: self._judge(fields, of_version, response),
            lambda response: response.close(),
            of_version=of_version,
        )

    async def head(self, name: str) -> OriginHead:
        """As ``Origin.head``."""
        return await self._ask(lambda member: member.origin.head(name))

    async def read(
        self,
        name: str,
        span: Span | None = None,
        *,
        if_match: Version | None = None,
        if_none_match: Version | None = None,
    ) -> OriginRead | None:
        """As ``Origin.read``."""

        async def read_from(member: Member) -> OriginRead | None:
            read = await member.origin.read(
                name, span, if_match=if_match, if_none_match=if_none_match
            )
            return None if read is None else _WatchedRead(read, partial(self._broke_off, member))

        return await self._ask(read_from, of_version=if_match is not None)

    async def close(self) -> None:
        """The connections are the members', which are origins of their own."""

    async def _ask(
        self,
        ask: Callable[[Member], Awaitable[Answer]],
        judge: Callable[[Answer], Verdict] = lambda _: Verdict.PASSED,
        drop: Callable[[Answer], None] = lambda _: None,
        *,
        of_version: bool = False,
    ) -> Answer:
        """Asks one after the other until an answer passes; that of the last one always does."""
        candidates = self._candidates(of_version)
        for member in candidates:
            attempt = self._attempt(member, ask, judge, of_version)
            verdict, outcome = await attempt
            if verdict is Verdict.PASSED or member is candidates[-1]:
                break
            if not isinstance(outcome, OriginError):
                drop(outcome)
            self._counts.add(Counter.FAILOVERS, member.name)
        if isinstance(outcome, OriginError):
            raise outcome
        return outcome

    async def _attempt(
        self,
        member: Member,
        ask: Callable[[Member], Awaitable[Answer]],
        judge: Callable[[Answer], Verdict],
        of_version: bool,
    ) -> tuple[Verdict, Answer | OriginError]:
        self._happened(member, BreakerEvent.ASKED)
        event = BreakerEvent.ABANDONED
        outcome: Answer | OriginError
        try:
            try:
                answer = await ask(member)
                outcome, verdict = answer, judge(answer)
            except OriginError as exc:
                outcome, verdict = exc, self._judge_error(exc, of_version)
            failed = verdict is Verdict.FAILED
            event = BreakerEvent.FAILED if failed else BreakerEvent.ANSWERED
        finally:
            self._happened(member, event)
        return verdict, outcome

    def _candidates(self, of_version: bool) -> list[Member]:
        """Who is asked, in order: all of them when none is in order.

        A version is asked last of those that failed last: what one has broken off, another goes
        on with.
        """
        now_s = _now_s()
        candidates = [member for member in self._members if member.breaker.admits(now_s)]
        if not candidates:
            candidates = list(self._members)
        for member in takewhile(lambda member: member not in candidates, self._members):
            self._counts.add(Counter.FAILOVERS, member.name)
        if of_version:
            candidates.sort(key=lambda member: member.breaker.failures > 0)
        return candidates

    # What an attempt means

    def _judge(
        self, asked: Mapping[str, str], of_version: bool, response: OriginResponse
    ) -> Verdict:
        if response.status in self._failover:
            return _verdict(response.status)
        if of_version and not _is_of_version(asked, response):
            return Verdict.ELSEWHERE
        return Verdict.PASSED

    def _judge_error(self, error: OriginError, of_version: bool) -> Verdict:
        cause = error.status or _CAUSES[error.failure]
        if cause in self._failover:
            return _verdict(cause)
        return Verdict.ELSEWHERE if of_version else Verdict.PASSED

    # Breakers

    def _broke_off(self, member: Member) -> None:
        self._happened(member, BreakerEvent.FAILED)

    def _happened(self, member: Member, event: BreakerEvent) -> None:
        before = member.breaker.state
        member.breaker = member.breaker.after(event, _now_s())
        after = member.breaker.state
        names = {"origin": member.name, "group": self._name}
        if before is BreakerState.CLOSED and after is BreakerState.OPEN:
            self._counts.add(Counter.OUTAGES, member.name)
            self._log.event("origin_down", **names)
        elif before is not BreakerState.CLOSED and after is BreakerState.CLOSED:
            self._log.event("origin_up", **names)


class _WatchedBody:
    """The pieces of a body; ``broke_off`` is told when its origin ends it early."""

    def __init__(self, pieces: AsyncIterator[bytes], broke_off: Callable[[], None]) -> None:
        self._pieces = pieces
        self._broke_off = broke_off

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._pieces)
        except OriginError:
            self._broke_off()
            raise


class _WatchedRead:
    """An OriginRead with a watched body."""

    def __init__(self, read: OriginRead, broke_off: Callable[[], None]) -> None:
        self.head = read.head
        self.span = read.span
        self._read = read
        self._broke_off = broke_off

    def pieces(self) -> AsyncIterator[bytes]:
        return _WatchedBody(self._read.pieces(), self._broke_off)

    async def close(self) -> None:
        await self._read.close()


class _WatchedResponse:
    """An OriginResponse with a watched body."""

    def __init__(self, response: OriginResponse, broke_off: Callable[[], None]) -> None:
        self.status = response.status
        self.fields = response.fields
        self.size_bytes = response.size_bytes
        self._response = response
        self._broke_off = broke_off

    @property
    def trailers(self) -> Fields:
        return self._response.trailers

    def body(self) -> AsyncIterator[bytes]:
        return _WatchedBody(self._response.body(), self._broke_off)

    def upgrade(self) -> tuple[bytes, Duplex]:
        return self._response.upgrade()

    def close(self) -> None:
        self._response.close()


def _verdict(cause: int | str) -> Verdict:
    """Of a listed cause: most statuses below 500 tell of the request, not of the origin."""
    tells_of_request = isinstance(cause, int) and cause < 500 and cause != _TOO_MANY_REQUESTS
    return Verdict.ELSEWHERE if tells_of_request else Verdict.FAILED


def _is_of_version(asked: Mapping[str, str], response: OriginResponse) -> bool:
    """Whether an answer brings the version that was asked for, by header fields alone.

    Not every server honours the conditions (see ``answers.read_answer``, which is exact).
    """
    if response.status not in (200, 206):
        return False
    fields = fold_fields(response.fields)
    if "if-match" in asked:
        etag = asked["if-match"]
        return fields.get("etag", etag).removeprefix("W/") == etag.removeprefix("W/")
    modified_s = parse_http_date_s(fields.get("last-modified", ""))
    return modified_s in (None, parse_http_date_s(asked["if-unmodified-since"]))


def _now_s() -> float:
    return asyncio.get_running_loop().time()
