"""The HTTP request handler of a worker: from a request to a response.

The steps are: route and authorize, check method and protocol, look up in the cache or go to the
origin (``forwarding``), build the response. Other modules have the rules of each step; the
connection sends the response, ``response_log`` logs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, TypeVar

from streamedge.access.client_address import IpNetwork
from streamedge.access.geo import CountryDatabase
from streamedge.cache.lookup.outcome import Passed, Stored
from streamedge.cache.lookup.pass_through import RunningPass, begin_pass, pass_at_once
from streamedge.cache.objects import Cache
from streamedge.cache.origin_requests import WHOLE, CacheRequest
from streamedge.cache.reader import CacheResult
from streamedge.cache.responses import ResponseCache
from streamedge.cache.storage.records import Provenance
from streamedge.delivery.hosts import HostTable
from streamedge.delivery.http.compression.compressor import Compressor
from streamedge.delivery.http.compression.negotiation import (
    ContentCoding,
    encoded_head,
    is_compressible,
    negotiate,
    with_vary,
)
from streamedge.delivery.http.exchange import Exchange
from streamedge.delivery.http.fast_path.batch import HitBatch
from streamedge.delivery.http.fast_path.fast_path import FastPath
from streamedge.delivery.http.fast_path.remembered import HeadEncoder, RememberedRequest
from streamedge.delivery.http.fast_path.request_memo import (
    BytesMemo,
    FieldsMemo,
    RawFields,
    RequestMemo,
)
from streamedge.delivery.http.forwarding import Forwarder, Upgraded
from streamedge.delivery.http.http1.encoding import Http1Heads, encode_head
from streamedge.delivery.http.http2.encoding import Head, Http2Heads
from streamedge.delivery.http.policy.behaviors import ErrorPage
from streamedge.delivery.http.request.authorization import Authorizer
from streamedge.delivery.http.request.cache_request import RequestTarget, build_cache_request
from streamedge.delivery.http.request.dispatch import (
    Dispatched,
    Dispatcher,
    Outcome,
    Refused,
    TrafficCheck,
)
from streamedge.delivery.http.request.first_read import first_read
from streamedge.delivery.http.request.origin_request import wants_upgrade
from streamedge.delivery.http.request.request import (
    WebRequest,
    error_page_request,
    error_page_viewer,
    request_url,
)
from streamedge.delivery.http.request.request_ids import RequestIds
from streamedge.delivery.http.request.routing import (
    Route,
    WebDistribution,
    nearest_from_bytes,
    route_in,
)
from streamedge.delivery.http.response.build import Representation, Response, ResponseBuilder
from streamedge.delivery.http.response.cache_status import cache_status
from streamedge.delivery.http.response.cloudfront_log import LogRules, WebLog
from streamedge.delivery.http.response.conditions import Condition, evaluate
from streamedge.delivery.http.response.remembered_pass import (
    LENGTH_MARK,
    RememberedPass,
    is_short,
    marked_fields,
)
from streamedge.delivery.http.response.response import ResponseHead
from streamedge.delivery.http.response_log import ResponseLog
from streamedge.delivery.http.s3_calls import require_known_call
from streamedge.delivery.http.writes import Writes
from streamedge.delivery.nearest import NearestEdges
from streamedge.delivery.traffic import Traffic
from streamedge.errors import CacheFullError, OriginError
from streamedge.fleet.nearest import with_edge_label
from streamedge.http_fields import parse_number
from streamedge.logs.spool import SpoolWriter
from streamedge.memo import MemoryBudget
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts, pair
from streamedge.origin import Fields, OriginHead, OriginResponse, VariedFields
from streamedge.origin.answers import fold_fields
from streamedge.origin.writing import WriteRefusedError
from streamedge.write_back.queue import WriteQueue

Key = TypeVar("Key")
AnyHead = TypeVar("AnyHead")
Tail = TypeVar("Tail")


@dataclass(frozen=True, slots=True)
class HandlerRules:
    """What a new config replaces in a running handler.

    ``request_body_bytes``: the longest body. ``memory_bytes``: for remembered requests.
    ``alt_svc``: the value of Alt-Svc, "" without one. ``log_rules``: by distribution.
    ``logs_responses``: whether each response has a log line.
    """

    distributions: HostTable[WebDistribution]
    request_body_bytes: int
    url_bytes: int
    ranges_max: int
    memory_bytes: int
    alt_svc: str
    log_rules: Mapping[str, LogRules]
    logs_responses: bool


class HttpHandler:
    """Handles the requests for the web distributions of a worker."""

    def __init__(
        self,
        edge_name: str,
        rules: HandlerRules,
        cache: Cache,
        log: Log,
        counts: Counts,
        *,
        write_queue: WriteQueue | None,
        countries: CountryDatabase,
        signature_bytes: int,
        proxies: Sequence[IpNetwork],
        nearest: NearestEdges | None,
        spool: SpoolWriter | None,
    ) -> None:
        self.new_request_id = RequestIds().next
        self.web_log = WebLog(edge_name, spool, countries.country, rules.log_rules)
        self._nearest = nearest
        self._edge_names = frozenset[str]() if nearest is None else nearest.names
        self._memory = MemoryBudget(rules.memory_bytes)
        self.authorizer = Authorizer(countries, signature_bytes)
        self.edge_name = edge_name
        self._dispatcher = Dispatcher(
            edge_name, rules.distributions, self.authorizer, rules.url_bytes, nearest=nearest
        )
        self.proxies = proxies  # trusted to name the viewer's address
        self.responses = ResponseCache(cache)
        self._cache = cache
        self._compressor = Compressor(cache)
        self._write_queue = write_queue
        self._writes = Writes(self.responses, write_queue, rules.request_body_bytes)
        self._builder = ResponseBuilder(edge_name, rules.ranges_max, rules.alt_svc)
        self._forwarder = Forwarder(
            edge_name, self.responses, self._writes, self._builder, write_queue
        )
        self._counts = counts
        self.response_log = ResponseLog(
            log, counts, self.web_log, logs_responses=rules.logs_responses
        )
        # What a connection calls at the end of a response, without a call between.
        self.finished = self.response_log.finished
        self.hits_finished = self.response_log.hits_finished
        self.hit_finished = self.response_log.hit_finished
        self.refused_connection = self.response_log.refused_connection
        self.fast_paths: dict[tuple[bool, bool], FastPath[bytes, bytes, bytes]] = {
            (secure, forwarded): self._fast_path(Http1Heads(), BytesMemo(self._memory))
            for secure in (False, True)
            for forwarded in (False, True)
        }
        self.http2_fast_paths: dict[bool, FastPath[RawFields, Head, Head]] = {
            forwarded: self._fast_path(Http2Heads(), FieldsMemo(self._memory))
            for forwarded in (False, True)
        }
        self.batch = HitBatch(self.hits_finished)

    def _fast_path(
        self,
        encoder: HeadEncoder[AnyHead, Tail],
        memo: RequestMemo[Key, RememberedRequest[AnyHead, Tail]],
    ) -> FastPath[Key, AnyHead, Tail]:
        return FastPath(
            self._cache,
            self.responses,
            self.edge_name,
            self._builder,
            encoder,
            memo,
            self._memory,
            self.new_request_id,
            self.web_log,
        )

    def replace(self, rules: HandlerRules) -> None:
        """Uses these rules from the next request on; requests with a route keep the old ones."""
        self.web_log.rules = rules.log_rules
        self.response_log.logs_responses = rules.logs_responses
        self._dispatcher = Dispatcher(
            self.edge_name,
            rules.distributions,
            self.authorizer,
            rules.url_bytes,
            self.traffic,
            self._nearest,
        )
        self._writes = Writes(self.responses, self._write_queue, rules.request_body_bytes)
        self._builder = ResponseBuilder(self.edge_name, rules.ranges_max, rules.alt_svc)
        self._forwarder.replace(self._writes, self._builder)
        self._memory.limit(rules.memory_bytes)
        self._forget_decisions()

    def _forget_decisions(self) -> None:
        """Makes the fast paths forget what the previous builder and dispatcher decided."""
        for fast_path in self.fast_paths.values():
            fast_path.replace(self._builder)
        for http2_fast_path in self.http2_fast_paths.values():
            http2_fast_path.replace(self._builder)

    async def follow_edge_names(self) -> None:
        """Makes the fast paths forget who was refused, if the fleet has edges of other names."""
        names = frozenset[str]() if self._nearest is None else self._nearest.names
        if names != self._edge_names:
            self._edge_names = names
            self._forget_decisions()

    @property
    def traffic(self) -> Traffic:
        """Whether viewers should come here, and whether they are served."""
        return self._dispatcher.traffic

    def set_traffic(self, traffic: Traffic) -> None:
        """Sets ``traffic``, from the next request on."""
        was_refusing = bool(self.traffic.refusal)
        self._dispatcher.traffic = traffic
        if was_refusing != bool(traffic.refusal):
            self._forget_decisions()  # the fast paths remember accepted requests

    def without_edge_name(self, request: WebRequest) -> WebRequest:
        """The request with an alias as its host, where it came to an edge's name below it."""
        return self._dispatcher.without_edge_name(request)

    def dispatch(self, request: WebRequest) -> Outcome:
        """The route and grant of a request, or why the edge answers it by itself."""
        return self._dispatcher.dispatch(request)

    def admits(
        self,
        remembered: RememberedRequest[Any, Any],
        serves: Callable[[str], bool] | None,
        address: str,
        now_s: float,
    ) -> bool:
        """Whether what was decided for an equal request holds for this viewer, now.

        ``serves``: which hosts the viewer's connection was made for; None: any.
        """
        if serves is not None and not serves(remembered.request.sent_host):
            return False
        admitted = remembered.admitted
        return admitted is None or self.authorizer.still_allows(
            admitted, remembered.address or address, now_s
        )

    def begin_pass(self, exchange: Exchange) -> RunningPass | None:
        """Sends a request to the origin without a task, if the cache only passes it through.

        None: ``respond`` has to handle it. When the response comes, ``pass_at_once`` or
        ``finish_pass`` returns it.
        """
        request, outcome = exchange.request, exchange.outcome
        if not isinstance(outcome, Dispatched) or outcome.route.is_s3:
            return None
        if outcome.lookup.immediate is None:
            return None
        lookup = outcome.lookup.remembered_request(request)
        if lookup is None:
            return None
        return begin_pass(self._cache, lookup, outcome.lookup.immediate, exchange.interim)

    def pass_at_once(self, exchange: Exchange, running: RunningPass) -> Response | None:
        """The response to a request of ``begin_pass``; None: ``finish_pass`` returns it."""
        outcome, origin_response = exchange.outcome, running.take_response()
        if origin_response is None or not isinstance(outcome, Dispatched):
            return None
        lookup, route, now_s = outcome.lookup, outcome.route, time.time()
        remembered = lookup.passed
        if remembered is not None and remembered.holds(origin_response.fields, now_s):
            body = origin_response.take_received_body()
            if body is not None:
                running.mark_again(self._cache)
                provenance = _provenance(running.request, running.sent_at.position, origin_response)
                return self._builder.passed_again(
                    route, remembered, origin_response.fields, body, provenance
                )
        passed = pass_at_once(self._cache, running)
        if passed is None or origin_response.status in route.distribution.error_pages:
            return None
        response = self._passed(
            route, exchange.request, passed, running.request, running.sent_at.position
        )
        fields = origin_response.fields
        if (
            response.message.body
            and isinstance(fields, VariedFields)
            and _may_remember(route, exchange.request, response.message.status, fields)
        ):
            marked = self._builder.passed_head(
                route,
                exchange.request,
                response.message.status,
                marked_fields(fields),
                LENGTH_MARK,
                cache_status(self.edge_name, passed.cache_status),
            )
            lookup.passed = RememberedPass(
                fields, now_s, marked, encode_head, response.result, response.reason, response.error
            )
        return response

    async def finish_pass(self, exchange: Exchange, running: RunningPass) -> Response:
        """The response to a request of ``begin_pass``, whatever the origin answers."""
        if not isinstance(exchange.outcome, Dispatched):
            return self._builder.answered(exchange.request, exchange.outcome)
        return await self._serve(exchange.outcome, exchange.request, exchange.interim, running)

    async def respond(self, exchange: Exchange) -> Response | Upgraded:
        """The response to any request. Failures become error responses."""
        request, outcome = exchange.request, exchange.outcome
        if not isinstance(outcome, Dispatched):
            return await self._answered(request, outcome)
        route = outcome.route
        if route.is_s3:
            try:
                require_known_call(route, request, self.authorizer)
            except WriteRefusedError as exc:
                return self._builder.written(route, request, exc.response)
        if outcome.lookup.is_prepared or self._is_for_cache(route, request):
            return await self._serve(outcome, request, exchange.interim)
        try:
            return await self._forwarder.forward(
                route, request, exchange.body(), exchange.interim, exchange.trailers
            )
        except ConnectionResetError as exc:  # the viewer left before its request had ended
            return self._builder.refused(request, 400, str(exc), route.distribution.id)

    def _is_for_cache(self, route: Route, request: WebRequest) -> bool:
        """Whether the cache may answer the request."""
        return (
            request.method in {"GET", "HEAD"}
            and not route.is_bucket
            and not wants_upgrade(route, request)
            and not self._writes.needs(route, request)
        )

    async def _serve(
        self,
        dispatched: Dispatched,
        request: WebRequest,
        interim: Callable[[int, Fields], None],
        running: RunningPass | None = None,
    ) -> Response:
        """The response to a GET or HEAD; failures become error responses.

        ``interim`` is called for 1xx responses if this request is the one sent to the origin.
        """
        route = dispatched.route
        response = await self._respond(dispatched, request, interim, running)
        page = route.error_page(response.message.status)
        return response if page is None else await self._error_page(route, request, page, response)

    async def _answered(self, request: WebRequest, outcome: Refused | TrafficCheck) -> Response:
        """The edge's own response: a refusal, or the distribution's page for it."""
        response = self._builder.answered(request, outcome)
        if isinstance(outcome, TrafficCheck) or outcome.route is None:
            return response
        page = outcome.route.error_page(outcome.status)
        if page is None:
            return response
        shown = await self._error_page(outcome.route, request, page, response)
        if shown is not response and outcome.fields:
            head = shown.message.head
            head = ResponseHead(head.status, [*head.fields, *outcome.fields])
            shown = shown._replace(message=replace(shown.message, head=head))
        return shown

    async def _respond(
        self,
        dispatched: Dispatched,
        request: WebRequest,
        interim: Callable[[int, Fields], None],
        running: RunningPass | None,
    ) -> Response:
        route = dispatched.route
        encoding = _encoding(route, request)
        lookup = dispatched.lookup.cache_request(
            request,
            lambda interim: build_cache_request(
                dispatched.lookup, request, self.edge_name, *first_read(request), interim
            ),
            interim,
        )
        position = self._cache.log_position if running is None else running.sent_at.position
        try:
            if running is None:
                outcome = await self.responses.respond(lookup)
            else:
                outcome = await self.responses.finish_pass(lookup, running)
            if isinstance(outcome, Stored):
                location = self._location_elsewhere(route, request, outcome.reader.head)
                if location:
                    outcome.reader.close()
                    return self._builder.redirected(route, request, location, outcome.result)
                representation = await self._representation(route, outcome, encoding)
                return self._builder.stored(route, request, outcome, representation)
        except (OriginError, CacheFullError) as exc:
            return self._builder.failed(route, request, exc)
        if isinstance(outcome, Passed):
            return self._passed(route, request, outcome, lookup, position)
        return self._builder.refused(
            request,
            504,
            "only-if-cached was requested, but the object is not cached",
            route.distribution.id,
            (),
            route,
        )

    def _location_elsewhere(self, route: Route, request: WebRequest, head: OriginHead) -> str:
        """The URL of a stored object at the nearest edge, if that is another one; "" if not."""
        if nearest_from_bytes(route, request) is None or head.status != HTTPStatus.OK:
            return ""
        if evaluate(request.headers, head.version) is not Condition.HOLDS:
            return ""
        size = head.version.size_bytes if head.version.has_ended else None
        return self._url_elsewhere(route, request, size)

    def _url_elsewhere(self, route: Route, request: WebRequest, size_bytes: int | None) -> str:
        limit_bytes = nearest_from_bytes(route, request)
        if self._nearest is None or limit_bytes is None:
            return ""
        if size_bytes is None or size_bytes < limit_bytes:
            return ""
        edge = self._nearest.elsewhere(request.address)
        host = None if edge is None else with_edge_label(request.host, edge)
        if edge is None or host is None:
            return ""
        self._counts.add(Counter.EDGE_REDIRECTS, pair(edge, "http"))
        return request_url(request, host)

    def _passed(
        self,
        route: Route,
        request: WebRequest,
        passed: Passed,
        lookup: CacheRequest,
        position: int,
    ) -> Response:
        response = passed.response
        if request.method == "HEAD" and response.status == HTTPStatus.OK:
            # A GET that is passed through stays here: the origin has already handled it.
            size = fold_fields(response.fields).get("content-length", "")
            location = self._url_elsewhere(route, request, parse_number(size))
            if location:
                response.close()
                return self._builder.redirected(route, request, location, CacheResult.MISS)
        return self._builder.passed(
            route,
            request,
            response,
            cache_status(self.edge_name, passed.cache_status),
            _provenance(lookup, position, response),
            evaluates_conditions=passed.leaves_conditions,
        )

    async def _representation(
        self, route: Route, stored: Stored, encoding: ContentCoding | None
    ) -> Representation | None:
        """The compressed representation for this viewer, or None for the stored one."""
        reader = stored.reader
        head = reader.head
        if not route.rule.behavior.compress or not is_compressible(head):
            return None
        if encoding is not None:
            try:
                asset = self._compressor.encoded_asset(reader.asset, head, encoding)
                encoded = await self._cache.open(asset, WHOLE)
                return Representation(encoded_head(head, encoding, encoded.size_bytes), encoded)
            except (OriginError, CacheFullError):
                self._counts.add(Counter.ERRORS, "compression")
            except BaseException:
                reader.close()
                raise
        return Representation(replace(head, headers=with_vary(head.headers)), reader.clone())

    async def _error_page(
        self, route: Route, request: WebRequest, page: ErrorPage, response: Response
    ) -> Response:
        """The distribution's error page, or the error response itself if the page fails."""
        page_request = error_page_request(request, page.path)
        page_route = route_in(route.distribution, page_request.path, "")
        if not isinstance(page_route, Route):
            return response
        outcome = await self._page(page_route, page_request)
        if outcome is None:
            return response
        viewer_request = error_page_viewer(request, page.path)
        encoding = _encoding(page_route, viewer_request)
        representation = await self._representation(page_route, outcome, encoding)
        await response.close()
        shown = self._builder.stored(
            page_route, viewer_request, outcome, representation, page.response_status
        )
        return shown._replace(reason=response.reason, error=response.error)

    async def _page(self, route: Route, request: WebRequest) -> Stored | None:
        # With GET in any case: a HEAD's response cannot be stored, and would not be used.
        fetched = replace(request, method="GET")
        try:
            outcome = await self.responses.respond(
                build_cache_request(RequestTarget(route), fetched, self.edge_name, WHOLE)
            )
        except (OriginError, CacheFullError):
            return None
        if isinstance(outcome, Stored):
            if outcome.reader.head.status == HTTPStatus.OK:
                return outcome
            outcome.reader.close()
        elif isinstance(outcome, Passed):
            outcome.response.close()
        return None


def _provenance(
    lookup: CacheRequest, position: int, response: OriginResponse
) -> Callable[[], Provenance]:
    """The provenance of a response that is passed through."""
    return lambda: Provenance(lookup.asset.subject, position, fold_fields(response.fields))


def _may_remember(route: Route, request: WebRequest, status: int, fields: Fields) -> bool:
    """Whether the head of a response that was passed through is worth remembering.

    Not that of a 206: whether it answers the request depends on its length too.
    """
    is_timed = route.rule.behavior.response_headers.server_timing_percent > 0
    is_part = status == HTTPStatus.PARTIAL_CONTENT
    return request.method == "GET" and not is_timed and not is_part and is_short(fields)


def _encoding(route: Route, request: WebRequest) -> ContentCoding | None:
    """The content coding for this viewer, if the behavior compresses; else None."""
    if not route.rule.behavior.compress:
        return None
    return negotiate(request.headers.get("accept-encoding"))
