"""Requests over HTTP/1.1 that are no plain hits, beside nginx: misses, conditions, ranges, …"""

from __future__ import annotations

from bench.http.requests import Kind, compare
from bench.options import Options
from bench.report import Figure
from bench.servers.site import ARCHIVE, PAGE, PAGE_BYTES, PHOTO, STYLE

MISSES = [
    Kind(
        "1 KB, every request another key",
        f"/copies/{PAGE}/",
        0.5,
        body_bytes=PAGE_BYTES,
        own_keys=True,
    )
]
CONNECTIONS = [
    Kind(
        "1 KB, a new connection for each request",
        f"/{PAGE}",
        0.5,
        body_bytes=PAGE_BYTES,
        reconnects=True,
    )
]
CONDITIONS = [
    Kind("304 for If-None-Match", f"/{PHOTO}", 0.6, etag_field="If-None-Match", status=304),
    Kind("304 for If-Modified-Since", f"/{PHOTO}", 0.4, date_field="If-Modified-Since", status=304),
    Kind(
        "206 of 1 KB for If-Range",
        f"/{PHOTO}",
        0.4,
        fields={"Range": "bytes=4096-5119"},
        etag_field="If-Range",
        status=206,
        body_bytes=1024,
    ),
]
RANGES = [
    Kind(
        "the last 1,000 bytes of 8 MB",
        f"/{ARCHIVE}",
        0.4,
        fields={"Range": "bytes=-1000"},
        status=206,
        body_bytes=1000,
    ),
    Kind(
        "three ranges of 256 KB",
        f"/{PHOTO}",
        0.4,
        fields={"Range": "bytes=0-499, 100000-100499, 200000-200499"},
        status=206,
        expected_fields={"content-type": "multipart/byteranges"},
    ),
]
RESPONSES = [
    Kind("HEAD", f"/{PAGE}", 0.4, method="HEAD", body_bytes=0),
    Kind("cached 404", f"/gone/{PAGE}", 0.5, status=404, body_bytes=len("gone")),
    Kind(
        "a compressed form",
        f"/{STYLE}",
        0.4,
        fields={"Accept-Encoding": "gzip"},
        expected_fields={"content-encoding": "gzip"},
    ),
    Kind(
        "a redirect to HTTPS",
        "/secure/page",
        0.4,
        status=301,
        expected_fields={"location": "https://"},
    ),
    Kind("an error page", "/private/page", 0.4, status=403, body_bytes=PAGE_BYTES),
]
DYNAMIC = [Kind("1 KB, private, passed through", "/dynamic/page", 0.7, body_bytes=PAGE_BYTES)]


def misses(options: Options) -> list[Figure]:
    """Objects of 1 KB that are not in the cache yet."""
    return compare(MISSES, options)


def connections(options: Options) -> list[Figure]:
    """A hit over a new connection."""
    return compare(CONNECTIONS, options)


def conditions(options: Options) -> list[Figure]:
    """304, and a range of the version that the viewer has."""
    return compare(CONDITIONS, options)


def ranges(options: Options) -> list[Figure]:
    """Ranges from the end, and several in one request."""
    return compare(RANGES, options)


def responses(options: Options) -> list[Figure]:
    """HEAD, a cached error, a compressed form, a redirect, an error page."""
    return compare(RESPONSES, options)


def dynamic(options: Options) -> list[Figure]:
    """Responses that no cache may keep."""
    return compare(DYNAMIC, options)
