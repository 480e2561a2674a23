"""Whether a request is served, and by which rules: the one decision for every way of answering.

Owns the order of the questions: is it well formed, whose host is it, which behavior has its path,
may it come by this scheme, may this viewer have it, is its method served. The fast path asks here
once, and remembers the outcome with the request's bytes; so what is refused cold is refused warm.
Nothing is sent here.
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
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.http.request.routing import (
    Route,
    RouteError,
    WebDistribution,
    is_looping,
    route,
)
from streamedge.delivery.http.s3_calls import named_request


class Dispatched(NamedTuple):
    """A request that goes on, and what its viewer was granted."""

    route: Route
    grant: Grant


class Refused(NamedTuple):
    """A request that does not go on. ``reason`` is for its viewer, ``logged`` for the log where
    that says more; ``route`` is known where it was found. ``code``: the error's code for clients of
    S3, "": the status says it."""

    status: int
    reason: str
    distribution: str | None
    route: Route | None = None
    fields: tuple[Field, ...] = ()
    logged: str = ""
    code: str = ""


class Dispatcher:
    """A worker's, for the distributions that are in force."""

    def __init__(
        self,
        edge_name: str,
        distributions: HostTable[WebDistribution],
        authorizer: Authorizer,
        url_bytes_max: int,
    ) -> None:
        self._edge_name = edge_name
        self._distributions = distributions
        self._gate = authorizer
        self._url_bytes_max = url_bytes_max

    def dispatch(self, request: WebRequest) -> Dispatched | Refused:
        """Where a request goes, or why nowhere."""
        if len(request.path) + len(request.query) > self._url_bytes_max:
            return Refused(414, "the URL is longer than limits.url", None)
        found = route(
            self._distributions, request.host, request.path, request.query, request.headers
        )
        if isinstance(found, RouteError):
            return Refused(found.status, found.reason, found.distribution, code=found.code)
        distribution, behavior = found.distribution.id, found.rule.behavior

        def refused(status: int, reason: str, *fields: Field, logged: str = "") -> Refused:
            return Refused(status, reason, distribution, found, fields, logged)

        if request.misdirected:
            return refused(421, "the connection is not for this host")
        if is_looping(request, self._edge_name):
            return refused(508, "the request has been here before")
        if not request.secure and behavior.viewer_protocol is ViewerProtocol.HTTPS_ONLY:
            return refused(403, "this is served over HTTPS alone")
        if not request.secure and behavior.viewer_protocol is ViewerProtocol.REDIRECT_TO_HTTPS:
            location = ("location", _secure_url(request))
            return refused(301, "this is served over HTTPS", location)
        rules = behavior.access
        if rules.keys is not None and cors_kind(request.method, request.fields) is Cors.PREFLIGHT:
            # A browser sends it without cookies, and asks for no content; as with CloudFront, only
            # what it asks leave for is signed.
            rules = replace(rules, keys=None)
        granted = self._gate.admit(rules, named_request(found, request), time.time())
        if isinstance(granted, Denied):
            # Why is for the log alone: it would tell a forger what to mend.
            return refused(403, "this is not for you", logged=granted.reason)
        if request.method not in behavior.methods:
            allowed = ", ".join(sorted(behavior.methods))
            return refused(405, f"this is served by {allowed}", ("allow", allowed))
        if request.method in {"GET", "HEAD"} and request.has_body:
            return refused(403, "a GET has no body here")
        return Dispatched(found, granted)


def _secure_url(request: WebRequest) -> str:
    query = f"?{request.query}" if request.query else ""
    host = request.host.partition(":")[0] if request.host.count(":") == 1 else request.host
    return f"https://{host}{request.path.decode('latin-1')}{query}"
