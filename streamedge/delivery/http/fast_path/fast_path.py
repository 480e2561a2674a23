"""The fast path: answers a request from what an equal request has already decided.

For a request's bytes it remembers the parsed request and how it was dispatched (``request_memo``).
For a host and URL it prepares the object's header fields, date, age and freshness for one second
(``PreparedResponse``); plain GETs of any range share them. For every other GET or HEAD whose
response depends on the request and the object alone (conditions, several ranges, stored errors,
redirects, refusals, error pages) it prepares the whole response, for one second as well
(``PreparedMessage``). The same functions prepare them that build a response on the general path.

A request that is not answered here is handled on the general path, with what is remembered of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Generic, TypeVar

from streamedge.access.admission import OPEN_TO_ALL
from streamedge.cache.lookup.in_flight import CacheStatus
from streamedge.cache.lookup.selection import key_of_variant
from streamedge.cache.objects import Cache
from streamedge.cache.open_object import OpenObject
from streamedge.cache.reader import CacheResult
from streamedge.cache.responses import ResponseCache
from streamedge.cache.rfc9111.freshness import IMMUTABLE
from streamedge.cache.storage.records import (
    NO_TARGET,
    Provenance,
    served_head,
)
from streamedge.config.schema.field_names import CONDITION_FIELDS
from streamedge.control.invalidation_index import Verdict
from streamedge.delivery.http.compression.compressor import encoded_key
from streamedge.delivery.http.compression.negotiation import (
    ContentCoding,
    encoded_head,
    is_compressible,
    with_vary,
)
from streamedge.delivery.http.fast_path.remembered import (
    Head,
    HeadEncoder,
    Hit,
    Kind,
    PageTarget,
    PreparedMessage,
    PreparedResponse,
    RememberedRequest,
    ShownPage,
    Sources,
    Tail,
)
from streamedge.delivery.http.fast_path.request_memo import ByteRange, RequestMemo, plain_range
from streamedge.delivery.http.policy.behaviors import ErrorPage
from streamedge.delivery.http.request.authorization import CachedGrant
from streamedge.delivery.http.request.cache_request import (
    PreparedLookup,
    asset_key,
    invalidation_target,
)
from streamedge.delivery.http.request.dispatch import Outcome, Refused, TrafficCheck
from streamedge.delivery.http.request.origin_request import selecting_fields
from streamedge.delivery.http.request.request import (
    WebRequest,
    error_page_request,
    error_page_viewer,
    without_field,
)
from streamedge.delivery.http.request.request_ids import no_id
from streamedge.delivery.http.request.routing import Route, route_in
from streamedge.delivery.http.response.access_log import target_fields, viewer_fields
from streamedge.delivery.http.response.build import Response, ResponseBuilder
from streamedge.delivery.http.response.cache_status import cache_status, is_sampled, server_timing
from streamedge.delivery.http.response.cloudfront_log import WebLog, content_of
from streamedge.delivery.http.response.response import ResponseContext, stored_fields
from streamedge.logs.escaping import escape_or_absent
from streamedge.memo import Memo, MemoryBudget
from streamedge.origin import OriginHead
from streamedge.spans import Span

TARGET_BYTES = 2048  # about the size of a PreparedResponse, without its texts
REQUEST_BYTES = 8192  # about the size of a remembered request, beside three times its bytes

# Fields that make a request not plain.
_NOT_PLAIN = CONDITION_FIELDS | {"content-length", "transfer-encoding", "expect", "te", "upgrade"}
# Fields of requests that are not remembered: more than the head belongs to them.
_MORE_THAN_HEAD = frozenset({"content-length", "transfer-encoding", "expect", "upgrade"})
_DIRECTIVES = frozenset({"cache-control", "pragma"})

Key = TypeVar("Key")


class FastPath(Generic[Key, Head, Tail]):
    """The fast path of a worker for one kind of connection.

    Kinds differ by HTTP version, TLS, and whether the peer is a trusted proxy: a remembered request
    depends on all of them.
    """

    def __init__(
        self,
        cache: Cache,
        responses: ResponseCache,
        edge_name: str,
        builder: ResponseBuilder,
        encoder: HeadEncoder[Head, Tail],
        memo: RequestMemo[Key, RememberedRequest[Head, Tail]],
        budget: MemoryBudget,
        new_id: Callable[[], bytes] = no_id,
        web_log: WebLog | None = None,
    ) -> None:
        self._new_id = new_id
        self._web_log = web_log
        self._cache = cache
        self._responses = responses
        self._edge_name = edge_name
        self._builder = builder
        self._encoder = encoder
        self._changes = cache.store.changes
        self._targets: Memo[
            tuple[str, str, str | None, str | None, bool, str], PreparedResponse[Tail]
        ] = budget.memo()
        self.memo = memo

    def replace(self, builder: ResponseBuilder) -> None:
        """Uses another configuration from now on, and forgets what the previous one decided."""
        self._builder = builder
        self._targets.clear()
        self.memo.forget()

    def prepare(
        self, request: WebRequest, outcome: Outcome
    ) -> tuple[RememberedRequest[Head, Tail], ByteRange | None] | None:
        """What is worth remembering of a request, and its range if the rest serves every range.

        None for a request with more than a head, for one whose refusal is its own, and for a
        traffic check.
        """
        headers = request.headers
        if request.method not in {"GET", "HEAD"} or not _MORE_THAN_HEAD.isdisjoint(headers):
            return None
        if isinstance(outcome, TrafficCheck):
            return None
        kind = Kind.PREPARED
        admitted = target = byte_range = None
        if isinstance(outcome, Refused):
            if outcome.is_personal:
                return None
            distribution = outcome.distribution
        else:
            route = outcome.route
            distribution = route.distribution.id
            rules = route.rule.behavior.access
            admitted = None if rules == OPEN_TO_ALL else CachedGrant(rules, outcome.grant)
            kind = self._kind(route, request)
            if kind is Kind.PLAIN and "range" in headers:
                byte_range = plain_range(headers["range"].encode("latin-1"))
                if byte_range is None:
                    kind = Kind.PREPARED
                else:
                    # Not part of the remembered request: players request another range each time.
                    request = without_field(request, "range")
            if kind is not Kind.HANDLED:
                target = self._target(outcome.lookup, request)
        message: PreparedMessage[Head] = PreparedMessage()  # [Head]() is slow
        remembered = RememberedRequest(
            kind,
            request,
            outcome,
            target,
            message,
            target_fields(request.host, request.path, distribution).encode(),
            viewer_fields(request.http_version, headers.get("user-agent"), request.viewer).encode(),
            request.forwarded_client,
            admitted,
            distribution or "",
            None if self._web_log is None else self._web_log.prepared(request, distribution),
        )
        return remembered, byte_range

    def remember(
        self,
        key: Key,
        remembered: RememberedRequest[Head, Tail],
        byte_range: ByteRange | None,
    ) -> None:
        """Remembers the complete request that ``key`` is."""
        texts_bytes = len(remembered.target_fields) + len(remembered.viewer_fields)
        self.memo.put(key, remembered, byte_range, TARGET_BYTES + REQUEST_BYTES + texts_bytes)

    def running_fetch(
        self, remembered: RememberedRequest[Head, Tail]
    ) -> asyncio.Future[None] | None:
        """A future for the end of the object's fetch, if its origin request is running."""
        target = remembered.target
        if target is None or remembered.kind is not Kind.PLAIN:
            return None
        return self._responses.in_flight_fetch(target.key)

    def is_hit_for_miss(self, target: PreparedResponse[Tail], now_s: float) -> bool:
        """Whether requests for a target do not wait for each other."""
        return self._cache.hit_for_miss.holds(target.key, now_s)

    def decide(
        self,
        remembered: RememberedRequest[Head, Tail],
        byte_range: ByteRange | None,
        now_s: float,
    ) -> Hit[Head] | None:
        """The response to a remembered request, or None if the general path has to send it."""
        if remembered.kind is not Kind.PLAIN:
            return self._decide_message(remembered, now_s)
        target = remembered.target
        if target is None:
            return None
        opened = target.opened
        if (
            opened is None
            or not target.since_s <= now_s < target.until_s
            or opened.superseded
            or (target.changes != self._changes.word[0] and not self._is_unchanged(target))
        ):
            opened = self._refresh(target, now_s)
            if opened is None:
                return self._decide_message(remembered, now_s) if target.has_other_status else None
        size, request_id = target.size_bytes, self._new_id()
        if byte_range is None:
            start, end, status = 0, size, 200
            head = self._encoder.whole(size, target.header_tail, request_id)
        else:
            first, last = byte_range
            start, end, status = int(first), size, 206
            if last:
                end = int(last) + 1
                if end > size:  # noqa: PLR1730 - for every hit: a third of the time of min()
                    end = size
            head = self._encoder.part(start, end, size, target.header_tail, request_id)
        if start >= end:
            return None
        ready = opened.files.ready(start, end)
        if ready is None and not opened.is_covered(Span(start, start + 1)):
            return None
        return status, head, ready, start, end, opened, None, request_id

    def _is_unchanged(self, prepared: PreparedResponse[Tail] | PreparedMessage[Head]) -> bool:
        """Whether a change since the last hit, of the cache folder, leaves a response valid.

        Most do: a write to other keys, an invalidation of other objects. Needs no disk access.
        """
        changes = self._changes.word[0]
        validity = self._cache.validity
        for opened, subject in prepared.sources:
            if validity(opened, subject).verdict is not Verdict.FRESH:
                return False
        prepared.changes = changes
        return True

    def _decide_message(
        self, remembered: RememberedRequest[Head, Tail], now_s: float
    ) -> Hit[Head] | None:
        """The prepared response, built again where it is no longer valid."""
        if remembered.kind is Kind.HANDLED:
            return None
        message = remembered.message
        if (
            not message.since_s <= now_s < message.until_s
            or any(opened.superseded for opened, _subject in message.sources)
            or (message.changes != self._changes.word[0] and not self._is_unchanged(message))
        ) and not self._build(remembered, now_s):
            return None
        answer, opened, ready = message.response.message, message.opened, None
        start = end = 0
        if opened is not None:
            spans = [answer.span] if answer.span is not None else answer.parts
            for span in spans:
                if isinstance(span, Span) and not opened.is_covered(span):
                    return None
            if answer.span is not None:
                start, end = answer.span
                ready = opened.files.ready(start, end)
        request_id = self._new_id()
        head = self._encoder.with_id(message.head, request_id)
        return answer.head.status, head, ready, start, end, opened, message, request_id

    def _build(self, remembered: RememberedRequest[Head, Tail], now_s: float) -> bool:
        """Builds this second's response to a request; False if it cannot be built from memory."""
        message, outcome, request = remembered.message, remembered.outcome, remembered.request
        changes = self._changes.word[0]
        route = outcome.route
        opened: OpenObject | None = None
        if isinstance(outcome, Refused):
            response = self._builder.rejected(request, outcome)
            message.sources = ()
        else:
            target = remembered.target
            stored = None if target is None else self._peek(target, now_s)
            if target is None or stored is None:
                return False
            limit_bytes = target.nearest_from_bytes
            if limit_bytes is not None and stored.version.size_bytes >= limit_bytes:
                return False
            head, opened = self._representation(target.compress, target.encoding, stored, now_s)
            if opened is None:
                return False
            message.sources = ((stored, target.subject),)
            if opened is not stored:
                message.sources += ((opened, NO_TARGET),)
            response = self._from_object(outcome.route, request, stored, head, now_s)
        page = None if route is None else route.error_page(response.message.status)
        if route is not None and page is not None:
            shown = self._error_page(message, route, request, page, now_s)
            if shown is None or (isinstance(outcome, Refused) and outcome.fields):
                return False
            response = shown.response._replace(reason=response.reason, error=response.error)
            opened = shown.opened
            message.sources = message.sources[:1] + shown.sources
        message.response = response
        message.opened = opened if response.message.has_object_bytes else None
        message.head = self._encoder.message(response.message.head, closes=not request.keep_alive)
        message.changes = changes
        message.since_s, message.until_s = now_s, int(now_s) + 1
        return True

    def _from_object(
        self,
        route: Route,
        request: WebRequest,
        opened: OpenObject,
        head: OriginHead,
        now_s: float,
        status: int | None = None,
    ) -> Response:
        age_s = opened.record.age_s(now_s)
        cache_status_field = cache_status(
            self._edge_name, _HIT, opened.lifetime_s(route.rule.rules) - age_s
        )
        result = CacheResult.HIT if head.status < 400 else CacheResult.ERROR
        response = self._builder.from_head(
            route, request, served_head(head), result, cache_status_field, age_s, now_s, status
        )
        target = invalidation_target(route)
        record = opened.record
        return response._replace(
            provenance=lambda: Provenance(target, record.position, record.head.headers)
        )

    def _error_page(
        self,
        message: PreparedMessage[Head],
        route: Route,
        request: WebRequest,
        page: ErrorPage,
        now_s: float,
    ) -> ShownPage | None:
        """The error page in the form for this viewer; None if it is not here, or not fresh."""
        target = message.page_target
        if target is None:
            page_request = error_page_request(request, page.path)
            page_route = route_in(route.distribution, page_request.path, "")
            if not isinstance(page_route, Route):
                return None
            key = asset_key(page_route, page_route.rule.behavior.cache, page_request)
            viewer_request = error_page_viewer(request, page.path)
            target = message.page_target = PageTarget(page_route, viewer_request, key)
        page_route = target.route
        subject = invalidation_target(page_route)
        stored = self._cache.peek(target.key, page_route.rule.rules, now_s, subject)
        if stored is None or stored.head.status != HTTPStatus.OK:
            return None
        if not stored.version.has_ended or stored.record.trailers:
            return None
        compress = page_route.rule.behavior.compress
        head, opened = self._representation(compress, target.encoding, stored, now_s)
        if opened is None:
            return None
        response = self._from_object(
            page_route, target.request, stored, head, now_s, page.response_status
        )
        sources: Sources = ((stored, subject),)
        if opened is not stored:
            sources += ((opened, NO_TARGET),)
        return ShownPage(response, opened, sources)

    def _peek(self, target: PreparedResponse[Tail], now_s: float) -> OpenObject | None:
        """The stored object of a target if it is open, fresh, and complete in its head."""
        opened = self._cache.peek(target.key, target.rules, now_s, target.subject)
        if opened is None or not opened.version.has_ended or opened.record.trailers:
            return None
        return opened

    def _refresh(self, target: PreparedResponse[Tail], now_s: float) -> OpenObject | None:
        """Checks whether the object is open and fresh, and builds this second's header fields."""
        changes = self._changes.word[0]
        opened = self._cache.peek(target.key, target.rules, now_s, target.subject)
        target.has_other_status = opened is not None and opened.head.status != HTTPStatus.OK
        if opened is not None and (target.has_other_status or not opened.version.has_ended):
            opened = None
        if opened is None:
            target.opened = None
            return None
        head, sent = self._representation(target.compress, target.encoding, opened, now_s)
        target.opened, target.stored = sent, opened
        target.sources = ((opened, target.subject),)
        if (
            sent is not None
            and target.nearest_from_bytes is not None
            and opened.version.size_bytes >= target.nearest_from_bytes
        ):
            target.opened = sent = None
        if sent is not None and sent is not opened:
            target.sources += ((sent, NO_TARGET),)
        if sent is not None:
            target.since_s, target.until_s = now_s, int(now_s) + 1
            target.changes = changes
            target.size_bytes = sent.version.size_bytes
            age_s = opened.record.age_s(now_s)
            ttl_s = opened.lifetime_s(target.rules) - age_s
            context = ResponseContext(
                self._edge_name,
                now_s,
                CacheResult.HIT,
                cache_status(self._edge_name, _HIT, ttl_s),
                target.policy,
                target.secure,
                target.origin_field,
                timing=self._timing(target),
                alt_svc=self._builder.alt_svc,
            )
            fields = stored_fields(served_head(head), age_s, context)
            target.header_tail = self._encoder.tail(fields)
            if self._web_log is not None and self._web_log.rules:
                content_type = escape_or_absent(content_of(fields).content_type)
                target.content_type = content_type.encode("ascii")
        return sent

    def _timing(self, target: PreparedResponse[Tail]) -> str:
        """Server-Timing of this second's responses: sampled by second, not by response."""
        if not is_sampled(target.policy.server_timing_percent):
            return ""
        return server_timing(self._edge_name, CacheResult.HIT, 0.0)

    def _representation(
        self, compress: bool, encoding: ContentCoding | None, opened: OpenObject, now_s: float
    ) -> tuple[OriginHead, OpenObject | None]:
        """The representation for this viewer: its head, and its object if it is open."""
        head = opened.head
        if not compress or not is_compressible(head):
            return head, opened
        if encoding is None:
            return replace(head, headers=with_vary(head.headers)), opened
        key = encoded_key(opened.asset.key, opened.version, encoding)
        encoded = self._cache.peek(key, IMMUTABLE, now_s)
        if encoded is None or encoded.head.status != HTTPStatus.OK:
            return head, None
        return encoded_head(head, encoding, encoded.version.size_bytes), encoded

    def _target(self, lookup: PreparedLookup, request: WebRequest) -> PreparedResponse[Tail]:
        headers, coding, route = request.headers, None, lookup.route
        compress = route.rule.behavior.compress
        key = key_of_variant(
            self._cache,
            lookup.key(request),
            lambda: selecting_fields(route, request, self._edge_name),
        )
        if compress:
            coding = headers.get("accept-encoding")
        memo_key = (
            key,
            route.distribution.id,
            headers.get("origin"),
            coding,
            request.secure,
            request.edge_label,
        )
        target = self._targets.get(memo_key)
        if target is None:
            target = PreparedResponse(lookup, key, request, compress=compress)
            # Python keeps a text that is not ASCII in up to four bytes a character.
            size_bytes = 2 * len(key) + len(memo_key[2] or "") + len(coding or "")
            self._targets.put(memo_key, target, TARGET_BYTES + size_bytes)
        return target

    @staticmethod
    def _kind(route: Route, request: WebRequest) -> Kind:
        """How requests for a route are answered."""
        if route.is_s3:  # S3 has its own errors, and the request may be for the bucket
            return Kind.HANDLED
        behavior = route.rule.behavior
        policy = behavior.cache
        headers = request.headers
        if (policy.viewer_directives or policy.strict) and _DIRECTIVES & headers.keys():
            return Kind.HANDLED
        if behavior.response_headers.server_timing_percent > 0 and "pragma" in headers:
            return Kind.HANDLED
        if (
            request.method == "GET"
            and request.keep_alive
            and _NOT_PLAIN.isdisjoint(headers)
            and len(headers) == len(request.fields)
        ):
            return Kind.PLAIN
        return Kind.PREPARED


_HIT = CacheStatus(hit=True)
