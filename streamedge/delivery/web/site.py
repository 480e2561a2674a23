"""What a worker serves over HTTP: from a request to an answer, and the line that it leaves.

Owns the order of the steps: route, method and protocol, the cache or the origin, the answer. Each
step's rules are elsewhere; what is sent is sent by the connection.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import NamedTuple

from streamedge.cache.cache import VERSION_ONLY, Cache
from streamedge.cache.invalidation import invalidated_targets
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.responses import WHOLE, Handling, Passed, ResponseCache, Stored
from streamedge.config.field_names import HOP_BY_HOP
from streamedge.delivery.distributions import HostTable
from streamedge.delivery.web.access_log import response_line
from streamedge.delivery.web.answer import (
    Answer,
    Delivery,
    answer_object,
    answer_whole,
    failure_status,
    refusal,
    stored_answer_fields,
    streamed_head,
)
from streamedge.delivery.web.behaviors import ViewerProtocol
from streamedge.delivery.web.cache_status import cache_status
from streamedge.delivery.web.conditions import PRECONDITIONS
from streamedge.delivery.web.framing import Parts, framed, framing_of, of_body, of_reader
from streamedge.delivery.web.lane import Asked, Lane, Wanted, lane_line
from streamedge.delivery.web.ranges import first_wanted
from streamedge.delivery.web.response_policy import UNCHANGED, Field, cors_kind
from streamedge.delivery.web.routes import (
    Route,
    Unroutable,
    WebDistribution,
    WebRequest,
    ask,
    connection_options,
    is_looping,
    origin_request,
    route,
    target_key,
)
from streamedge.errors import CacheFullError, OriginError
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts
from streamedge.origin import Fields, OriginResponse
from streamedge.origin.answers import fold_fields
from streamedge.spans import Span

_NO_BODY = frozenset({204, 304})


class Opened(NamedTuple):
    """What a request comes to; ``reader`` is the caller's to close, None when nothing is open.

    ``parts``: the answer's body comes part by part, after ``answer.head``.
    """

    answer: Answer
    reader: Reader | None
    result: CacheResult
    distribution: str | None
    reason: str | None = None
    parts: AsyncIterator[Parts] | None = None


class Upgraded(NamedTuple):
    """The origin speaks another protocol from here on; ``fields`` go with the 101."""

    fields: list[Field]
    response: OriginResponse


class Site:
    """The web distributions of a worker."""

    def __init__(
        self,
        edge_name: str,
        distributions: HostTable[WebDistribution],
        cache: Cache,
        log: Log,
        counts: Counts,
    ) -> None:
        self.edge_name = edge_name
        self.distributions = distributions
        self.responses = ResponseCache(cache)
        self._log = log
        self._counts = counts
        self.lanes = {
            secure: Lane(cache, self.responses, edge_name, distributions, secure=secure)
            for secure in (False, True)
        }
        self._lane_sent = counts.tally(Counter.SENT_BYTES, "http")
        self._lane_hits = counts.tally(Counter.RESPONSES, CacheResult.HIT.value)
        self._lane_statuses = {
            status: counts.tally(Counter.STATUSES, str(status)) for status in (200, 206)
        }

    def find(self, request: WebRequest) -> Route | Opened:
        """The route of a request, or the answer to one that may not go on."""
        found = route(self.distributions, request.host, request.path, request.query)
        if isinstance(found, Unroutable):
            return self.refused(request, found.status, found.reason, found.distribution)
        behavior, distribution = found.rule.behavior, found.distribution.id
        if is_looping(request, self.edge_name):
            return self.refused(request, 508, "the request has been here before", distribution)
        if not request.secure and behavior.viewer_protocol is ViewerProtocol.HTTPS_ONLY:
            return self.refused(request, 403, "this is served over HTTPS alone", distribution)
        if not request.secure and behavior.viewer_protocol is ViewerProtocol.REDIRECT_TO_HTTPS:
            return self._redirected(request, distribution)
        if request.method not in behavior.methods:
            allowed = ", ".join(sorted(behavior.methods))
            return self.refused(
                request,
                405,
                f"this is served by {allowed}",
                distribution,
                (("allow", allowed),),
            )
        if request.method in {"GET", "HEAD"} and request.has_body:
            return self.refused(request, 403, "a GET has no body here", distribution)
        return found

    async def serve(
        self, found: Route, request: WebRequest, interim: Callable[[int, Fields], None]
    ) -> Opened:
        """The answer to a GET or HEAD; failures are answers too.

        ``interim`` is told of 1xx answers if this request is the one that asks the origin.
        """
        asked = ask(found, request, _wanted(request), self.edge_name, interim)
        try:
            outcome = await self.responses.respond(asked)
        except (OriginError, CacheFullError) as exc:
            return self.failed(found, request, exc)
        if isinstance(outcome, Stored):
            return self._stored(found, request, outcome)
        if isinstance(outcome, Passed):
            status = cache_status(self.edge_name, outcome.handling)
            return self.passed(found, request, outcome.response, status)
        return self.refused(
            request, 504, "only-if-cached was asked, and it is not", found.distribution.id
        )

    async def forward(
        self,
        found: Route,
        request: WebRequest,
        body: AsyncIterator[bytes] | None,
        interim: Callable[[int, Fields], None],
    ) -> Opened | Upgraded:
        """The origin's own answer to a request that the cache has no part in."""
        if not found.rule.binding.is_site:
            return self._preflight(found, request)
        asked = origin_request(found, request, self.edge_name)
        try:
            response = await found.rule.binding.upstream.send(
                replace(asked, body=body, interim=interim)
            )
        except OriginError as exc:
            return self.failed(found, request, exc)
        self._heed_write(found, request, response)
        status = cache_status(self.edge_name, Handling(forwarded="method", status=response.status))
        if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
            fields = list(_passed_fields(response.fields))
            fields += [("connection", "upgrade"), ("upgrade", request.headers["upgrade"])]
            return Upgraded(fields, response)
        return self.passed(found, request, response, status)

    def _heed_write(self, found: Route, request: WebRequest, response: OriginResponse) -> None:
        """After an unsafe method has done something, what was stored before is not used again."""
        target = request.path.decode("latin-1") + (f"?{request.query}" if request.query else "")
        fields = fold_fields(response.fields)
        for changed in invalidated_targets(
            request.method, response.status, request.host, target, fields
        ):
            self.responses.refuse_older(target_key(found, changed, request))

    def _preflight(self, found: Route, request: WebRequest) -> Opened:
        """OPTIONS where the origin has objects alone: what the distribution's owner allows."""
        allowed = ", ".join(sorted(found.rule.behavior.methods))
        delivery = self._delivery(request, time.time(), CacheResult.MISS, found, "")
        head = streamed_head(204, [("allow", allowed)], "", None, delivery)
        return Opened(Answer(204, head), None, CacheResult.MISS, found.distribution.id)

    def _stored(self, found: Route, request: WebRequest, stored: Stored) -> Opened:
        reader = stored.reader
        head = reader.head
        result = stored.result if head.status < 400 else CacheResult.ERROR
        now_s = time.time()
        age_s = reader.age_s(now_s)
        ttl_s = reader.lifetime_s(found.rule.rules) - age_s
        delivery = self._delivery(
            request, now_s, result, found, cache_status(self.edge_name, stored.handling, ttl_s)
        )
        distribution = found.distribution.id
        if head.status >= 400 and not head.version.size_bytes and not found.rule.binding.is_site:
            reader.close()
            return self.refused(
                request, head.status, f"origin: {HTTPStatus(head.status).phrase}", distribution
            )
        if not head.version.has_ended:
            framing = framing_of(None, request.http_version)
            if not framing:
                delivery = self._delivery(request, now_s, result, found, "", keep_alive=False)
            fields = stored_answer_fields(head)
            answer = Answer(
                head.status, streamed_head(head.status, fields, framing, age_s, delivery)
            )
            if request.method == "HEAD":
                reader.close()
                return Opened(answer, None, result, distribution)
            return Opened(
                answer,
                reader,
                result,
                distribution,
                self._reason(head.status),
                framed(of_reader(reader), framing),
            )
        if head.status == HTTPStatus.OK:
            answer = answer_object(request.method, request.headers, head, age_s, delivery)
        else:
            answer = answer_whole(request.method, head, age_s, delivery)
        reason = self._reason(head.status)
        if not answer.has_object_bytes:
            reader.close()
            return Opened(answer, None, result, distribution, reason)
        return Opened(answer, reader, result, distribution, reason)

    def passed(
        self, found: Route, request: WebRequest, response: OriginResponse, status: str
    ) -> Opened:
        """The answer that an origin's own answer is, passed through as it comes."""
        result = CacheResult.MISS if response.status < 400 else CacheResult.ERROR
        has_body = request.method != "HEAD" and response.status not in _NO_BODY
        framing = framing_of(response.size_bytes, request.http_version)
        fields = list(_passed_fields(response.fields))
        if not has_body:
            # What it would be is for the origin to say (RFC 9110 §8.6).
            framing = "".join(
                f"{name}: {value}\r\n"
                for name, value in response.fields
                if name.lower() == "content-length" and response.status != 204
            )
        keep_alive = request.keep_alive and bool(framing or not has_body)
        delivery = self._delivery(
            request, time.time(), result, found, status, keep_alive=keep_alive
        )
        head = streamed_head(response.status, fields, framing, None, delivery)
        answer = Answer(response.status, head)
        distribution = found.distribution.id
        if not has_body:
            response.close()
            return Opened(answer, None, result, distribution)
        parts = framed(of_body(response), framing, lambda: response.trailers)
        return Opened(answer, None, result, distribution, self._reason(response.status), parts)

    def failed(
        self, found: Route, request: WebRequest, exc: OriginError | CacheFullError
    ) -> Opened:
        """The answer where the origin, or the cache, gave none."""
        kind = exc.failure.value if isinstance(exc, OriginError) else "cache_full"
        self._counts.add(Counter.ERRORS, kind)
        opened = self.refused(
            request, failure_status(exc), _viewer_reason(exc), found.distribution.id
        )
        return opened._replace(reason=str(exc))

    def refused(
        self,
        request: WebRequest,
        status: int,
        reason: str,
        distribution: str | None,
        fields: tuple[Field, ...] = (),
    ) -> Opened:
        """An answer of the edge's own, with its reason."""
        delivery = self._delivery(request, time.time(), CacheResult.ERROR, None, "")
        answer = refusal(status, reason, delivery, request.method, fields)
        return Opened(answer, None, CacheResult.ERROR, distribution, reason)

    def _redirected(self, request: WebRequest, distribution: str) -> Opened:
        query = f"?{request.query}" if request.query else ""
        host = request.host.partition(":")[0] if request.host.count(":") == 1 else request.host
        location = f"https://{host}{request.path.decode('latin-1')}{query}"
        return self.refused(
            request, 301, "this is served over HTTPS", distribution, (("location", location),)
        )

    def _reason(self, status: int) -> str | None:
        """Counts an origin's error, and says it for the log line."""
        if status < 400:
            return None
        self._counts.add(Counter.ERRORS, f"origin_{status}")
        return f"the origin answered {status}"

    def _delivery(
        self,
        request: WebRequest,
        now_s: float,
        result: CacheResult,
        found: Route | None,
        status: str,
        *,
        keep_alive: bool = True,
    ) -> Delivery:
        return Delivery(
            self.edge_name,
            now_s,
            request.keep_alive and keep_alive,
            result,
            status,
            UNCHANGED if found is None else found.rule.behavior.response_headers,
            request.secure,
            request.headers.get("origin"),
            cors_kind(request.method, request.fields),
        )

    # What responses leave

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


def _wanted(request: WebRequest) -> Span:
    """What a cold open should ask the origin for."""
    # A precondition may make the body unwanted: find out what the object is first.
    if request.method == "HEAD" or PRECONDITIONS & request.headers.keys():
        return VERSION_ONLY
    value = request.headers.get("range")
    return WHOLE if value is None else first_wanted(value) or VERSION_ONLY


def _passed_fields(fields: Sequence[Field]) -> Iterator[Field]:
    """An origin's fields but for those of its connection and its framing."""
    refused = HOP_BY_HOP | {"content-length"} | connection_options(fields)
    return ((name, value) for name, value in fields if name.lower() not in refused)


def _viewer_reason(failure: OriginError | CacheFullError) -> str:
    """What a viewer is told: which kind of failure, nothing of the origin's whereabouts."""
    if isinstance(failure, CacheFullError):
        return "the edge has no room to fetch the object"
    return f"origin: {failure.failure.value.replace('_', ' ')}"
