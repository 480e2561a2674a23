"""Handles the requests of other edges: checks, then this edge's cache.

Only if this edge has the rank that the other one has computed, it may wait and request for it, so
edges with different views of the fleet never wait for each other; else it sends what is cached. It
must have applied the shared log at least as far as the other edge, so what that one knows to be
invalid does not come back. The other edge has decided who may have the object; here a certificate
of the fleet decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from streamedge.access.client_address import IpNetwork
from streamedge.cache.lookup.outcome import Passed, Stored
from streamedge.cache.lookup.pass_through import RunningPass
from streamedge.cache.objects import Cache
from streamedge.cache.origin_requests import REQUEST_DIRECTIVES, CacheRequest
from streamedge.cache.reader import CacheResult, Reader
from streamedge.cache.responses import ResponseCache
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.extent import EXTENT_BYTES
from streamedge.delivery.hosts import OriginBinding
from streamedge.delivery.http.exchange import Exchange
from streamedge.delivery.http.fast_path.batch import HitBatch
from streamedge.delivery.http.fast_path.fast_path import FastPath
from streamedge.delivery.http.fast_path.remembered import RememberedRequest, SentHit
from streamedge.delivery.http.fast_path.request_memo import BytesMemo
from streamedge.delivery.http.http1.encoding import Http1Heads
from streamedge.delivery.http.policy.behaviors import Behavior
from streamedge.delivery.http.request.dispatch import Refused
from streamedge.delivery.http.request.first_read import first_read
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.request.request_ids import no_id
from streamedge.delivery.http.request.routing import Route, Rule, WebDistribution
from streamedge.delivery.http.response.build import Response, ResponseBuilder
from streamedge.delivery.http.response.ranges import first_span
from streamedge.delivery.http.response.response import ResponseHead, ResponseMessage
from streamedge.delivery.http.response_reports import ResponseReports
from streamedge.delivery.http.viewer import Viewer
from streamedge.delivery.peer.assets import PeerAsset, find_binding, peer_asset, variant_of
from streamedge.errors import CacheFullError, OriginError
from streamedge.fleet.members import Role
from streamedge.fleet.ownership import rank_of
from streamedge.fleet.states import EdgeState
from streamedge.http_fields import content_range
from streamedge.memo import MemoryBudget
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts
from streamedge.origin import Fields, OriginHead, OriginRequest, Version
from streamedge.origin.answers import fold_fields
from streamedge.origin.objects import ObjectUpstream
from streamedge.origin.peer.client import (
    PROGRESS_S,
    PROGRESS_STATUS,
    PeerResult,
    PeerRole,
    peer_label,
)
from streamedge.origin.peer.protocol import (
    FAILURE_FIELD,
    NOT_PENDING,
    PEER_FIELD,
    PEER_PATH,
    REFUSED_FIELD,
    REQUEST_FIELD,
    STALE_FIELD,
    PeerAnswer,
    PeerHeader,
    PeerRequest,
    decode_peer,
    decode_request,
    encode_answer,
    without_own_fields,
)
from streamedge.origin.peer.tier import Tier, extent_of
from streamedge.origin.peer.view import PeerView
from streamedge.spans import Span
from streamedge.write_back.holders import HeldHere

BEHIND_WAIT_S = 0.1
"""How long a request waits until this edge has applied the log as far as the other one."""

_METHODS = frozenset({"GET", "HEAD"})
# The handler reads a peer request itself: it has neither host nor distribution.
_NOT_DISPATCHED = Refused(HTTPStatus.NOT_FOUND, "not a peer request", None, is_personal=True)
_PLAIN_BEHAVIOR = Behavior("*", "")


class RefusedPeerError(Exception):
    """A peer request is refused; the other edge goes on to the next rank, or to the origin."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class NotCachedError(RefusedPeerError):
    """The other edge gets cached bytes only, and there are none."""

    def __init__(self) -> None:
        super().__init__(504, "not cached")


