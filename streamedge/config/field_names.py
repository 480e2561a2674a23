"""Header fields that no policy may hand out, because the edge says them itself.

Owns the lists, which the config's checks and the forwarding of requests share; all names are in
lower case. Pure.
"""

from __future__ import annotations

# RFC 9110, section 7.6.1, and what has been treated alike: they mean one connection.
HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings"),
    }
)
CONDITIONS = frozenset(
    {"if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"}
)
# Routing, loops, framing, what the edge lacks and what it can decode. Cookies have a key of their
# own in policies.
EDGE_OWNED = HOP_BY_HOP | {
    *("host", "via", "cdn-loop", "x-forwarded-for", "content-length", "expect", "max-forwards"),
    *("range", "request-range", "accept-encoding", "cookie"),
}
# Frameworks take these for the request's own host, path or method: a viewer who sends one would
# choose what others get from the cache. They pass by name, never with "all".
OVERRIDES = frozenset(
    {
        *("forwarded", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix"),
        *("x-forwarded-path", "x-forwarded-proto", "x-forwarded-protocol", "x-forwarded-scheme"),
        *("x-forwarded-server", "x-forwarded-ssl", "x-forwarded-uri", "x-original-forwarded-for"),
        *("x-host", "x-original-host", "x-original-uri", "x-original-url", "x-rewrite-url"),
        *("x-http-destinationurl", "x-http-host-override", "x-http-method"),
        *("x-http-method-override", "x-method-override", "x-proxy-url", "x-real-ip"),
        *("x-url-scheme", "front-end-https", "proxy"),
    }
)
# Where a message ends, whom it is for and what its bytes are: forged, they break it.
FRAMING = HOP_BY_HOP | {
    *("host", "via", "cdn-loop", "content-length", "content-range", "content-encoding", "expect"),
    *("range", "if-range", "accept-encoding", "date", "age"),
}
