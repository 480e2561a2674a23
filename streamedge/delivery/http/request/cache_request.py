"""The request to the cache for a viewer's GET or HEAD, and its cache key.

``PreparedLookup`` keeps it for the next request with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from streamedge.cache.origin_requests import REQUEST_DIRECTIVES, CacheRequest
from streamedge.cache.storage.records import Asset, InvalidationTarget
from streamedge.config.schema.selection import SELECT_NONE
from streamedge.control.invalidations import target_of
from streamedge.delivery.hosts import describe
from streamedge.delivery.http.policy.behaviors import CachePolicy, key_parts, keyed_query
from streamedge.delivery.http.request.origin_request import build_origin_request, policy_fields
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.request.routing import Route
from streamedge.delivery.http.response.remembered_pass import RememberedPass
from streamedge.delivery.object_names import path_name
from streamedge.keys import join_key
from streamedge.origin import Fields, ImmediateUpstream, OriginRequest
from streamedge.origin.answers import fold_fields
from streamedge.origin.names import site_path
from streamedge.origin.objects import RequestedObject
from streamedge.origin.peer.tier import TieredObject
from streamedge.spans import Span

Interim = Callable[[int, Fields], None]
"""Called for 1xx responses."""


def build_cache_request(
    target: RequestTarget,
    request: WebRequest,
    edge_name: str,
    want: Span,
    suffix_bytes: int = 0,
    interim: Interim | None = None,
) -> CacheRequest:
    """The cache request of a GET or HEAD."""
    route = target.route
    rule = route.rule
    policy = rule.behavior.cache
    to_origin = build_origin_request(route, request, edge_name)
    key = target.key(request)
    primary = key
    if policy.headers or policy.cookies != SELECT_NONE:
        primary = asset_key(route, replace(policy, headers=(), cookies=SELECT_NONE), request)
    binding = rule.binding
    if not binding.is_site:
        primary = join_key(binding.identity, route.name)  # one object for all queries
    origin, upstream = binding.origin, binding.upstream
    if binding.is_site or to_origin.query or to_origin.fields:
        origin = RequestedObject(binding.name, upstream, _with_get(to_origin))
    parent_keys = () if primary == key else (primary,)
    asset = Asset(key, route.name, origin, binding.name, rule.rules, parent_keys, target.subject())
    applies = policy.viewer_directives or policy.strict
    if binding.tier is not None:
        directives = _directives(request) if applies else ()
        description = describe(
            asset, binding.identity, is_object=not binding.is_site, directives=directives
        )
        upstream = tiered = binding.tier.upstream(description, upstream, binding.is_pending)
        asset = replace(asset, origin=TieredObject(binding.name, tiered, _with_get(to_origin)))
    return CacheRequest(
        asset,
        upstream,
        _with_interim(to_origin, interim),  # the asset's fills are not this request's
        request.headers,
        want,
        applies_request_directives=applies,
        is_object=not binding.is_site,
        selected_by=fold_fields(to_origin.fields),
        suffix_bytes=suffix_bytes,
    )


def _with_get(request: OriginRequest) -> OriginRequest:
    """The request for an object's bytes."""
    return request if request.method == "GET" else replace(request, method="GET")


def _directives(request: WebRequest) -> tuple[tuple[str, str], ...]:
    """The viewer's directives for caches (RFC 9111 §5.2.1, §5.4)."""
    headers = request.headers
    return tuple((name, headers[name]) for name in REQUEST_DIRECTIVES if name in headers)


class RequestTarget:
    """The cache key of a route's object and what invalidations of it match, computed once."""

    __slots__ = ("_key", "_subject", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self._key = ""
        self._subject: InvalidationTarget | None = None

    def key(self, request: WebRequest) -> str:
        """The cache key; ``request`` is any of those that have this target."""
        if not self._key:
            self._key = asset_key(self.route, self.route.rule.behavior.cache, request)
        return self._key

    def subject(self) -> InvalidationTarget:
        """The values that invalidations are matched against."""
        if self._subject is None:
            self._subject = invalidation_target(self.route)
        return self._subject


class PreparedLookup(RequestTarget):
    """The target and the cache request of a request that may come again with the same bytes.

    The cache request is kept from the second time on, so a request that comes once takes no memory.
    """

    __slots__ = ("_address", "_cache_request", "_range_field", "immediate", "passed")

    def __init__(self, route: Route) -> None:
        super().__init__(route)
        self.immediate: ImmediateUpstream | None = None  # the origin, if it may be one
        self.passed: RememberedPass | None = None  # the last response that was passed through
        self._address = ""
        self._range_field: str | None = None
        self._cache_request: CacheRequest | None = None

    @property
    def is_prepared(self) -> bool:
        """Whether an equal request was handled by the cache, from any address."""
        return self._cache_request is not None

    def remembered_request(self, request: WebRequest) -> CacheRequest | None:
        """The cache request that is kept, without callbacks, if it is that of ``request`` too."""
        if request.address != self._address or request.headers.get("range") != self._range_field:
            return None
        return self._cache_request

    def cache_request(
        self,
        request: WebRequest,
        build: Callable[[Interim | None], CacheRequest],
        interim: Interim | None,
    ) -> CacheRequest:
        """What ``build`` returns or has returned for an equal request, with ``interim``.

        Equal bytes may come from another address; the range is not among the bytes that are equal.
        """
        range_field = request.headers.get("range")
        if request.address != self._address or range_field != self._range_field:
            self._address, self._range_field = request.address, range_field
            self._cache_request = None
            return build(interim)
        if self._cache_request is None:
            self._cache_request = build(None)
            upstream = self._cache_request.upstream
            self.immediate = upstream if isinstance(upstream, ImmediateUpstream) else None
        lookup = self._cache_request
        return CacheRequest(
            lookup.asset,
            lookup.upstream,
            _with_interim(lookup.origin_request, interim),
            lookup.fields,
            lookup.want,
            lookup.applies_request_directives,
            lookup.is_object,
            lookup.selected_by,
            lookup.needs_version,
            lookup.suffix_bytes,
        )


def _with_interim(sent: OriginRequest, interim: Interim | None) -> OriginRequest:
    """The request to the origin with another callback for interim responses."""
    return OriginRequest(  # three times as fast as dataclasses.replace
        sent.method,
        sent.name,
        sent.query,
        sent.fields,
        sent.body,
        interim,
        sent.trailers,
        sent.path,
    )


def asset_key(route: Route, policy: CachePolicy, request: WebRequest) -> str:
    """The cache key of a request."""
    parts = key_parts(policy, route.origin_path, route.query, policy_fields(route, request))
    return join_key(route.rule.binding.identity, *parts)


def invalidation_target(route: Route) -> InvalidationTarget:
    """The scope and target that invalidations are matched against."""
    distribution = route.distribution
    target = target_of(route.name, keyed_query(route.rule.behavior.cache, route.query))
    return InvalidationTarget(distribution.id, target, distribution.cache_tag_header)


def target_key_parts(route: Route, target: str) -> tuple[str, ...]:
    """The key parts of another target (path and query) of the same host, for invalidation.

    They follow the origin's identity in the key.
    """
    path, _, query = target.partition("?")
    policy = replace(route.rule.behavior.cache, headers=(), cookies=SELECT_NONE)
    name = path_name(path) or (route.distribution.root_object if path == "/" else "")
    origin_path = name
    if route.rule.binding.is_site:
        origin_path = path.removeprefix("/") or site_path(name)
    return key_parts(policy, origin_path, query, ())
