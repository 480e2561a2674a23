"""Decides whether a request is served, and by which rules.

The checks come in this order: URL length, the path of the traffic check, whether the edge refuses
viewers, host, behavior of the path, connection's host and HTTP version, loop, scheme, access,
method, body. The handler calls it for each request. The fast path
calls it once and remembers the outcome with the request's bytes, so a request that is refused on a
miss is also refused on a hit.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

from streamedge.access.admission import Denied, Grant
from streamedge.delivery.hosts import HostTable
from streamedge.delivery.http.policy.behaviors import ViewerProtocol
from streamedge.delivery.http.policy.response_headers import Cors, Field, cors_kind
from streamedge.delivery.http.request.authorization import Authorizer
from streamedge.delivery.http.request.cache_request import PreparedLookup
from streamedge.delivery.http.request.origin_request import is_looping
from streamedge.delivery.http.request.request import WebRequest, with_alias_host
from streamedge.delivery.http.request.routing import Route, RouteError, WebDistribution, find_route
from streamedge.delivery.http.s3_calls import named_request
from streamedge.delivery.nearest import NearestEdges
from streamedge.delivery.traffic import CHECK_PATH, WELCOME, Traffic
from streamedge.fleet.nearest import split_edge_label


class Dispatched(NamedTuple):
    """The route of an accepted request, the grant of its viewer, and what equal requests share."""

    route: Route
    grant: Grant
    lookup: PreparedLookup


class Refused(NamedTuple):
    """A refused request. ``reason`` goes to the viewer, ``logged`` to the log where it says more.

    ``route`` is None where the refusal comes before routing. ``code``: the error code for S3
    clients; "" means the code of the status. ``is_personal``: it depends on the viewer, on the
    connection or on the time, so an equal request may be accepted.
    """

    status: int
    reason: str
    distribution: str | None
    route: Route | None = None
    fields: tuple[Field, ...] = ()
    logged: str = ""
    code: str = ""
    is_personal: bool = False


class TrafficCheck(NamedTuple):
    """A request for the path of the traffic check. ``reason``: why viewers should not come here."""

    reason: str


Outcome = Dispatched | Refused | TrafficCheck
"""How a request is dispatched."""


class Dispatcher:
    """Dispatches a worker's requests by the current distributions and the edge's ``traffic``."""

    def __init__(
        self,
        edge_name: str,
        distributions: HostTable[WebDistribution],
        authorizer: Authorizer,
        url_bytes_max: int,
        traffic: Traffic = WELCOME,
        nearest: NearestEdges | None = None,
    ) -> None:
        self._edge_name = edge_name
        self._distributions = distributions
        self._authorizer = authorizer
        self._url_bytes_max = url_bytes_max
        self.traffic = traffic
        self._nearest = nearest  # None in a fleet of one

    def without_edge_name(self, request: WebRequest) -> WebRequest:
        """The request with an alias as its host, where it came to an edge's name below the alias.

        Only distributions with ``nearest`` have such names.
        """
        if self._nearest is None or not request.host:
            return request
        label, host = split_edge_label(request.host, self._nearest.names)
        if not label or self._distributions.has_exact(request.host):
            return request
        matches = self._distributions.find(host)
        if not matches or matches[0].nearest_from_bytes is None:
            return request
        return with_alias_host(request, label, host)

    def dispatch(self, request: WebRequest) -> Outcome:
        """The route and grant of a request, or why the edge answers it by itself."""
        answered = self._answered_before_routing(request)
        if answered is not None:
            return answered
        route = find_route(
            self._distributions, request.host, request.path, request.query, request.headers
        )
        if isinstance(route, RouteError):
            return Refused(route.status, route.reason, route.distribution, code=route.code)
        distribution, behavior = route.distribution.id, route.rule.behavior

        def refused(status: int, reason: str, *fields: Field, logged: str = "") -> Refused:
            return Refused(status, reason, distribution, route, fields, logged)

        if request.misdirected:
            misdirected = refused(421, "this connection is for another host: open a new one")
            return misdirected._replace(is_personal=True)
        if request.http_version == "2" and not route.distribution.http2 and not request.from_proxy:
            # The viewer has reused a connection that was made for another host (RFC 9113 §9.1.1).
            return refused(421, "this host has no HTTP/2: open a new connection")
        if is_looping(request, self._edge_name):
            return refused(
                508,
                "loop: CDN-Loop shows that this edge has handled the request before; "
                "check the origin's address",
            )
        if not request.secure and behavior.viewer_protocol is ViewerProtocol.HTTPS_ONLY:
            return refused(403, "use HTTPS for this URL")
        if not request.secure and behavior.viewer_protocol is ViewerProtocol.REDIRECT_TO_HTTPS:
            location = ("location", _secure_url(request))
            return refused(301, "use HTTPS for this URL", location)
        rules = behavior.access
        if rules.keys is not None and cors_kind(request.method, request.fields) is Cors.PREFLIGHT:
            # A browser sends a preflight without cookies, and it returns no content. As with
            # CloudFront, only the request that follows it needs a signature.
            rules = replace(rules, keys=None)
        grant = self._authorizer.admit(rules, named_request(route, request), time.time())
        if isinstance(grant, Denied):
            # The exact cause goes to the log only: it would help a forger.
            denied = refused(
                403,
                "access denied: no valid signature, or a blocked country",
                logged=grant.reason,
            )
            return denied._replace(is_personal=True)
        if request.method not in behavior.methods:
            allowed = ", ".join(sorted(behavior.methods))
            return refused(405, f"method not allowed: use {allowed}", ("allow", allowed))
        if request.method in {"GET", "HEAD"} and request.has_body:
            return refused(403, "a GET or HEAD request must have no body")
        return Dispatched(route, grant, PreparedLookup(route))

    def _answered_before_routing(self, request: WebRequest) -> Refused | TrafficCheck | None:
        if len(request.path) + len(request.query) > self._url_bytes_max:
            return Refused(414, "the URL is longer than limits.url", None)
        if request.path == CHECK_PATH:
            return TrafficCheck(self.traffic.avoid_reason)
        if self.traffic.refusal:
            return Refused(503, self.traffic.refusal, None, is_personal=True)
        return None


def _secure_url(request: WebRequest) -> str:
    query = f"?{request.query}" if request.query else ""
    host = request.sent_host
    host = host.partition(":")[0] if host.count(":") == 1 else host
    return f"https://{host}{request.path.decode('latin-1')}{query}"