class PeerService:
    """What the handlers of all connections share. ``bindings``: the origins, by name.

    ``held_here``: the queued writes; None where no behavior writes back.
    """

    def __init__(
        self,
        view: PeerView,
        cache: Cache,
        bindings: Mapping[str, OriginBinding],
        log: Log,
        counts: Counts,
        *,
        ranges_max: int,
        held_here: HeldHere | None = None,
    ) -> None:
        self.held_here = held_here
        self.view = view
        self.cache = cache
        self.responses = ResponseCache(cache)
        self.builder = ResponseBuilder(view.name, ranges_max)
        self.log = log
        self.counts = counts
        self.bindings = dict(bindings)
        budget = MemoryBudget(0)
        fast_path: FastPath[bytes, bytes, bytes] = FastPath(
            cache,
            self.responses,
            view.name,
            self.builder,
            Http1Heads(),
            BytesMemo(budget),
            budget,
        )
        # Peer requests are checked each time, so nothing of them is remembered.
        self.fast_paths = {(True, False): fast_path}
        self.batch = HitBatch(_no_hits)

    def replace(self, bindings: Mapping[str, OriginBinding], *, ranges_max: int) -> None:
        """Uses a new config from the next request on."""
        self.bindings = dict(bindings)
        self.builder = ResponseBuilder(self.view.name, ranges_max)

    def handler(self, names: frozenset[str]) -> PeerHandler:
        """The handler for a connection of an edge whose certificate has these names."""
        return PeerHandler(self, names)


