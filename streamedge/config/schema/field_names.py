"""Header fields that policies must not select, because the edge sets them itself.

The config's checks and the forwarding of requests share these lists. Names are in lower case.
"""

from __future__ import annotations

import re

from streamedge.http_fields import HOP_BY_HOP
from streamedge.memo import cache_short_texts

CONDITION_FIELDS = frozenset(
    {"if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"}
)
# Routing, loop detection, framing, ranges and content codings. Cookies have their own key in
# policies.
EDGE_OWNED = HOP_BY_HOP | {
    *("host", "via", "cdn-loop", "x-forwarded-for", "content-length", "expect", "max-forwards"),
    *("range", "request-range", "accept-encoding", "cookie"),
    # Between edges (``origin.peer.protocol``).
    *("streamedge-as-of", "streamedge-failure", "streamedge-peer", "streamedge-refused"),
    *("streamedge-request", "streamedge-stale"),
}
# Frameworks use these in place of the request's host, path or method: a viewer that sends one would
# choose the cached response of other viewers. They are forwarded if named, never with "all".
OVERRIDE_FIELDS = frozenset(
    {
        *("forwarded", "x-forwarded", "x-forwarded-by", "x-forwarded-client-cert"),
        *("x-forwarded-host", "x-forwarded-method", "x-forwarded-path", "x-forwarded-port"),
        *("x-forwarded-prefix", "x-forwarded-proto", "x-forwarded-protocol", "x-forwarded-query"),
        *("x-forwarded-scheme", "x-forwarded-server", "x-forwarded-ssl", "x-forwarded-uri"),
        *("x-host", "x-http-destinationurl", "x-http-host-override", "x-http-method"),
        *("x-http-method-override", "x-method-override", "x-original-forwarded-for"),
        *("x-original-host", "x-original-method", "x-original-path", "x-original-remote-addr"),
        *("x-original-uri", "x-original-url", "x-proxy-url", "x-rewrite-url", "x-script-name"),
        *("x-url-scheme", "front-end-https", "proxy", "script-name"),
        "cloudfront-forwarded-proto",
        # Who the client is.
        *("cf-connecting-ip", "cf-connecting-ipv6", "client-ip", "fastly-client-ip"),
        *("remote-addr", "remote-user", "true-client-ip", "x-azure-clientip", "x-client-ip"),
        *("x-cluster-client-ip", "x-envoy-external-address", "x-real-ip", "x-remote-addr"),
        *("x-remote-ip", "x-remote-user"),
        # Fields of frameworks and proxies.
        *("next-router-prefetch", "next-router-state-tree", "next-url", "rsc"),
        *("x-envoy-original-host", "x-envoy-original-method", "x-envoy-original-path"),
        *("x-invoke-output", "x-invoke-path", "x-invoke-query", "x-invoke-status"),
        *("x-matched-path", "x-middleware-prefetch", "x-middleware-subrequest", "x-nextjs-data"),
        *("x-now-route-matches", "x-prerender-revalidate"),
    }
)
# Where a policy names them, the edge sets them to "http" or "https", the scheme of the viewer.
SCHEME_FIELDS = frozenset({"x-forwarded-proto", "cloudfront-forwarded-proto"})
_PLAIN = re.compile("[a-z0-9-]+")


def is_override(name: str) -> bool:
    """Whether a field (its name in lower case) would override what a framework knows of a request.

    Applications behind CloudFront trust all that begin with "CloudFront-".
    """
    return name in OVERRIDE_FIELDS or name.startswith("cloudfront-")


def is_plain_name(name: str) -> bool:
    """Whether all servers read a field name (in lower case) in the same way.

    CGI, WSGI and Rack read "X_Forwarded_Host" as "X-Forwarded-Host", and some replace a dot too.
    Such a field is forwarded if a policy names it, never with "all".
    """
    return _PLAIN.fullmatch(name) is not None


@cache_short_texts(1024, 128)
def dashed_name(name: str) -> str:
    """The field name as read by servers that replace all other characters with a dash."""
    return re.sub("[^a-z0-9]", "-", name.lower())


# Framing, target and coding of a message: forged values would break it.
FRAMING_FIELDS = HOP_BY_HOP | {
    *("host", "via", "cdn-loop", "content-length", "content-range", "content-encoding", "expect"),
    *("range", "if-range", "accept-encoding", "date", "age"),
}
