"""What a worker serves over HTTP: from a request to a reader and an answer.

Owns the way from host and path to an asset, and the line and the numbers that a response leaves.
The short lane has its own way to decide (``lane``) and the same way to tell of it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple

from streamedge.cache.asset import Asset
from streamedge.cache.cache import VERSION_ONLY, Cache
from streamedge.cache.reader import CacheResult, Reader
from streamedge.delivery.distributions import Distribution, HostTable
from streamedge.delivery.names import object_name
from streamedge.delivery.web.access_log import response_line
from streamedge.delivery.web.answer import (
    Answer,
    Delivery,
    answer_object,
    failure_status,
    refusal,
)
from streamedge.delivery.web.conditions import PRECONDITIONS
from streamedge.delivery.web.lane import Asked, Lane, Wanted, lane_line
from streamedge.delivery.web.ranges import first_wanted
from streamedge.errors import CacheFullError, OriginError
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts
from streamedge.spans import Span

LOCATED_MAX = 8192  # remembered (host, path) pairs
WHOLE = Span(0, 1 << 62)


@dataclass(frozen=True, slots=True)
class WebRequest:
    """A request's parts; ``headers`` in lower case, ``path`` as it was sent, without query.

    ``host`` is "" when the request does not say, or not without doubt, which host it means.
    """

    method: str
    host: str
    path: bytes
    headers: dict[str, str]
    client: str
    keep_alive: bool
    begun_s: float  # by the event loop's clock


class Located(NamedTuple):
    """The asset that host and path name."""

    distribution: Distribution
    asset: Asset


class Opened(NamedTuple):
    """What a request comes to; ``reader`` is the caller's to close, None when nothing is open."""

    answer: Answer
    reader: Reader | None
    result: CacheResult
    distribution: str | None
    reason: str | None = None


