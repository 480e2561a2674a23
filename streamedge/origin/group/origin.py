"""An origin group: several origins with failover, as one origin.

A request goes to the first member; if it fails, to the next one. Each member has a circuit breaker
(``breaker``), so that a failed one is skipped. Only GET, HEAD and OPTIONS without a body fail over;
other requests go to the first member only. The group never tries the same member twice: as with any
origin, retries belong to the cache.
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
from streamedge.ops.metrics import Counter, Counts, State, pair
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
from streamedge.origin.buffered import buffered_body
from streamedge.origin.group.breaker import Breaker, BreakerEvent, BreakerState, is_failure_status
from streamedge.origin.health import STATE_VALUES
from streamedge.spans import Span

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})

# The names of failures in a config: a word, or the status of the response to the viewer.
_CAUSES: dict[OriginFailure, int | str] = {
    OriginFailure.NOT_FOUND: 404,
    OriginFailure.FORBIDDEN: 403,
    OriginFailure.CHANGED: 412,
    OriginFailure.RANGE_OUTSIDE: 416,
    OriginFailure.UNAVAILABLE: 502,
    OriginFailure.REFUSED: "connect",
    OriginFailure.BROKEN: "connect",  # lost before a response
    OriginFailure.TIMEOUT: "timeout",
}
Result = TypeVar("Result")


class AttemptResult(Enum):
    """The result of one attempt at one member."""

    PASSED = "passed"  # it is the response of the group
    ELSEWHERE = "elsewhere"  # the member works, but another one may have the object
    FAILED = "failed"  # the member has failed


@dataclass(slots=True)
class Member:
    """An origin of a group, as ``Origin`` and as ``Upstream``. Its breaker belongs to the group."""

    name: str
    origin: Origin
    upstream: Upstream
    breaker: Breaker = field(default_factory=Breaker)


class OriginGroup:
    """``members`` in the order of failover, as an ``Origin`` and an ``Upstream``.

    ``failover`` has the statuses, and the failures "connect" and "timeout", after which the next
    member is tried. A read of one version tries the next member after any failure. The result of
    the last member is the result of the group.
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
            return _WatchedResponse(response, partial(self._on_cut_off, member))

        fields = fold_fields(request.fields)
        names_version = not fields.keys().isdisjoint(("if-match", "if-unmodified-since"))
        return await self._try_members(
            send_to,
            lambda response: self._judge(fields, response, names_version=names_version),
            lambda response: response.close(),
            names_version=names_version,
        )

    async def head(self, name: str) -> OriginHead:
        """As ``Origin.head``."""
        return await self._try_members(lambda member: member.origin.head(name))

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
            return None if read is None else _WatchedRead(read, partial(self._on_cut_off, member))

        return await self._try_members(read_from, names_version=if_match is not None)

    async def close(self) -> None:
        """Does nothing: the connections belong to the members."""

    async def _try_members(
        self,
        attempt: Callable[[Member], Awaitable[Result]],
        judge: Callable[[Result], AttemptResult] = lambda _: AttemptResult.PASSED,
        drop: Callable[[Result], None] = lambda _: None,
        *,
        names_version: bool = False,
    ) -> Result:
        """Tries one member after another until a result passes; the last one always passes.

        ``names_version``: the request is for one version of the object.
        """
        candidates = self._candidates(names_version=names_version)
        for member in candidates:
            coroutine = self._attempt(member, attempt, judge, names_version=names_version)
            result, outcome = await coroutine
            if result is AttemptResult.PASSED or member is candidates[-1]:
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
        attempt: Callable[[Member], Awaitable[Result]],
        judge: Callable[[Result], AttemptResult],
        *,
        names_version: bool,
    ) -> tuple[AttemptResult, Result | OriginError]:
        self._record(member, BreakerEvent.SENT)
        event = BreakerEvent.ABANDONED
        outcome: Result | OriginError
        try:
            try:
                response = await attempt(member)
                outcome, result = response, judge(response)
            except OriginError as exc:
                outcome, result = exc, self._judge_error(exc, names_version=names_version)
            failed = result is AttemptResult.FAILED
            event = BreakerEvent.FAILED if failed else BreakerEvent.ANSWERED
        finally:
            self._record(member, event)
        return result, outcome

    def _candidates(self, *, names_version: bool) -> list[Member]:
        """The members to try, in order: those whose breaker admits a request, or all if none does.

        For a read of one version, members that failed last are tried last: another one continues
        a read that was cut off.
        """
        now_s = monotonic_s()
        candidates = [member for member in self._members if member.breaker.admits(now_s)]
        if not candidates:
            candidates = list(self._members)
        for member in takewhile(lambda member: member not in candidates, self._members):
            self._counts.add(Counter.FAILOVERS, member.name)
        if names_version:
            candidates.sort(key=lambda member: member.breaker.failures > 0)
        return candidates

    # The meaning of a result

    def _judge(
        self, request_fields: Mapping[str, str], response: OriginResponse, *, names_version: bool
    ) -> AttemptResult:
        if response.status in self._failover:
            return _result_of_cause(response.status)
        if names_version and not _answers_version(request_fields, response):
            return AttemptResult.ELSEWHERE
        return AttemptResult.PASSED

    def _judge_error(self, error: OriginError, *, names_version: bool) -> AttemptResult:
        cause = error.status or _CAUSES[error.failure]
        if cause in self._failover:
            return _result_of_cause(cause)
        return AttemptResult.ELSEWHERE if names_version else AttemptResult.PASSED

    # Breakers

    def _on_cut_off(self, member: Member) -> None:
        self._record(member, BreakerEvent.FAILED)

    def _record(self, member: Member, event: BreakerEvent) -> None:
        before = member.breaker.state
        member.breaker = member.breaker.after(event, monotonic_s())
        after = member.breaker.state
        if after is not before:
            label = pair(self._name, member.name)
            self._counts.set_state(State.BREAKER, label, STATE_VALUES[after])
        names = {"origin": member.name, "group": self._name}
        if before is BreakerState.CLOSED and after is BreakerState.OPEN:
            self._counts.add(Counter.OUTAGES, member.name)
            self._log.event("origin_down", **names)
        elif before is not BreakerState.CLOSED and after is BreakerState.CLOSED:
            self._log.event("origin_up", **names)


