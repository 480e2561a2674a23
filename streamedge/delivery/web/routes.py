"""From a request to the rules that hold for it: distribution, behavior, origin, name and key.

Pure. Owns what a URL means here and what the cache and the origin are asked; nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from streamedge.cache.asking import Ask
from streamedge.cache.asset import Asset, Subject
from streamedge.cache.freshness import TtlRules
from streamedge.config.selection import NONE
from streamedge.control.invalidations import target_of
from streamedge.delivery.distributions import HostTable, OriginBinding
from streamedge.delivery.names import object_name
from streamedge.delivery.web.behaviors import (
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
from streamedge.delivery.web.gate import without_signature
from streamedge.delivery.web.requests import WebRequest, connection_options
from streamedge.delivery.web.trailers import passed_trailers
from streamedge.keys import join_key
from streamedge.origin import Fields, OriginRequest
from streamedge.origin.objects import RequestedObject
from streamedge.spans import Span

_SLASHES = re.compile("/+")


@dataclass(frozen=True, slots=True)
class Rule:
    """A behavior, bound to its origin. ``rules`` are its cache policy's times."""

    behavior: Behavior
    binding: OriginBinding
    rules: TtlRules


@dataclass(frozen=True, slots=True)
class WebDistribution:
    """A web distribution. The last of ``rules`` is its default, with the pattern "*"."""

    id: str
    aliases: tuple[str, ...]
    rules: tuple[Rule, ...]
    root_object: str = ""
    error_pages: Mapping[int, ErrorPage] = field(default_factory=dict)
    cache_tag_header: str = ""  # in lower case

    def rule(self, path: str) -> Rule:
        """What holds for a path, decoded once and without query."""
        if len(self.rules) == 1:
            return self.rules[0]
        behaviors = [rule.behavior for rule in self.rules]
        return self.rules[behaviors.index(choose_behavior(behaviors, path))]


class Route(NamedTuple):
    """What a host, path and query mean; ``query`` is without a signature that counts here."""

    distribution: WebDistribution
    rule: Rule
    name: str
    query: str


class Unroutable(NamedTuple):
    """Why a request means nothing here."""

    status: int
    reason: str
    distribution: str | None = None


def route(
    distributions: HostTable[WebDistribution], host: str, path: bytes, query: str
) -> Route | Unroutable:
    """What a request's host, path and query mean."""
    if not host:
        return Unroutable(400, "one Host header, please")
    found = distributions.find(host)
    if not found:
        return Unroutable(421, "no distribution has this host name")
    return route_in(found[0], path, query)


def route_in(distribution: WebDistribution, path: bytes, query: str) -> Route | Unroutable:
    """What a path and query mean in a distribution."""
    name = distribution.root_object if path == b"/" else object_name(path)
    if name is None:
        return Unroutable(400, "the path is not an object's name", distribution.id)
    found = route_to(distribution, name, query)
    # Origins that take slashes in a row for one would serve an object by another's rules.
    plain = _SLASHES.sub("/", name).removeprefix("/")
    if plain != name and distribution.rule(plain) is not found.rule:
        return Unroutable(400, "the path has empty segments", distribution.id)
    return found


def route_to(distribution: WebDistribution, name: str, query: str) -> Route:
    """The route to an object of a distribution."""
    rule = distribution.rule(name)
    return Route(distribution, rule, name, without_signature(rule.behavior.access, query))


def ask(
    found: Route,
    request: WebRequest,
    want: Span,
    edge_name: str,
    interim: Callable[[int, Fields], None] | None,
) -> Ask:
    """What the cache is asked for a GET or HEAD."""
    rule = found.rule
    policy = rule.behavior.cache
    asked = origin_request(found, request, edge_name)
    key = asset_key(found, policy, request)
    primary = key
    if policy.headers or policy.cookies != NONE:
        primary = asset_key(found, replace(policy, headers=(), cookies=NONE), request)
    binding = rule.binding
    if not binding.is_site:
        primary = join_key(binding.identity, found.name)  # one object, whatever the query says
    origin = binding.origin
    if binding.is_site:
        origin = RequestedObject(binding.name, binding.upstream, replace(asked, method="GET"))
    above = () if primary == key else (primary,)
    asset = Asset(
        key, found.name, origin, binding.name, rule.rules, above, *invalidation_subject(found)
    )
    heeds = policy.viewer_directives or policy.strict
    # What the origin sees is what a variant is selected by; the rest only the edge reads.
    return Ask(
        asset,
        binding.upstream,
        replace(asked, interim=interim),
        as_selected_by(request.headers),
        want,
        heeds_viewer=heeds,
        is_object=not binding.is_site,
    )