class Site:
    """The web distributions of a worker."""

    def __init__(
        self,
        edge_name: str,
        distributions: HostTable[Distribution],
        cache: Cache,
        log: Log,
        counts: Counts,
    ) -> None:
        self._edge_name = edge_name
        self._distributions = distributions
        self._cache = cache
        self._log = log
        self._counts = counts
        self._located: dict[tuple[str, bytes], Located] = {}
        self.lane = Lane(cache, edge_name, self._locate_key)
        self._lane_sent = counts.tally(Counter.SENT_BYTES, "http")
        self._lane_hits = counts.tally(Counter.RESPONSES, CacheResult.HIT.value)
        self._lane_statuses = {
            status: counts.tally(Counter.STATUSES, str(status)) for status in (200, 206)
        }

    async def serve(self, request: WebRequest) -> Opened:
        """The answer to any GET or HEAD; failures are answers too."""
        located = self.locate(request.host, request.path)
        if located is None:
            if not request.host:
                return self._refused(request, 400, "one Host header, please", None)
            if not self._distributions.find(request.host):
                return self._refused(request, 421, "no distribution has this host name", None)
            return self._refused(request, 400, "the path is not an object's name", None)
        distribution, asset = located
        try:
            reader = await self._cache.open(asset, _wanted(request))
        except (OriginError, CacheFullError) as exc:
            kind = exc.failure.value if isinstance(exc, OriginError) else "cache_full"
            self._counts.add(Counter.ERRORS, kind)
            opened = self._refused(
                request, failure_status(exc), _viewer_reason(exc), distribution.id
            )
            return opened._replace(reason=str(exc))
        now_s = time.time()
        answer = answer_object(
            request.method,
            request.headers,
            reader.head,
            now_s - reader.validated_s,
            Delivery(self._edge_name, now_s, request.keep_alive, reader.result),
        )
        if answer.span is None or not answer.span.size:
            reader.close()
            return Opened(answer, None, reader.result, distribution.id)
        return Opened(answer, reader, reader.result, distribution.id)

    def refuse_method(self, request: WebRequest) -> Opened:
        """The answer to a method that is not served."""
        return self._refused(
            request, 405, "this distribution serves GET and HEAD", None, "allow: GET, HEAD\r\n"
        )

    def finished(
        self,
        request: WebRequest,
        opened: Opened,
        sent_bytes: int,
        duration_s: float,
        cut: str | None,
    ) -> None:
        """Leaves a response's line and numbers; ``cut`` says why it did not reach its end."""
        self._count(opened.answer.status, opened.result, sent_bytes)
        if cut is not None:
            self._counts.add(Counter.ERRORS, "response_cut")
        headers = request.headers
        self._log.line(
            response_line(
                now_s=time.time(),
                process=self._log.process,
                client=request.client,
                method=request.method,
                host=request.host,
                path=request.path,
                wanted=headers.get("range"),
                status=opened.answer.status,
                sent_bytes=sent_bytes,
                result=opened.result.value,
                distribution=opened.distribution,
                duration_s=duration_s,
                agent=headers.get("user-agent"),
                reason=cut or opened.reason,
            )
        )

    def lane_finished(
        self,
        asked: Asked,
        wanted: Wanted | None,
        status: int,
        client: str,
        now_s: float,
        sent_bytes: int,
    ) -> None:
        """The same for an answer of the short lane that went out at once."""
        self._lane_sent.amount += sent_bytes
        self._lane_hits.amount += 1
        self._lane_statuses[status].amount += 1
        log = self._log
        log.line(lane_line(log.process, client, asked, wanted, status, now_s, sent_bytes))

    def refused_connection(self, client: str, status: HTTPStatus) -> None:
        """Leaves the line and the numbers of what was not even a request."""
        self._count(status.value, CacheResult.ERROR, 0)
        self._log.event(
            "response",
            client=client,
            status=status.value,
            bytes=0,
            cache=CacheResult.ERROR.value,
            reason=status.phrase,
        )

    def _count(self, status: int, result: CacheResult, sent_bytes: int) -> None:
        self._counts.add(Counter.SENT_BYTES, "http", sent_bytes)
        self._counts.add(Counter.RESPONSES, result.value)
        self._counts.add(Counter.STATUSES, str(status))

    def locate(self, host: str, path: bytes) -> Located | None:
        """The asset that a Host header and a path name, or None."""
        located = self._located.get((host, path))
        if located is None:
            found = self._distributions.find(host) if host else []
            name = object_name(path)
            if not found or name is None:
                return None
            if len(self._located) >= LOCATED_MAX:
                self._located.clear()
            located = Located(found[0], found[0].asset(name))
            self._located[host, path] = located
        return located

    def _locate_key(self, host: str, path: bytes) -> tuple[Distribution, str] | None:
        located = self.locate(host, path)
        return None if located is None else (located.distribution, located.asset.key)

    def _refused(
        self,
        request: WebRequest,
        status: int,
        reason: str,
        distribution: str | None,
        lines: str = "",
    ) -> Opened:
        delivery = Delivery(self._edge_name, time.time(), request.keep_alive, CacheResult.ERROR)
        answer = refusal(status, reason, delivery, request.method, lines)
        return Opened(answer, None, CacheResult.ERROR, distribution, reason)


def _wanted(request: WebRequest) -> Span:
    """What a cold open should ask the origin for."""
    # A precondition may make the body unwanted: find out what the object is first.
    if request.method == "HEAD" or PRECONDITIONS & request.headers.keys():
        return VERSION_ONLY
    value = request.headers.get("range")
    return WHOLE if value is None else first_wanted(value) or VERSION_ONLY


def _viewer_reason(failure: OriginError | CacheFullError) -> str:
    """What a viewer is told: which kind of failure, nothing of the origin's whereabouts."""
    if isinstance(failure, CacheFullError):
        return "the edge has no room to fetch the object"
    return f"origin: {failure.failure.value.replace('_', ' ')}"
