"""Small requests over TLS beside nginx: hits, and a full handshake for each request."""

from __future__ import annotations

from bench.http.requests import Kind, compare
from bench.options import Options
from bench.report import Figure
from bench.servers.site import PAGE, PAGE_BYTES

KINDS = [
    Kind("1 KB, keep-alive", f"/{PAGE}", 0.9, body_bytes=PAGE_BYTES, secure=True),
    Kind(
        "1 KB, a new TLS connection for each request",
        f"/{PAGE}",
        0.6,
        body_bytes=PAGE_BYTES,
        secure=True,
        reconnects=True,
    ),
]


def requests(options: Options) -> list[Figure]:
    """Rates and CPU time per request, and their ratios to nginx's."""
    return compare(KINDS, options)