class _WatchedBody:
    """The pieces of a body; ``on_cut_off`` is called when the origin ends it early."""

    def __init__(self, pieces: AsyncIterator[bytes], on_cut_off: Callable[[], None]) -> None:
        self._pieces = pieces
        self._on_cut_off = on_cut_off

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._pieces)
        except OriginError:
            self._on_cut_off()
            raise


class _WatchedRead:
    """An ``OriginRead`` with a watched body."""

    def __init__(self, read: OriginRead, on_cut_off: Callable[[], None]) -> None:
        self.head = read.head
        self.span = read.span
        self._read = read
        self._on_cut_off = on_cut_off

    def pieces(self) -> AsyncIterator[bytes]:
        return _WatchedBody(self._read.pieces(), self._on_cut_off)

    async def buffered(self, within_s: float) -> bytes | None:
        """As ``BufferedBody.buffered``."""
        return await buffered_body(self._read, within_s)

    async def close(self) -> None:
        await self._read.close()


class _WatchedResponse:
    """An ``OriginResponse`` with a watched body."""

    def __init__(self, response: OriginResponse, on_cut_off: Callable[[], None]) -> None:
        self.status = response.status
        self.fields = response.fields
        self.size_bytes = response.size_bytes
        self._response = response
        self._on_cut_off = on_cut_off

    @property
    def trailers(self) -> Fields:
        return self._response.trailers

    def body(self) -> AsyncIterator[bytes]:
        return _WatchedBody(self._response.body(), self._on_cut_off)

    async def buffered(self, within_s: float) -> bytes | None:
        """As ``BufferedBody.buffered``."""
        return await buffered_body(self._response, within_s)

    def take_received_body(self) -> bytes | None:
        return self._response.take_received_body()

    def upgrade(self) -> tuple[bytes, Duplex]:
        return self._response.upgrade()

    def close(self) -> None:
        self._response.close()


def _result_of_cause(cause: int | str) -> AttemptResult:
    """The result for a failover cause: most statuses below 500 concern the request, not the
    member."""
    concerns_request = isinstance(cause, int) and not is_failure_status(cause)
    return AttemptResult.ELSEWHERE if concerns_request else AttemptResult.FAILED


def _answers_version(request_fields: Mapping[str, str], response: OriginResponse) -> bool:
    """Whether a response is for the requested version, judged by header fields only.

    Not every server honours the conditions (see ``answers.read_response``, which is exact).
    """
    if response.status not in (200, 206):
        return False
    fields = fold_fields(response.fields)
    if "if-match" in request_fields:
        etag = request_fields["if-match"]
        return fields.get("etag", etag).removeprefix("W/") == etag.removeprefix("W/")
    modified_s = parse_http_date_s(fields.get("last-modified", ""))
    return modified_s in (None, parse_http_date_s(request_fields["if-unmodified-since"]))


def monotonic_s() -> float:
    """The clock of the circuit breakers."""
    return asyncio.get_running_loop().time()