def as_selected_by(headers: Mapping[str, str]) -> Mapping[str, str]:
    """A request's fields as the origin may choose an answer by them: it is asked for identity."""
    return {**headers, "accept-encoding": "identity"} if "accept-encoding" in headers else headers


def asset_key(found: Route, policy: CachePolicy, request: WebRequest) -> str:
    """What tells the response to a request apart from all others of the edge."""
    parts = key_parts(policy, found.name, found.query, request.fields)
    return join_key(found.rule.binding.identity, *parts)


def invalidation_subject(found: Route) -> Subject:
    """What invalidations are matched against."""
    distribution = found.distribution
    target = target_of(found.name, keyed_query(found.rule.behavior.cache, found.query))
    return Subject(distribution.id, target, distribution.cache_tag_header)


def target_parts(found: Route, target: str) -> tuple[str, ...]:
    """What follows the identity in the key by URL of another target (path and query) of the same
    host, for invalidation."""
    path, _, query = target.partition("?")
    policy = replace(found.rule.behavior.cache, headers=(), cookies=NONE)
    return key_parts(policy, object_name(path) or "", query, ())


def origin_request(found: Route, request: WebRequest, edge_name: str) -> OriginRequest:
    """What the origin is asked: the request without what is not its business."""
    behavior, binding = found.rule.behavior, found.rule.binding
    if not binding.is_site:
        return OriginRequest(request.method, found.name)
    fields = forwarded_fields(
        behavior.cache, behavior.origin_request, request.method, request.fields
    )
    if request.method not in SAFE_METHODS and "content-length" in request.headers:
        fields.append(("content-length", request.headers["content-length"]))
    if wants_upgrade(found, request):
        fields += (("connection", "upgrade"), ("upgrade", "websocket"))
        spoken = {name.lower() for name, _value in fields}
        fields += [
            (name, value)
            for name, value in request.fields
            if name.startswith("sec-websocket-") and name not in spoken
        ]
    if binding.sends_viewer_host:
        fields.append(("host", request.host))
    loop = request.headers.get("cdn-loop", "")
    via = request.headers.get("via", "")
    fields += (
        ("x-forwarded-for", forwarded_for(request.fields, request.address)),
        ("via", f"{via}, {_hop(edge_name)}" if via else _hop(edge_name)),
        ("cdn-loop", f"{loop}, {loop_id(edge_name)}" if loop else loop_id(edge_name)),
    )
    query = forwarded_query(behavior.cache, behavior.origin_request, found.query)
    return OriginRequest(request.method, found.name, query, tuple(fields))


def forwarded_trailers(found: Route, request: WebRequest, trailers: Fields) -> Fields:
    """What the origin gets behind the body: as with header fields, what the policies name."""
    behavior = found.rule.behavior
    return forwarded_fields(
        behavior.cache,
        behavior.origin_request,
        request.method,
        passed_trailers(trailers, request.fields),
    )


def wants_upgrade(found: Route, request: WebRequest) -> bool:
    """Whether the viewer asks for WebSocket, and the origin may be asked (RFC 6455 §4.1)."""
    return (
        found.rule.binding.is_site
        and request.method == "GET"
        and request.headers.get("upgrade", "").lower() == "websocket"
        and "upgrade" in connection_options(request.fields)
    )


def is_looping(request: WebRequest, edge_name: str) -> bool:
    """Whether the request has been through this edge before (RFC 8586 §2)."""
    own = loop_id(edge_name)
    hops = request.headers.get("cdn-loop", "").split(",")
    return any(hop.split(";")[0].strip() == own for hop in hops)


def loop_id(edge_name: str) -> str:
    """This edge in CDN-Loop."""
    return f"streamedge-{edge_name}"


def _hop(edge_name: str) -> str:
    return f"1.1 {edge_name} (StreamEdge)"
