"""The request to an origin for a viewer's request: what the policies of its behavior forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streamedge.delivery.http.policy.behaviors import (
    SAFE_METHODS,
    forwarded_fields,
    forwarded_for,
    forwarded_query,
    with_scheme,
)
from streamedge.delivery.http.policy.response_headers import Field
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.request.routing import Route
from streamedge.delivery.http.request.trailers import forwardable_trailers
from streamedge.http_fields import connection_options
from streamedge.origin import Fields, OriginRequest
from streamedge.origin.answers import fold_fields
from streamedge.origin.s3.protocol import (
    encoded_query,
    read_parameters,
)

# The request fields that a bucket's response depends on (Amazon S3 User Guide, "Using CORS").
_BUCKET_FIELDS = frozenset(
    {"origin", "access-control-request-headers", "access-control-request-method"}
)


def selecting_fields(route: Route, request: WebRequest, edge_name: str) -> Mapping[str, str]:
    """The fields by which Vary selects: exactly those that the origin gets.

    Other fields cannot have changed the origin's response (RFC 9111 §4.1).
    """
    return fold_fields(build_origin_request(route, request, edge_name).fields)


def policy_fields(route: Route, request: WebRequest) -> Sequence[Field]:
    """The viewer's fields that policies select from."""
    behavior = route.rule.behavior
    return with_scheme(
        behavior.cache, behavior.origin_request, request.fields, secure=request.secure
    )


def build_origin_request(route: Route, request: WebRequest, edge_name: str) -> OriginRequest:
    """The request to the origin: method, name, and the parts that the policies forward."""
    behavior, binding = route.rule.behavior, route.rule.binding
    if not binding.is_site and not binding.bucket:
        return OriginRequest(request.method, route.name)
    fields = forwarded_fields(
        behavior.cache, behavior.origin_request, request.method, policy_fields(route, request)
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
