"""Maps a request to its distribution, behavior, origin, object name and cache key.

Also builds the requests to the cache and to the origin. Pure: nothing is fetched here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from streamedge.cache.origin_requests import CacheRequest
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.records import Asset, InvalidationTarget
from streamedge.config.schema.selection import NONE
from streamedge.control.invalidations import target_of
from streamedge.delivery.hosts import HostTable, OriginBinding, describe, host_name
from streamedge.delivery.http.policy.behaviors import (
    SAFE_METHODS,
    Behavior,
    CachePolicy,
    ErrorPage,
    choose_behavior,
    forwarded_fields,
    forwarded_for,
    forwarded_query,
    key_parts,
    keyed_query,
)
from streamedge.delivery.http.request.authorization import without_signature
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.request.trailers import forwardable_trailers
from streamedge.delivery.http.response.remembered_pass import RememberedPass
from streamedge.delivery.object_names import is_object_name, object_name, path_name
from streamedge.http_fields import connection_options
from streamedge.keys import join_key
from streamedge.origin import Fields, ImmediateUpstream, OriginRequest
from streamedge.origin.answers import fold_fields
from streamedge.origin.names import site_path
from streamedge.origin.objects import RequestedObject
from streamedge.origin.peer.tier import TieredObject
from streamedge.origin.s3.protocol import (
    encoded_query,
    is_s3_request,
    read_parameters,
    without_s3_signature,
)
from streamedge.spans import Span

# The request fields that a bucket's response depends on (Amazon S3 User Guide, "Using CORS").
_BUCKET_FIELDS = frozenset(
    {"origin", "access-control-request-headers", "access-control-request-method"}
)
DIRECTIVES = ("cache-control", "pragma")
NO_HEADERS: Mapping[str, str] = {}
Interim = Callable[[int, Fields], None]  # called for 1xx responses
_SLASHES = re.compile("/+")
_ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)
_PARAMETERS = re.compile(";[^/]*")  # of a segment, as Java servers read them


@dataclass(frozen=True, slots=True)
class Rule:
    """A behavior with its origin. ``rules`` are the TTLs of its cache policy."""

    behavior: Behavior
    binding: OriginBinding
    rules: TtlRules

    def matches(self, path: str) -> bool:
        """As ``Behavior.matches``."""
        return self.behavior.matches(path)


_MISDIRECTED = 421


@dataclass(frozen=True, slots=True)
class WebDistribution:
    """A web distribution. The last of ``rules`` is its default, with the pattern "*"."""

    id: str
    aliases: tuple[str, ...]
    rules: tuple[Rule, ...]
    root_object: str = ""
    error_pages: Mapping[int, ErrorPage] = field(default_factory=dict)
    cache_tag_header: str = ""  # in lower case
    http2: bool = True
    nearest_from_bytes: int | None = None  # objects from this size are redirected; None: none is

    def rule(self, path: str) -> Rule:
        """The rule for a path, decoded once and without query."""
        if len(self.rules) == 1:
            return self.rules[0]
        return choose_behavior(self.rules, path)


class Route(NamedTuple):
    """The target of a request; ``query`` is without a signature that the edge verifies.

    ``name`` is decoded, for the rules and for origins with objects. ``path`` goes to a site, as it
    was sent, without a leading slash. ``is_s3``: an S3 client's request for an object of the rule's
    bucket, or for the bucket.
    """

    distribution: WebDistribution
    rule: Rule
    name: str
    query: str
    is_s3: bool = False
    path: str = ""

    @property
    def origin_path(self) -> str:
        """The identity within the origin: at a site the path, octet for octet, else the name."""
        return self.path if self.rule.binding.is_site else self.name

    def error_page(self, status: int) -> ErrorPage | None:
        """The page in place of an error with ``status``; None: there is none. S3 clients get none.

        A 421 stays: its viewer has to open another connection, and gets nothing over this one.
        """
        page = self.distribution.error_pages.get(status)
        if page is None or not page.path or self.is_s3 or status == _MISDIRECTED:
            return None
        return page

    @property
    def is_bucket(self) -> bool:
        """Whether the request is for the bucket itself."""
        return self.is_s3 and not self.name


def nearest_from_bytes(route: Route, request: WebRequest) -> int | None:
    """The size from which the request is redirected to the nearest edge; None: it is not.

    A request to an edge's own name is never redirected, so there are no loops. The signature of an
    S3 client holds for the host that it has called.
    """
    if request.edge_label or route.is_s3 or request.method not in {"GET", "HEAD"}:
        return None
    return route.distribution.nearest_from_bytes


class RouteError(NamedTuple):
    """Why a request has no route. ``code``: the error code for S3 clients; "" means the code of
    the status.
    """

    status: int
    reason: str
    distribution: str | None = None
    code: str = ""


def find_route(
    distributions: HostTable[WebDistribution],
    host: str,
    path: bytes,
    query: str,
    headers: Mapping[str, str] = NO_HEADERS,
) -> Route | RouteError:
    """Routes a request by host, path and query; ``headers`` show whether it is an S3 request.

    The object's name is decoded here once, for the access rules, the cache and the origin.
    """
    if not host:
        return RouteError(400, "the request must have exactly one valid Host header")
    matches = distributions.find(host)
    if not matches:
        return RouteError(421, "no distribution has this host name: check aliases")
    if is_s3_request(headers, query):
        bucket_route = _route_to_bucket(distributions, matches[0], host, path, query)
        if bucket_route is not None:
            return bucket_route
    return route_in(matches[0], path, query)


def _route_to_bucket(
    distributions: HostTable[WebDistribution],
    distribution: WebDistribution,
    host: str,
    path: bytes,
    query: str,
) -> Route | RouteError | None:
    """Routes an S3 client's request; None where it is for no bucket.

    The bucket stands before the key, or in the host name (Amazon S3 User Guide, "Virtual hosting
    of general purpose buckets").
    """
    buckets = {rule.binding.bucket for rule in distribution.rules if rule.binding.bucket}
    if not buckets:
        return None
    name = object_name(path)
    if name is None:
        if path.strip(b"/"):
            return RouteError(400, "the path is not an object's name", distribution.id)
        name = ""
    bucket, _, key = name.partition("/")
    hosted = _hosted_bucket(
        distributions, distribution, buckets, host, is_in_path=bucket in buckets
    )
    if hosted:
        bucket, key = hosted, name
    elif bucket not in buckets:
        if not distribution.rule(name).binding.bucket:
            return None
        if not name:
            text = "calls on all buckets do not go through the edge"
            return RouteError(501, text, distribution.id)
        text = "this distribution has no bucket of this name"
        return RouteError(404, text, distribution.id, "NoSuchBucket")
    plain = without_s3_signature(query)
    if not key:
        rule = [rule for rule in distribution.rules if rule.binding.bucket == bucket][-1]
        plain = without_signature(rule.behavior.access, plain)
        return Route(distribution, rule, "", plain, is_s3=True)
    route = route_to_object(distribution, key, plain)._replace(is_s3=True)
    if route.rule.binding.bucket != bucket:
        text = "another origin than the bucket serves this path"
        return RouteError(403, text, distribution.id)
    return _checked_segments(route)


def _hosted_bucket(
    distributions: HostTable[WebDistribution],
    distribution: WebDistribution,
    buckets: set[str],
    host: str,
    *,
    is_in_path: bool,
) -> str:
    """The bucket that a host name begins with, or ""."""
    named = host_name(host)
    for bucket in buckets:
        if named == bucket.lower():
            return "" if is_in_path else bucket
        if named.startswith(f"{bucket.lower()}."):
            # The distribution may itself be called bucket.example.com, and the client put the
            # bucket into the path: then example.com is not the edge.
            endpoint = named.removeprefix(f"{bucket.lower()}.")
            is_edge = distribution in distributions.find(endpoint)[:1]
            return bucket if is_edge or not is_in_path else ""
    return ""


def listing_rules(distribution: WebDistribution, prefix: str) -> list[Rule]:
    """The rules that may apply to objects whose names begin with ``prefix``."""
    return [rule for rule in distribution.rules if rule.behavior.may_match_below(prefix)]


def route_in(distribution: WebDistribution, path: bytes, query: str) -> Route | RouteError:
    """Routes a path and query within a distribution."""
    name = distribution.root_object if path == b"/" else path_name(path)
    if name is None:
        return RouteError(400, "the path has a dot segment, a control character or a backslash")
    sent = path.removeprefix(b"/").decode("ascii", "replace")
    route = route_to_object(distribution, name, query, sent)
    if name and not route.rule.binding.is_site and not is_object_name(name):
        return RouteError(400, "the path is not an object's name", distribution.id)
    return _checked_segments(route)


def _checked_segments(route: Route) -> Route | RouteError:
    """The route, unless an origin that normalises the path would serve it under other rules."""
    distribution = route.distribution
    plain = _SLASHES.sub("/", route.name).removeprefix("/")
    if plain != route.name and distribution.rule(plain) is not route.rule:
        return RouteError(400, "the path has empty segments", distribution.id)
    if not route.rule.binding.is_site:
        return route
    if "%2f" in route.path.lower():
        kept_name = path_name(_ENCODED_SLASH.sub("%252F", route.path))
        if kept_name is None or distribution.rule(kept_name) is not route.rule:
            return RouteError(
                400, "the path has an encoded slash, and two behaviors may match", distribution.id
            )
    if ";" in route.name:
        behavior = distribution.rule(_PARAMETERS.sub("", route.name)).behavior
        if behavior.access != route.rule.behavior.access:
            return RouteError(
                400, "the path's parameters (;) would bypass an access rule", distribution.id
            )
    return route


def route_to_object(distribution: WebDistribution, name: str, query: str, path: str = "") -> Route:
    """The route to an object; ``path`` as it was sent, or "" for its usual encoding."""
    rule = distribution.rule(name)
    query = without_signature(rule.behavior.access, query)
    return Route(distribution, rule, name, query, path=path or site_path(name))


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
    if policy.headers or policy.cookies != NONE:
        primary = asset_key(route, replace(policy, headers=(), cookies=NONE), request)
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
    return tuple((name, headers[name]) for name in DIRECTIVES if name in headers)


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


def selecting_fields(route: Route, request: WebRequest, edge_name: str) -> Mapping[str, str]:
    """The fields by which Vary selects: exactly those that the origin gets.

    Other fields cannot have changed the origin's response (RFC 9111 §4.1).
    """
    return fold_fields(build_origin_request(route, request, edge_name).fields)


def asset_key(route: Route, policy: CachePolicy, request: WebRequest) -> str:
    """The cache key of a request."""
    parts = key_parts(policy, route.origin_path, route.query, request.fields)
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
    policy = replace(route.rule.behavior.cache, headers=(), cookies=NONE)
    name = path_name(path) or (route.distribution.root_object if path == "/" else "")
    origin_path = name
    if route.rule.binding.is_site:
        origin_path = path.removeprefix("/") or site_path(name)
    return key_parts(policy, origin_path, query, ())


def build_origin_request(route: Route, request: WebRequest, edge_name: str) -> OriginRequest:
    """The request to the origin: method, name, and the parts that the policies forward."""
    behavior, binding = route.rule.behavior, route.rule.binding
    if not binding.is_site and not binding.bucket:
        return OriginRequest(request.method, route.name)
    fields = forwarded_fields(
        behavior.cache, behavior.origin_request, request.method, request.fields
    )
    if not binding.is_site:
        query = encoded_query(forwarded_read_parameters(route))
        bucket_fields = tuple(field for field in fields if field[0].lower() in _BUCKET_FIELDS)
        return OriginRequest(request.method, route.name, query, bucket_fields)
    if request.method not in SAFE_METHODS and "content-length" in request.headers:
        fields.append(("content-length", request.headers["content-length"]))
    if wants_upgrade(route, request):
        fields += (("connection", "upgrade"), ("upgrade", "websocket"))
        names = {name.lower() for name, _value in fields}
        fields += [
            (name, value)
            for name, value in request.fields
            if name.startswith("sec-websocket-") and name not in names
        ]
    if binding.sends_viewer_host:
        fields.append(("host", request.host))
    loop = request.headers.get("cdn-loop", "")
    via = request.headers.get("via", "")
    hop = f"{request.http_version} {edge_name} (StreamEdge)"  # as it was received (RFC 9110 §7.6.3)
    fields += (
        ("x-forwarded-for", forwarded_for(request.fields, request.address)),
        ("via", f"{via}, {hop}" if via else hop),
        ("cdn-loop", f"{loop}, {loop_id(edge_name)}" if loop else loop_id(edge_name)),
    )
    query = forwarded_query(behavior.cache, behavior.origin_request, route.query)
    return OriginRequest(request.method, route.name, query, tuple(fields), path=route.path)


def forwarded_read_parameters(route: Route) -> dict[str, str]:
    """The query parameters of GetObject that the policies forward to a bucket."""
    behavior = route.rule.behavior
    query = forwarded_query(behavior.cache, behavior.origin_request, route.query)
    return read_parameters(query) if query else {}


def forwarded_trailers(route: Route, request: WebRequest, trailers: Fields) -> Fields:
    """The trailer fields that the origin gets: those that the policies name."""
    behavior = route.rule.behavior
    return forwarded_fields(
        behavior.cache,
        behavior.origin_request,
        request.method,
        forwardable_trailers(trailers, request.fields),
    )


def wants_upgrade(route: Route, request: WebRequest) -> bool:
    """Whether the viewer requests WebSocket and the origin is a site (RFC 6455 §4.1)."""
    return (
        route.rule.binding.is_site
        and request.method == "GET"
        and request.headers.get("upgrade", "").lower() == "websocket"
        and "upgrade" in connection_options(request.fields)
    )


def is_looping(request: WebRequest, edge_name: str) -> bool:
    """Whether the request has been through this edge before (RFC 8586 §2)."""
    hops = request.headers.get("cdn-loop")
    if hops is None:
        return False
    own = loop_id(edge_name)
    return any(hop.split(";")[0].strip() == own for hop in hops.split(","))


def loop_id(edge_name: str) -> str:
    """The edge's identifier in CDN-Loop."""
    return f"streamedge-{edge_name}"