class PeerHandler(ResponseReports):
    """Handles the requests of one connection (``RequestHandler``)."""

    proxies: Sequence[IpNetwork] = ()

    def __init__(self, service: PeerService, names: frozenset[str]) -> None:
        self._service = service
        self._names = names
        self.batch = service.batch
        self.fast_paths = service.fast_paths

    def without_edge_name(self, request: WebRequest) -> WebRequest:
        """The request itself: other edges send no host names of viewers."""
        return request

    def dispatch(self, request: WebRequest) -> Refused:
        """A refusal that is not sent: ``respond`` reads the request itself."""
        return _NOT_DISPATCHED

    def admits(
        self,
        remembered: RememberedRequest[Any, Any],
        serves: Callable[[str], bool] | None,
        address: str,
        now_s: float,
    ) -> bool:
        return False

    def begin_pass(self, exchange: Exchange) -> None:
        """None: ``respond`` handles every peer request."""
        return

    def pass_at_once(self, exchange: Exchange, running: RunningPass) -> None:
        raise AssertionError("no pass was begun")

    async def finish_pass(self, exchange: Exchange, running: RunningPass) -> Response:
        raise AssertionError("no pass was begun")

    async def respond(self, exchange: Exchange) -> Response:
        """The response to a peer request. Refusals and failures become responses.

        While it takes long, interim responses show the other edge that this one lives.
        """
        service = self._service
        progress = _Progress(exchange)
        try:
            return await self._respond(exchange.request, exchange.interim)
        except RefusedPeerError as exc:
            return _response(exc.status, [(REFUSED_FIELD, exc.reason)], exc.reason)
        except CacheFullError as exc:
            return _response(503, [(REFUSED_FIELD, "cache full")], str(exc))
        except OriginError as exc:
            answer = PeerAnswer(service.view.applied, failure=exc.failure)
            response = _response(502, encode_answer(answer), str(exc))
            return response._replace(error=exc.failure.value)
        finally:
            progress.stop()

    async def _respond(
        self, request: WebRequest, interim: Callable[[int, Fields], None]
    ) -> Response:
        service, view = self._service, self._service.view
        header, peer_request = self._read(request)
        if header.is_pending:
            return await self._send_pending(request, peer_request)
        is_cached_only = header.is_cached_only
        match view.state:
            case EdgeState.JOINING:
                raise RefusedPeerError(503, "joining")
            case EdgeState.LOST:
                raise RefusedPeerError(409, "lost")
            case EdgeState.DRAINING:
                is_cached_only = True
        binding = find_binding(peer_request, service.bindings)
        if binding is None or binding.tier is None:
            raise RefusedPeerError(409, "no such origin with a tier here")
        own_rank = _own_rank(view, binding.tier, peer_request, request)
        is_other_rank = not is_cached_only and own_rank != header.rank
        is_cached_only = is_cached_only or is_other_rank
        if not await view.has_applied(header.need, 0 if is_cached_only else BEHIND_WAIT_S):
            raise RefusedPeerError(409, "behind")
        target = peer_asset(peer_request, binding, binding.tier, view.name)
        if target is None:
            raise RefusedPeerError(400, "the key is not one of the origin")
        try:
            if peer_request.version is None:
                route = _route(target, binding)
                return await self._look_up(
                    request,
                    peer_request,
                    target,
                    route,
                    interim,
                    is_cached_only=is_cached_only,
                )
            asset = variant_of(target, peer_request.variant)
            reader = service.cache.open_version(asset, OriginHead(peer_request.version, "", {}))
            return await self._read_version(
                request, peer_request.version, reader, is_cached_only=is_cached_only
            )
        except NotCachedError as exc:
            if is_other_rank:
                raise RefusedPeerError(409, f"rank {own_rank} here") from exc
            raise

    async def _send_pending(self, request: WebRequest, peer_request: PeerRequest) -> Response:
        """The body of a queued write, in every state of this edge: no other one has it."""
        service, version = self._service, peer_request.version
        asset = peer_request.asset
        held = None
        if service.held_here is not None and version is not None:
            held = service.held_here.find(asset.key, version)
        if held is None:
            raise RefusedPeerError(409, NOT_PENDING)
        range_value = request.headers.get("range", "")
        sent = OriginRequest(
            request.method, asset.name, fields=(("range", range_value),) if range_value else ()
        )
        upstream = ObjectUpstream(held)
        try:
            response = await upstream.send(sent)
        except OriginError as exc:
            raise RefusedPeerError(503, str(exc)) from exc
        if response.status == HTTPStatus.NOT_FOUND:
            raise RefusedPeerError(409, NOT_PENDING)  # it was sent just now, and its file removed
        binding = OriginBinding(asset.origin_name, asset.identity, held, upstream, is_site=True)
        rule = Rule(_PLAIN_BEHAVIOR, binding, TtlRules(*asset.rules))
        route = Route(WebDistribution("", (), (rule,)), rule, asset.name, "")
        built = service.builder.passed(route, request, response, "")
        return _with_fields(built, encode_answer(PeerAnswer(service.view.applied)))

    def _read(self, request: WebRequest) -> tuple[PeerHeader, PeerRequest]:
        """The two parts of a peer request. Raises RefusedPeerError."""
        if request.path.decode("latin-1") != PEER_PATH or request.method not in _METHODS:
            raise RefusedPeerError(404, "not a peer request")
        header = decode_peer(request.headers.get(PEER_FIELD, ""))
        peer_request = decode_request(request.headers.get(REQUEST_FIELD, ""))
        if header is None or peer_request is None or request.has_body:
            raise RefusedPeerError(400, "not a peer request")
        if header.edge not in self._names or not self._is_member(header.edge):
            raise RefusedPeerError(403, "not a member of the fleet with this certificate")
        return header, replace(peer_request, method=request.method)

    def _is_member(self, name: str) -> bool:
        member = self._service.view.members.get(name)
        return member is not None and member.role is not Role.REMOVED

    async def _look_up(
        self,
        request: WebRequest,
        peer_request: PeerRequest,
        target: PeerAsset,
        route: Route,
        interim: Callable[[int, Fields], None],
        *,
        is_cached_only: bool,
    ) -> Response:
        """The present version, by the cache's rules."""
        service, view = self._service, self._service.view
        described = peer_request.asset
        fields = {
            name: value
            for name, value in request.headers.items()
            if name not in {PEER_FIELD, REQUEST_FIELD, *REQUEST_DIRECTIVES}
        } | dict(described.directives)
        if is_cached_only:
            own = fields.get("cache-control")
            fields["cache-control"] = f"{own}, only-if-cached" if own else "only-if-cached"
        want, suffix_bytes = first_read(request)
        position = service.cache.sent_now().position
        outcome = await service.responses.respond(
            CacheRequest(
                target.asset,
                target.upstream,
                replace(target.request, interim=interim),
                fields,
                want,
                applies_request_directives=is_cached_only or bool(described.directives),
                is_object=described.is_object,
                selected_by=fold_fields(target.request.fields),
                suffix_bytes=suffix_bytes,
                accepts_stale=False,
            )
        )
        if isinstance(outcome, Stored):
            record = outcome.reader.open_object.record
            answer = PeerAnswer(
                view.shared_position(record.position),
                outcome.cache_status.served_stale,
                held_s=round(record.held_s + max(0.0, time.time() - record.validated_s), 3),
            )
            response = service.builder.stored(route, request, outcome)
            if "date" not in record.head.headers:
                # This edge's own Date would make the response as old as its clock is slow.
                response = _without_field(response, "date")
            if is_cached_only:
                response = await _only_cached(response)
            return _with_fields(response, encode_answer(answer))
        if isinstance(outcome, Passed):
            age = fold_fields(outcome.response.fields).get("age")
            response = service.builder.passed(route, request, outcome.response, "")
            added = encode_answer(PeerAnswer(view.shared_position(position)))
            return _with_fields(response, [*added, *([("age", age)] if age else [])])
        raise NotCachedError

    async def _read_version(
        self, request: WebRequest, version: Version, reader: Reader, *, is_cached_only: bool
    ) -> Response:
        """Bytes of one version, as soon as the first of them is here.

        Before that, the origin may show that it has another version now.
        """
        try:
            span = first_span(request.headers.get("range", ""))
            if span is None or span.start >= version.size_bytes:
                raise RefusedPeerError(400, "not a range of the version")
            extent_end = (span.start // EXTENT_BYTES + 1) * EXTENT_BYTES
            span = Span(span.start, min(span.end, version.size_bytes, extent_end))
            if is_cached_only:
                span = Span(span.start, reader.ready_end(span.start, span.end))
                if not span.size:
                    raise NotCachedError
            else:
                await reader.wait(span, eager=True)
        except BaseException:
            reader.close()
            raise
        fields = [
            ("content-length", str(span.size)),
            ("content-range", content_range(span, version.size_bytes)),
            *encode_answer(PeerAnswer(self._service.view.applied)),
        ]
        if version.etag:
            fields.append(("etag", version.etag))
        if version.last_modified_s is not None:
            fields.append(("last-modified", formatdate(version.last_modified_s, usegmt=True)))
        message = ResponseMessage(ResponseHead(206, fields), span)
        return Response(message, reader, CacheResult.HIT, None)

    # Logs and metrics

    def new_request_id(self) -> bytes:
        """Requests between edges have no id."""
        return no_id()

    def finished(
        self,
        request: WebRequest,
        response: Response,
        viewer: Viewer,
        first_byte_s: float,
        sent_bytes: int,
        duration_s: float,
        cut: str | None,
    ) -> None:
        """Logs and counts a response; ``cut`` is the reason why it ended early, or None."""
        result = _result(response, cut)
        counts = self._service.counts
        label = peer_label(PeerRole.PARENT, result)
        counts.add(Counter.PEER_REQUESTS, label)
        counts.add(Counter.PEER_BYTES, label, sent_bytes)
        header = decode_peer(request.headers.get(PEER_FIELD, ""))
        peer_request = decode_request(request.headers.get(REQUEST_FIELD, ""))
        self._service.log.event(
            "peer_response",
            edge=None if header is None else header.edge,
            origin=None if peer_request is None else peer_request.asset.origin_name,
            name=None if peer_request is None else peer_request.asset.name,
            range=request.headers.get("range"),
            status=response.message.status,
            bytes=sent_bytes,
            cache=response.result.value,
            seconds=round(duration_s, 6),
            reason=cut or response.reason,
        )

    def hits_finished(
        self, hits: Sequence[SentHit], duration_s: float = 0.0, cut: str | None = None
    ) -> None:
        _no_hits(hits)

    def refused_connection(
        self,
        client: str,
        status: HTTPStatus,
        request: WebRequest | None = None,
        request_id: str = "",
        body_bytes: int = 0,
    ) -> None:
        """Counts and logs an error response to bytes that are no request."""
        label = peer_label(PeerRole.PARENT, PeerResult.REFUSED)
        self._service.counts.add(Counter.PEER_REQUESTS, label)
        self._service.log.event("peer_refused", client=client, status=status.value)


class _Progress:
    """Sends an interim response every PROGRESS_S until ``stop``."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(PROGRESS_S, self._send)

    def stop(self) -> None:
        self._timer.cancel()

    def _send(self) -> None:
        self._exchange.interim(PROGRESS_STATUS, [])
        self._timer = self._loop.call_later(PROGRESS_S, self._send)


def _own_rank(
    view: PeerView, tier: Tier, peer_request: PeerRequest, request: WebRequest
) -> int | None:
    """This edge's rank for a request; None if it is no member of the tier."""
    is_read = peer_request.version is not None
    extent = extent_of(request.headers.get("range", ""), is_read=is_read)
    return rank_of(view.name, peer_request.asset.key, extent, tier.owners())


def _route(target: PeerAsset, binding: OriginBinding) -> Route:
    """A route without policies: the other edge applies its viewer's."""
    asset = target.asset
    # As a site, an error is sent as it is stored.
    rule = Rule(_PLAIN_BEHAVIOR, replace(binding, is_site=True), asset.rules)
    distribution = WebDistribution(asset.subject.scope, (), (rule,))
    return Route(distribution, rule, asset.name, target.request.query)


async def _only_cached(response: Response) -> Response:
    """The response, if it needs no byte that is not cached; a shorter one for a range.

    Raises RefusedPeerError.
    """
    reader, message = response.reader, response.message
    span = message.span
    if reader is None and response.stream is None:
        return response
    if reader is not None and span is not None:
        end = reader.ready_end(span.start, span.end)
        if end == span.end:
            return response
        if end > span.start and message.status == HTTPStatus.PARTIAL_CONTENT:
            shorter = Span(span.start, end)
            replaced = {"content-length": str(shorter.size)}
            replaced["content-range"] = content_range(shorter, reader.size_bytes)
            fields = [(name, replaced.get(name, value)) for name, value in message.head.fields]
            head = message.head._replace(fields=fields)
            return response._replace(message=replace(message, head=head, span=shorter))
    await response.close()
    raise NotCachedError


def _response(status: int, fields: Fields, reason: str) -> Response:
    head = ResponseHead(status, [("content-length", "0"), *fields])
    return Response(ResponseMessage(head), None, CacheResult.ERROR, None, reason)


def _with_fields(response: Response, fields: Fields) -> Response:
    head = response.message.head
    head = head._replace(fields=[*without_own_fields(head.fields), *fields])
    return response._replace(message=replace(response.message, head=head))


def _without_field(response: Response, name: str) -> Response:
    head = response.message.head
    head = head._replace(fields=[field for field in head.fields if field[0] != name])
    return response._replace(message=replace(response.message, head=head))


def _result(response: Response, cut: str | None) -> PeerResult:
    names = {name for name, _value in response.message.head.fields}
    if cut is not None:
        return PeerResult.CUT
    if REFUSED_FIELD in names:
        return PeerResult.REFUSED
    if FAILURE_FIELD in names:
        return PeerResult.ORIGIN_FAILED
    return PeerResult.STALE if STALE_FIELD in names else PeerResult.ANSWERED


def _no_hits(hits: Sequence[SentHit]) -> None:
    raise AssertionError("peer requests have no fast path")
