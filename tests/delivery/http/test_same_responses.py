"""A request gets the same response whichever way it goes, error responses included.

The ways are: validated each time, after an invalidation, cached, remembered by the fast path,
pipelined behind itself, and in two packets; over plain HTTP/1.1, HTTP/1.1 over TLS, and HTTP/2. A
request that HTTP/2 does not allow may be a stream error there.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streamedge.cache.storage.store import prepare_folder
from streamedge.delivery.http.request.request import HEAD_BYTES_MAX, HEAD_MEMBERS_MAX
from streamedge.process.certificates import CertificateFiles, Certificates
from streamedge.spans import Span
from tests.support.certificate_authority import CertificateAuthority
from tests.support.http.http2_viewer import (
    Head,
    Http2Viewer,
    StreamResetError,
    head,
    open_http2_viewer,
)
from tests.support.http.http_viewer import Response, open_viewer
from tests.support.http.signers import custom_policy, rsa_signer
from tests.support.http.web_edge import WebEdge, serve_web
from tests.support.origins.scripted_origin import Pattern

FILM = Pattern(3000, seed=3).read(Span(0, 3000))
TEXT = b"All work and no play makes Jack a dull boy. " * 60
MODIFIED = "Tue, 14 Nov 2023 22:13:20 GMT"  # the scripted origin's default
SIGNER = rsa_signer("K1")
UNTIL_S = 4_102_444_800
# The fields that may differ: the source of the response, its time and id, the origins' own.
NOT_COMPARED = frozenset({"age", "cache-control", "cache-status", "date", "x-amz-cf-id", "x-cache"})


def distribution(id_: str, alias: str, **more: Any) -> dict[str, Any]:
    return {"id": id_, "type": "web", "origin": "main", "aliases": [alias], **more}


SIGNED = {"trusted_key_groups": ["viewers"]}
TABLES: dict[str, Any] = {
    "public_keys": {"K1": {"pem": SIGNER.public_pem.decode()}},
    "key_groups": {"viewers": {"keys": ["K1"]}},
    "cache_policies": {
        "queries": {"query_strings": "all"},
        "languages": {"cookies": {"only": ["a"]}, "headers": ["x-own"]},
    },
    "origin_request_policies": {"languages": {"headers": ["accept-language"]}},
    "response_headers_policies": {
        "shared": {
            "cors": {"origins": ["https://page.example"]},
            "hsts": "max-age=60",
            "remove": ["x-origin"],
        }
    },
    "distributions": [
        distribution("EANY", "*", **SIGNED),
        distribution("EBELOW", "*.example.net", **SIGNED),
        distribution(
            "EOPEN",
            "open.example.org",
            cache_policy="queries",
            methods=["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"],
            behaviors=[
                {"path": "secret*", **SIGNED},
                {"path": "safe/*", "viewer_protocol": "https-only"},
                {"path": "moved/*", "viewer_protocol": "redirect-to-https"},
            ],
        ),
        distribution(
            "EPAGES",
            "pages.example.org",
            cache_policy="languages",
            origin_request_policy="languages",
            response_headers_policy="shared",
            compress=True,
            default_root_object="text",
            error_pages=[
                {"status": 404, "path": "/sorry", "response_status": 200},
                {"status": 403, "path": "/sorry"},
                {"status": 405, "path": "/none"},
            ],
            behaviors=[{"path": "secret*", **SIGNED}],
        ),
    ],
}
DISTRIBUTIONS = tuple(section["id"] for section in TABLES["distributions"])


def signed(resource: str, url: str) -> str:
    """The query of ``url`` signed with a custom policy for ``resource``."""
    policy = custom_policy(resource, UNTIL_S)
    return SIGNER.url(url, policy=policy).partition("?")[2]


def canned(url: str) -> str:
    return SIGNER.url(url, expires_s=UNTIL_S).partition("?")[2]


_GOOD_HOSTS = (
    *("edge.test", "a.example.net", "open.example.org", "OPEN.example.org:80"),
    *("pages.example.org", "pages.example.org"),
)
_BAD_HOSTS = (
    *("edge.test/free", "a.example.net/free/.example.net", "open.example.org:x", "", "a b"),
    *("open.example.org:80/../", "open.example.org:<b>", "u@open.example.org", "[::1].evil"),
    *("open.example.org\r\nHost: edge.test", "\xe9.example.net", "open.example.org."),
    *("127.0.0.1", "[::1]:80", "edge.test, edge.test", "a" * 300, "*.example.net"),
)
_PATHS = (
    *("/free/a", "/secret", "/safe/a", "/moved/a", "/a%20b", "/%66ree/a", "/none", "/", "*"),
    *("/free%2Fa", "//free/a", "/free/../secret", "/free/%2e%2e/secret", "/a%0Ab", "/a\\b"),
    *("http://open.example.org/free/a", "http://edge.test/secret", "ftp://edge.test/free/a"),
    *("/text", "/text", "/vary", "/there", "/broken", "/private", "/empty", "/trailing/", ""),
    *("/free/a;x.css", "/free/a%00", "/free/a%3f", "/free/\xe9", "/free/%E9", "/free/a%", "x"),
    *("http://open.example.org", "http://u@open.example.org/free/a", "//", "/./free/a"),
    "/" + "a" * 8200,
)
_QUERIES = (
    *("", "", "v=1", "v=1&v=2", "#f", "?", "v=%00", "v=%0d%0aX:1", "v=1;w=2"),
    *(canned(f"http://{host}/secret") for host in _GOOD_HOSTS[:3]),
    *(canned(f"https://{host}/secret") for host in _GOOD_HOSTS[:3]),
    *(signed(f"http://{host}/free/*", f"http://{host}/free/a") for host in _GOOD_HOSTS[:3]),
    signed("http://*", "http://edge.test/free/a"),
    signed("http*://*", "http://edge.test/free/a"),
    canned("http://edge.test/secret") + "x",
    canned("http://edge.test/secret") + "&Expires=1",
    SIGNER.url("http://edge.test/secret", expires_s=1).partition("?")[2],
)
_RANGES = (
    *("bytes=0-3", "bytes=5-", "bytes=-5", "bytes=9000-", "bytes=0-0", "bytes=-0", "bytes=-9000"),
    *("bytes=0-2999", "bytes=2999-", "bytes=3000-", "bytes=0-99999999999999999999", "bytes=007-9"),
    *("bytes=0-3,2000-2009", "bytes=2000-2009,0-3", "bytes=0-9,5-14", "bytes=0-,0-,0-"),
    *("bytes=-5,0-3", "bytes=9000-,0-3", "bytes=, 0-3 ,", "bytes = 0-3", "bytes=5-3", "bytes=a-b"),
    *("bytes=-", "bytes=", "bytes", "chars=1-2", "BYTES=0-3", "bytes=0-3;q=1", "bytes=+1-3"),
    "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 3000, 100)),
)
_ETAGS = ('"v1"', 'W/"v1"', '"v2"', "*", '"v0", "v1"', "v1", '"v1', "", ",", '"v1" "v2"')
_DATES = (
    *(MODIFIED, "Tue, 14 Nov 2023 22:13:19 GMT", "Wed, 15 Nov 2023 22:13:20 GMT", "yesterday"),
    *("Tuesday, 14-Nov-23 22:13:20 GMT", "Tue Nov 14 22:13:20 2023", "0", "Tue, 14 Nov 2023"),
)
_FIELDS = (
    *(f"Range: {value}" for value in _RANGES),
    *(f"{name}: {value}" for name in ("If-None-Match", "If-Match", "If-Range") for value in _ETAGS),
    *(
        f"{name}: {value}"
        for name in ("If-Modified-Since", "If-Unmodified-Since", "If-Range")
        for value in _DATES
    ),
    *("CDN-Loop: streamedge-test", "CDN-Loop: other", "TE: trailers", "TE: gzip;q=0"),
    *("Upgrade: h2c\r\nConnection: Upgrade", "Connection: close", "Connection: keep-alive"),
    *("Connection: Range", "Connection: X-Own, close", "Keep-Alive: 1", "Proxy-Connection: close"),
    *("Content-Length: 0", "Expect: 100-continue", "X-Amz-Date: 1", "Accept: a", "X-Own: 1"),
    *("Origin: https://page.example", "Origin: https://other.example", "Origin: null"),
    *("Origin: https://page.example\r\nAccess-Control-Request-Method: PUT",),
    *("X-Forwarded-For: 192.0.2.1", "User-Agent: \xe9", 'User-Agent: "\\\t', "Cookie: a=1"),
    *("Cookie: a=1; b=2", "Cookie: a=1\r\nCookie: b=2", "Authorization: Basic YTpi"),
    *(f"Accept-Encoding: {value}" for value in ("gzip", "br, gzip", "identity", "*;q=0", "zz,")),
    *("Accept-Language: de", "Accept-Language: en", "Accept-Language: de\r\nAccept-Language: en"),
    *("Cache-Control: no-cache", "Cache-Control: only-if-cached", "Pragma: no-cache"),
    *("X : 1", "X\x00: 1", ": 1", "X: a\r\n b", "X: a\x00b", "X:" + "b" * 21_000),
    *(
        "Transfer-Encoding: identity",
        "Content-Length: -1",
        "Content-Length: 0\r\nContent-Length: 0",
    ),
    "Cookie: " + SIGNER.cookies(policy=custom_policy("http*://*", UNTIL_S)),
    "Cookie: " + SIGNER.cookies(policy=custom_policy("http*://edge.test/*", UNTIL_S)),
    "Cookie: " + SIGNER.cookies(policy=custom_policy("http*://*", 1)),
)


class Case(NamedTuple):
    method: str
    host: str
    target: str
    fields: tuple[str, ...]
    version: str

    @property
    def raw(self) -> bytes:
        """The request in HTTP/1.1."""
        head = f"{self.method} {self.target} HTTP/{self.version}\r\nHost: {self.host}\r\n"
        lines = "".join(f"{field}\r\n" for field in self.fields)
        return f"{head}{lines}\r\n".encode("latin-1")

    @property
    def http2_fields(self) -> Head | None:
        """The request in HTTP/2; None if it is about what only HTTP/1.1 has."""
        fields = [line for field in self.fields for line in field.split("\r\n")]
        pairs = [(name.lower(), value.strip()) for name, _, value in map(_parted, fields)]
        if self.method in {"get", "FOO"}:  # httptools knows no other methods than its own
            return None
        if self.version != "1.1" or not re.fullmatch(r"[/*].*", self.target):
            return None
        if "\r\n" in self.host or any(name in _ONLY_HTTP1 or name == "te" for name, _ in pairs):
            return None
        return head(self.target, self.method, host=self.host) + [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs
        ]

    @property
    def is_malformed_in_http2(self) -> bool:
        """Whether HTTP/2 ends the stream of a request that HTTP/1.1 refuses (RFC 9113 §8.1.1)."""
        return self.target.startswith("*") or self.host in _BAD_HOSTS


_ONLY_HTTP1 = {"connection", "upgrade", "keep-alive", "proxy-connection", "transfer-encoding"}


def _parted(line: str) -> tuple[str, str, str]:
    return line.partition(":")


requests = st.builds(
    lambda method, host, path, query, fields, version: Case(
        method, host, f"{path}?{query}" if query else path, tuple(fields), version
    ),
    st.sampled_from(["GET"] * 6 + ["HEAD"] * 2 + ["OPTIONS", "DELETE", "TRACE", "get", "FOO"]),
    st.sampled_from(_GOOD_HOSTS * 4 + _BAD_HOSTS),
    st.sampled_from(_PATHS),
    st.sampled_from(_QUERIES),
    st.lists(st.sampled_from(_FIELDS), max_size=3, unique=True),
    st.sampled_from(["1.1"] * 12 + ["1.0", "1.2", "2.0"]),
)


PART_OF_PRIVATE = Case(
    "GET", "pages.example.org", "/private", ("Range: bytes=0-3", "If-None-Match: ,"), "1.1"
)
"""Requested first, before anything is known of the object: later requests bypass the cache."""


LONG_HEAD = Case("GET", "open.example.org", "/free/a", ("X:" + "b" * HEAD_BYTES_MAX,), "1.1")
LONG_LIST = LONG_HEAD._replace(fields=("Accept-Encoding:" + "," * HEAD_MEMBERS_MAX,))


Compared = tuple[int, dict[str, str], bytes]


def compared(response: Response) -> Compared:
    """The parts of a response that do not depend on its source."""
    fields = {name: value for name, value in response.fields.items() if name not in NOT_COMPARED}
    if response.status == 416:  # the origin's own for an object that was not cached yet
        return response.status, {}, b""
    fields |= {"set-cookie": "\n".join(response.cookies)}
    body = response.body
    boundary = re.search("boundary=(.*)", fields.get("content-type", ""))
    if boundary is not None:  # it is random
        fields["content-type"] = fields["content-type"].replace(boundary[1], "")
        body = body.replace(boundary[1].encode(), b"")
    return response.status, fields, body


RESET: Compared = (0, {}, b"")
"""A stream error in place of a response."""


async def received(viewer: Http2Viewer, stream: int) -> Compared:
    try:
        return compared(await viewer.receive(stream))
    except StreamResetError:
        return RESET


@dataclass(frozen=True, slots=True)
class Edges:
    """Two edges with one config, over the same kind of connection.

    The responses of one edge's origin are fresh; those of the other's are stale, so each request
    is validated there. ``client`` and ``http2_client``: the TLS contexts of viewers.
    """

    fresh: WebEdge
    stale: WebEdge
    client: ssl.SSLContext | None
    http2_client: ssl.SSLContext | None

    async def receive(self, edge: WebEdge, case: Case, *packets: bytes) -> list[Compared]:
        """The responses to a request that is sent once, or as often as ``packets`` have it."""
        packets = packets or (case.raw,)
        due = b"".join(packets).count(case.raw)
        responses: list[Compared] = []
        async with open_viewer(edge.port, tls=self.client, server_name="edge.test") as viewer:
            for packet in packets:
                await viewer.send(packet)
                await asyncio.sleep(0)
            while len(responses) < due:
                response = await viewer.receive(case.method)
                responses.append(compared(response))
                if response.fields.get("connection") == "close":
                    break
        return responses

    async def receive_http2(self, edge: WebEdge, fields: Head, times: int) -> list[Compared]:
        """The responses to a request that is sent ``times`` in a row, and then at once."""
        assert self.http2_client is not None
        responses = []
        async with open_http2_viewer(
            edge.port, self.http2_client, server_name="edge.test"
        ) as viewer:
            for _again in range(times):
                stream = await viewer.send_head(fields, ends=True)
                responses.append(await received(viewer, stream))
            streams = [viewer.new_stream() for _each in range(times)]
            await viewer.send(
                b"".join(
                    viewer.head_frames(stream, viewer.encode(fields), ends=True)
                    for stream in streams
                )
            )
            return responses + [await received(viewer, stream) for stream in streams]

    async def http2_ways(self, case: Case) -> list[tuple[str, Compared]]:
        """The responses over HTTP/2; none if the request cannot be sent over it."""
        fields = case.http2_fields
        if fields is None or self.http2_client is None:
            return []
        ways = [("validated", one) for one in await self.receive_http2(self.stale, fields, 1)]
        self.fresh.invalidate("/*", distributions=DISTRIBUTIONS)
        return ways + [("cached", one) for one in await self.receive_http2(self.fresh, fields, 3)]

    async def ways(self, case: Case) -> list[tuple[str, Compared]]:
        """The responses by all ways, with their names."""
        raw, half = case.raw, len(case.raw) // 2
        ways = [("validated", one) for one in await self.receive(self.stale, case)]
        self.fresh.invalidate("/*", distributions=DISTRIBUTIONS)
        for name in ("invalidated", "cached", "remembered"):
            ways += [(name, one) for one in await self.receive(self.fresh, case)]
        pipelined = await self.receive(self.fresh, case, raw * 3)
        ways += [("pipelined", one) for one in pipelined]
        one_by_one = await self.receive(self.fresh, case, raw, raw)
        ways += [("one by one", one) for one in one_by_one]
        split = await self.receive(self.fresh, case, raw[:half], raw[half:])
        ways += [("split", one) for one in split]
        return ways


def put_objects(edge: WebEdge, cache_control: str) -> None:
    cached = ("Cache-Control", cache_control)
    for name in ("free/a", "secret", "safe/a", "moved/a", "a b", "free/a;x.css", "sorry"):
        edge.origin.put(name, FILM, etag='"v1"', headers=(cached, ("X-Origin", "1")))
    edge.origin.put("text", TEXT, etag='"v1"', content_type="text/html", headers=(cached,))
    edge.origin.put("empty", b"", etag='"v1"', headers=(cached, ("Set-Cookie", "s=1")))
    edge.origin.put("vary", TEXT, etag="", headers=(cached, ("Vary", "Accept-Language, X-Own")))
    edge.origin.put("private", FILM, headers=(("Cache-Control", "private"),))
    edge.origin.put("there", b"there", status=302, headers=(cached, ("Location", "/free/a")))
    edge.origin.put("broken", b"broken", status=503, headers=(cached, ("Retry-After", "9")))


@asynccontextmanager
async def open_edges(root: Path) -> AsyncIterator[tuple[Edges, Edges]]:
    """Edges for plain connections and for TLS."""
    authority = CertificateAuthority(root)
    pairs = [
        authority.issue("edge.test", "*.example.net", "pages.example.org"),
        authority.issue("open.example.org"),
    ]
    files = [CertificateFiles(pair.certificate, pair.key) for pair in pairs]
    async with AsyncExitStack() as stack:
        edges = []
        for name, context in (("plain", None), ("secure", Certificates(files).front)):
            both = []
            for cache_control in ("max-age=600", "max-age=0"):
                folder = root / name / cache_control
                folder.mkdir(parents=True)
                prepare_folder(folder)
                edge = await stack.enter_async_context(
                    serve_web(folder, tables=TABLES, context=context)
                )
                put_objects(edge, cache_control)
                both.append(edge)
            clients = (authority.client(), authority.client()) if context else (None, None)
            edges.append(Edges(both[0], both[1], *clients))
        yield edges[0], edges[1]


def depends_on_scheme(case: Case) -> bool:
    """Whether a request may get another response over TLS."""
    by_path = any(part in case.target for part in ("safe", "moved", "Signature"))
    return by_path or any("Signature" in field for field in case.fields)


def is_uncompressed_head(way: str, case: Case) -> bool:
    """Whether a response is the identity head of an object that is not cached.

    A HEAD fetches no body, so nothing can be compressed.
    """
    return case.method == "HEAD" and way == "invalidated" and case.host == "pages.example.org"


def test_response_does_not_depend_on_the_way_to_it(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        both = open_edges(tmp_path)
        plain, secure = runner.run(both.__aenter__())

        @settings(
            max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None
        )
        @given(requests)
        @example(PART_OF_PRIVATE)
        @example(LONG_HEAD)
        @example(LONG_HEAD._replace(method="HEAD"))
        @example(LONG_LIST)
        def check(case: Case) -> None:
            responses = {}
            for scheme, edges in (("http", plain), ("https", secure)):
                ways = runner.run(edges.ways(case))
                _name, expected = ways[0]
                for name, response in ways:
                    if is_uncompressed_head(name, case):
                        assert response[0] == expected[0]
                    else:
                        assert response == expected, (scheme, name)
                responses[scheme] = expected
            status, fields, body = responses["https"]
            fields.pop("connection", None)
            for name, response in runner.run(secure.http2_ways(case)):
                if response == RESET:
                    assert status == 400 or (status > 400 and case.is_malformed_in_http2)
                elif status == 400:
                    assert response[0] == 400, ("h2", name)
                else:
                    assert response == (status, fields, body), ("h2", name)
            is_misdirected = responses["https"][0] == 421
            if not depends_on_scheme(case) and not is_misdirected:
                fields.pop("strict-transport-security", None)  # RFC 6797 §7.2
                responses["http"][1].pop("connection", None)
                assert responses["http"] == responses["https"]

        try:
            check()
            for edges in (plain, secure):
                hits = [line for line in edges.fresh.lines() if line["cache"] == "Hit"]
                assert hits, "nothing was answered from the cache"
        finally:
            runner.run(both.__aexit__(None, None, None))
