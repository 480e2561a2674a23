"""Maps a request to its distribution, behavior, origin and object name.

Pure: nothing is fetched here. ``origin_request`` and ``cache_request`` build the requests of a
route.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple

from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.delivery.hosts import HostTable, OriginBinding, host_name
from streamedge.delivery.http.policy.behaviors import Behavior, ErrorPage, choose_behavior
from streamedge.delivery.http.request.authorization import without_signature
from streamedge.delivery.http.request.request import WebRequest
from streamedge.delivery.object_names import is_object_name, object_name, path_name
from streamedge.origin.names import site_path
from streamedge.origin.s3.protocol import is_s3_request, without_s3_signature

NO_HEADERS: Mapping[str, str] = {}
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
        if page is None or not page.path or self.is_s3 or status == HTTPStatus.MISDIRECTED_REQUEST:
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
    rules = []
    for rule in distribution.rules:
        if rule.behavior.may_match_below(prefix):
            rules.append(rule)
        if rule.behavior.matches_all_below(prefix):
            break  # no object is left for the rules after it
    return rules


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
    if route.name.startswith("/") or "//" in route.name:
        plain = _SLASHES.sub("/", route.name).removeprefix("/")
        if distribution.rule(plain) is not route.rule:
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
