"""Attacks by viewers and origins: they are refused or harmless, and affect no other viewer.

They come over HTTP/1.1, plain and over TLS, and over HTTP/2; ``test_http2_attacks`` has those that
only HTTP/2 allows.

The attacker wants the origin to see a second request, or the cache to store a response that others
get.
"""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard

from streamedge.cache.storage.extent import CHUNK_BYTES
from streamedge.delivery.http.request.request import HEAD_BYTES_MAX
from streamedge.ops.metrics import Counter
from streamedge.spans import Span
from tests.support.certificate_authority import CertificateAuthority
from tests.support.event_loop import until
from tests.support.http.http_viewer import request
from tests.support.http.signers import rsa_signer
from tests.support.http.undisturbed import undisturbed
from tests.support.http.web_edge import WebEdge, connections
from tests.support.http.web_versions import HTTP1_VERSIONS, VERSIONS, WebVersion
from tests.support.origins.scripted_origin import Pattern, Reply

FRESH = (("Cache-Control", "max-age=60"),)
WRITES: dict[str, Any] = {
    "rules": {"methods": ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]},
    "limits": {"origin_retries": 0},
}
FORWARDS: dict[str, Any] = {
    "tables": {"origin_request_policies": {"all": {"headers": "all", "cookies": "all"}}},
    "rules": {"origin_request_policy": "all"},
}
INNER = b"GET /smuggled HTTP/1.1\r\nHost: edge\r\n\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=VERSIONS)
def http(request: pytest.FixtureRequest, authority: CertificateAuthority) -> WebVersion:
    return WebVersion(request.param, authority)


@pytest.fixture(params=HTTP1_VERSIONS)
def http1(request: pytest.FixtureRequest, authority: CertificateAuthority) -> WebVersion:
    """For what only HTTP/1.1 has, and for viewers that send any bytes."""
    return WebVersion(request.param, authority)


@asynccontextmanager
async def another_viewer(edge: WebEdge, version: WebVersion) -> AsyncIterator[None]:
    """Another viewer is served meanwhile, and the process stays small."""
    async with version.viewer(edge) as other, undisturbed(edge, other.get):
        yield


def post(fields: bytes, body: bytes, version: bytes = b"1.1") -> bytes:
    return b"POST /a HTTP/%b\r\nHost: edge\r\n%b\r\n%b" % (version, fields, body)


# --- smuggling (RFC 9112 §6.3, §11.2) --------------------------------------------------------

SMUGGLING = {
    "CL.TE": post(b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n"),
    "TE.CL": post(CHUNKED + b"Content-Length: 5\r\n", HELLO),
    "CL.TE in GET": b"GET /a HTTP/1.1\r\nHost: edge\r\nContent-Length: 5\r\n"
    + CHUNKED
    + b"\r\n0\r\n\r\n",
    "TE on HTTP/1.0": post(CHUNKED, HELLO, b"1.0"),
    "TE twice": post(CHUNKED + CHUNKED, HELLO),
    "TE identity": post(b"Transfer-Encoding: identity\r\n", b""),
    "TE of another name": post(b"Transfer-Encoding: xchunked\r\n", HELLO),
    "TE not last": post(b"Transfer-Encoding: chunked, identity\r\n", HELLO),
    "TE with a space": post(b"Transfer-Encoding : chunked\r\n", HELLO),
    "TE with a vertical tab": post(b"Transfer-Encoding: \x0bchunked\r\n", HELLO),
    "TE after a line feed": post(b"X: y\nTransfer-Encoding: chunked\r\n", HELLO),
    "fields of a trailer that end it elsewhere": post(
        CHUNKED, b"5\r\nhello\r\n0\r\nContent-Length: 99\r\n\r\n"
    ),
    "CL twice": post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"),
    "CL and another": post(b"Content-Length: 5\r\nContent-Length: 0\r\n", b"hello"),
    "CL list": post(b"Content-Length: 5, 5\r\n", b"hello"),
    "CL plus": post(b"Content-Length: +5\r\n", b"hello"),
    "CL minus": post(b"Content-Length: -1\r\n", b""),
    "CL hex": post(b"Content-Length: 0x5\r\n", b"hello"),
    "CL of two words": post(b"Content-Length: 5 5\r\n", b"hello"),
    "CL empty": post(b"Content-Length:\r\n", b""),
    "CL beyond 64 bits": post(b"Content-Length: 18446744073709551621\r\n", b"hello"),
    "bare LF": b"POST /a HTTP/1.1\nHost: edge\nContent-Length: 5\n\nhello",
    "bare LF at the end": b"POST /a HTTP/1.1\r\nHost: edge\r\nContent-Length: 5\r\n\nhello",
    "bare CR": post(b"X: a\rContent-Length: 5\r\n", b"hello"),
    "obs-fold": post(b"X: a\r\n Content-Length: 5\r\n", b"hello"),
    "fold in front": b"POST /a HTTP/1.1\r\n Host: edge\r\nHost: edge\r\n\r\n",
    "NUL in a value": post(b"X: a\0b\r\n", b""),
    "NUL in a name": post(b"X\0: a\r\n", b""),
    "space in a name": post(b"Content Length: 5\r\n", b"hello"),
    "no colon": post(b"Content-Length\r\n", b"hello"),
    "chunk size signed": post(CHUNKED, b"+5\r\nhello\r\n0\r\n\r\n"),
    "chunk size prefixed": post(CHUNKED, b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk size beyond 64 bits": post(CHUNKED, b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "chunk size empty": post(CHUNKED, b"\r\nhello\r\n0\r\n\r\n"),
    "chunk longer than it says": post(CHUNKED, b"3\r\nhello\r\n0\r\n\r\n"),
    "chunk size ends in LF": post(CHUNKED, b"5\nhello\r\n0\r\n\r\n"),
    "chunk ends in LF": post(CHUNKED, b"5\r\nhello\n0\r\n\r\n"),
    "LF in a chunk extension": post(CHUNKED, b"5;a=\nhello\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("name", SMUGGLING)
async def test_request_smuggling_is_refused(cache_root: Path, name: str, http1: WebVersion) -> None:
    """Two servers that find different ends of a request also find different next requests."""
    async with http1.serve(cache_root, **WRITES) as edge, http1.http1_viewer(edge) as viewer:
        edge.origin.put("a", b"one", headers=FRESH)
        edge.origin.script(Reply(status=200))
        await viewer.send(SMUGGLING[name] + INNER)
        response = await viewer.receive()
        assert 400 <= response.status < 600, response
        assert response.status != 404
        await viewer.receive_rest()  # the connection is closed
        assert all(seen.path == "/a" for seen in edge.origin.requests)
        assert len(edge.origin.requests) <= 1
        assert not any(seen.has_ended for seen in edge.origin.requests)
        assert all(line["status"] != 404 for line in edge.lines())


async def test_chunk_extensions_and_trailers_are_not_forwarded(
    cache_root: Path, http1: WebVersion
) -> None:
    async with http1.serve(cache_root, **WRITES) as edge, http1.http1_viewer(edge) as viewer:
        edge.origin.script(Reply(status=200))
        body = b"5;name=value\r\nhello\r\n0\r\nX-Admin: yes\r\n\r\n"
        await viewer.send(post(CHUNKED, body))
        assert (await viewer.receive()).status == 200
        (seen,) = edge.origin.requests
        assert bytes(seen.body) == b"hello"
        assert not seen.headers.keys() & {"content-length", "x-admin"}


async def test_body_is_never_read_as_a_request(cache_root: Path, http1: WebVersion) -> None:
    """CL.0 and 0.CL: whether or not the origin reads the body, the next request is intact."""
    async with http1.serve(cache_root, **WRITES) as edge, http1.http1_viewer(edge) as viewer:
        edge.origin.put("b", b"two")
        edge.origin.script(Reply(status=200, early=True))
        await viewer.send(post(b"Content-Length: %d\r\n" % len(INNER), INNER))
        assert (await viewer.receive()).status == 200
        assert (await http1.fetch(edge, "/b")).body == b"two"
        assert [seen.path for seen in edge.origin.requests] == ["/a", "/b"]


@pytest.mark.parametrize("value", ["one\r\nX-Admin: yes", "one\nX-Admin: yes", "a\0b"])
async def test_field_value_adds_no_field(cache_root: Path, value: str, http1: WebVersion) -> None:
    async with http1.serve(cache_root, **FORWARDS) as edge, http1.http1_viewer(edge) as viewer:
        edge.origin.put("a", b"one")
        await viewer.send(
            request("/a?x=%0d%0aX-Admin:%20yes", x_own=value.replace("\r\n", "%0d%0a"))
        )
        await viewer.receive()
        for seen in edge.origin.requests:
            assert "x-admin" not in seen.headers


# --- hosts and paths -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /a HTTP/1.1\r\nHost: edge\r\nHost: evil\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: edge\r\nhost: edge\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: edge, evil\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: edge evil\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: edge/evil\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: user@edge\r\n\r\n",
        b"GET http://evil/a HTTP/1.1\r\nHost: edge\r\n\r\n",
        b"GET //evil/a HTTP/1.1\r\nHost: \r\n\r\n",
        b"GET /a HTTP/1.1\r\n\r\n",
    ],
)
async def test_ambiguous_host_is_refused(cache_root: Path, raw: bytes, http1: WebVersion) -> None:
    """If edge and origin read different hosts, one host's cache gets the other's pages."""
    keys = {"host": "viewer"}
    async with (
        http1.serve(cache_root, aliases=("edge",), origin_keys=keys) as edge,
        http1.http1_viewer(edge) as viewer,
    ):
        edge.origin.put("a", b"one", headers=FRESH)
        await viewer.send(raw)
        assert (await viewer.receive()).status in {400, 421}
        assert edge.origin.requests == []


async def test_forwarded_host_is_part_of_the_key(cache_root: Path, http: WebVersion) -> None:
    async with (
        http.serve(cache_root, origin_keys={"host": "viewer"}) as edge,
        http.viewer(edge) as viewer,
    ):
        edge.origin.put("a", b"one", headers=FRESH)
        for host in ("one.example", "two.example"):
            assert (await viewer.get("/a", host=host)).status == 200
        assert [seen.headers["host"] for seen in edge.origin.requests] == [
            "one.example",
            "two.example",
        ]


@pytest.mark.parametrize(
    "path",
    [
        "/a/%2e%2e/b",
        "/a/..%2fb",
        "/%2e%2e%2fb",
        "/a%00.css",
        "/a%5cb",
        "/a\\b",
        "/a/../b",
        "/a/..;x/b",
        "/%c0%af..%c0%af",
    ],
)
async def test_ambiguous_path_reaches_no_origin(
    cache_root: Path, path: str, http: WebVersion
) -> None:
    async with http.serve(cache_root) as edge, http.viewer(edge) as viewer:
        assert (await viewer.get(path)).status == 400
        assert edge.origin.requests == []


async def test_path_is_decoded_once(cache_root: Path, http: WebVersion) -> None:
    async with http.serve(cache_root) as edge, http.viewer(edge) as viewer:
        await viewer.get("/%252e%252e/%2562")
        (seen,) = edge.origin.requests
        assert seen.path == "/%252e%252e/%2562"


async def test_encoded_path_bypasses_no_behavior(cache_root: Path, http: WebVersion) -> None:
    rules = {"behaviors": [{"path": "admin*", "trusted_key_groups": ["staff"]}]}
    tables = {
        "public_keys": {"K1": {"pem": rsa_signer("K1").public_pem.decode()}},
        "key_groups": {"staff": {"keys": ["K1"]}},
    }
    async with (
        http.serve(cache_root, rules=rules, tables=tables) as edge,
        http.viewer(edge) as viewer,
    ):
        for path in ("/admin", "/%61dmin", "/adm%69n/x"):
            assert (await viewer.get(path)).status == 403
        assert edge.origin.requests == []


async def test_long_headers_and_urls_are_refused(cache_root: Path, http1: WebVersion) -> None:
    """CPDoS by HHO: a header that only the origin refuses would cache its error for all viewers."""
    async with http1.serve(cache_root) as edge, another_viewer(edge, http1):
        edge.origin.put("a", b"one", headers=FRESH)
        for raw, status in (
            (request("/a", x_large="a" * HEAD_BYTES_MAX), 431),
            (request("/a", **{f"x_{n}": "a" for n in range(3000)}), 431),
            (request("/a?" + "b" * 8192), 414),
            (b"GET /" + b"a" * (64 << 10), 431),
        ):
            async with http1.http1_viewer(edge) as viewer:
                await viewer.send(raw)
                assert (await viewer.receive()).status == status
        assert edge.origin.requests == []


# --- unkeyed input has no effect --------------------------------------------------------------

UNKEYED = [
    {"x_forwarded_host": "evil"},
    {"x_forwarded_scheme": "nohttps"},
    {"x_forwarded_proto": "nohttps"},
    {"x_forwarded_port": "1"},
    {"x_forwarded_prefix": "/evil"},
    {"forwarded": "host=evil"},
    {"x_host": "evil"},
    {"x_original_url": "/evil"},
    {"x_rewrite_url": "/evil"},
    {"x_http_method_override": "DELETE"},
    {"x_method_override": "DELETE"},
    {"x_original_host": "evil"},
    {"proxy": "http://evil"},
]


@pytest.mark.parametrize("fields", UNKEYED)
@pytest.mark.parametrize("more", [{}, FORWARDS])
async def test_override_fields_are_not_forwarded(
    cache_root: Path, fields: dict[str, str], more: dict[str, Any], http: WebVersion
) -> None:
    async with http.serve(cache_root, **more) as edge, http.viewer(edge) as viewer:
        edge.origin.put("a", b"one", headers=FRESH)
        await viewer.get("/a", **fields)
        (seen,) = edge.origin.requests
        assert not seen.headers.keys() & {name.replace("_", "-") for name in fields}


async def test_cookies_and_credentials_are_not_forwarded_by_default(
    cache_root: Path, http: WebVersion
) -> None:
    async with http.serve(cache_root) as edge, http.viewer(edge) as viewer:
        edge.origin.put("a", b"one", headers=FRESH)
        await viewer.get("/a", cookie="session=1", authorization="Bearer x", x_own="1")
        (seen,) = edge.origin.requests
        assert not seen.headers.keys() & {"cookie", "authorization", "x-own"}


async def test_forwarding_fields_of_a_viewer_are_not_trusted(
    cache_root: Path, http: WebVersion
) -> None:
    async with http.serve(cache_root) as edge, http.viewer(edge) as viewer:
        edge.origin.put("a", b"one")
        await viewer.get("/a", x_forwarded_for="10.0.0.1")
        (seen,) = edge.origin.requests
        assert seen.headers["x-forwarded-for"] == "10.0.0.1, 127.0.0.1"


@pytest.mark.parametrize(
    ("query", "forwarded"),
    [
        ("utm=1;id=evil&id=1", "utm=1;id=evil&id=1"),
        ("id=1&utm=x;id=evil", "id=1&utm=x;id=evil"),
        ("i%64=evil&id=1", "i%64=evil&id=1"),
        ("utm=1", ""),
        ("id=1&utm=1", "id=1"),
    ],
)
async def test_cloaked_parameter_is_in_the_key(
    cache_root: Path, query: str, forwarded: str, http: WebVersion
) -> None:
    """A parameter that an origin could read as the keyed one is in the key."""
    async with (
        http.serve(cache_root, policy={"query_strings": {"only": ["id"]}}) as edge,
        http.viewer(edge) as viewer,
    ):
        edge.origin.put("a", b"one", headers=FRESH)
        await viewer.get("/a?id=1")
        await viewer.get(f"/a?{query}")
        paths = [seen.path for seen in edge.origin.requests]
        assert paths == ["/a?id=1"] + (
            [] if forwarded == "id=1" else [f"/a?{forwarded}" if forwarded else "/a"]
        )


@pytest.mark.parametrize("framing", [b"Content-Length: 8\r\n", CHUNKED])
async def test_get_with_a_body_is_refused(
    cache_root: Path, framing: bytes, http1: WebVersion
) -> None:
    async with http1.serve(cache_root, **WRITES) as edge, http1.http1_viewer(edge) as viewer:
        edge.origin.put("a", b"one", headers=FRESH)
        body = b"8\r\nid=evil1\r\n0\r\n\r\n" if framing is CHUNKED else b"id=evil1"
        await viewer.send(b"GET /a HTTP/1.1\r\nHost: edge\r\n" + framing + b"\r\n" + body)
        assert (await viewer.receive()).status == 403
        assert edge.origin.requests == []
        assert (await http1.fetch(edge, "/a")).body == b"one"


@pytest.mark.parametrize("control", ["no-store", "private", "private, max-age=60"])
@pytest.mark.parametrize(
    "path", ["/account/x.css", "/account;x.css", "/account%3bx.css", "/account%23x.css"]
)
async def test_private_page_under_a_static_path_is_not_cached(
    cache_root: Path, control: str, path: str, http: WebVersion
) -> None:
    """A private page is not cached under a path that looks like a style sheet."""
    fields = (("Cache-Control", control), ("Content-Type", "text/css"), ("Set-Cookie", "s=1"))
    async with http.serve(cache_root, **FORWARDS) as edge, http.viewer(edge) as viewer:
        for body in (b"hers", b"his"):
            edge.origin.script(Reply(status=200, headers=fields, body=body))
        assert (await viewer.get(path, cookie="session=hers")).body == b"hers"
        assert (await viewer.get(path)).body == b"his"


@pytest.mark.parametrize(
    "fields",
    [
        {"x_oversize": "a" * 15_000},  # HHO
        {"x_meta": "\x01\x02"},  # HMC
        {"x_http_method_override": "POST"},  # HMO
        {"x_forwarded_proto": "nohttps"},
    ],
)
@pytest.mark.parametrize("status", [400, 403, 405, 413, 431, 501])
async def test_error_that_a_viewer_provokes_is_not_cached(
    cache_root: Path, fields: dict[str, str], status: int, http1: WebVersion
) -> None:
    """CPDoS. CloudFront's rules store a 501, so no viewer may be able to cause one."""
    async with http1.serve(cache_root) as edge:
        edge.origin.put("a", b"one", headers=FRESH)
        if status != 501:
            edge.origin.script(Reply(status=status, body=b"what?"))
        async with http1.http1_viewer(edge) as viewer:
            await viewer.send(request("/a", **fields))
            response = await viewer.receive()
        assert response.status in {200, 400, status}
        assert all(
            not any(name.startswith("x-") and name != "x-forwarded-for" for name in seen.headers)
            for seen in edge.origin.requests
        )
        edge.origin.clear_script()
        assert (await http1.fetch(edge, "/a")).body == b"one"


# --- ranges ----------------------------------------------------------------------------------


async def test_one_byte_of_ten_gigabytes_requests_one_chunk(
    cache_root: Path, http: WebVersion
) -> None:
    async with (
        http.serve(cache_root) as edge,
        http.viewer(edge) as viewer,
        another_viewer(edge, http),
    ):
        large = Pattern(10 << 30, seed=2)
        edge.origin.put("large", large, headers=FRESH)
        for position in (0, 5 << 30, (10 << 30) - 1):
            response = await viewer.get("/large", range=f"bytes={position}-{position}")
            assert response.body == large.read(Span(position, position + 1))
        assert edge.origin.body_bytes_sent <= 3 * CHUNK_BYTES


@pytest.mark.parametrize(
    "range_field",
    [
        "bytes=" + ",".join(["0-"] * 900),
        "bytes=" + ",".join(["0-99"] * 900),
        "bytes=0-,0-,0-",
        "bytes=0-9,5-19,10-29",
    ],
)
async def test_overlapping_ranges_send_at_most_the_object(
    cache_root: Path, range_field: str, http: WebVersion
) -> None:
    async with (
        http.serve(cache_root) as edge,
        http.viewer(edge) as viewer,
        another_viewer(edge, http),
    ):
        film = Pattern(1 << 20, seed=2)
        edge.origin.put("film", film, headers=FRESH)
        for _cold_then_warm in range(2):
            response = await viewer.get("/film", range=range_field)
            assert response.status in {200, 206}
            assert len(response.body) <= film.size_bytes
        assert edge.origin.body_bytes_sent <= film.size_bytes


@pytest.mark.parametrize("number", [2**31, 2**63 - 1, 2**63, 2**64, 10**30])
async def test_huge_ranges_are_handled(cache_root: Path, number: int, http: WebVersion) -> None:
    async with http.serve(cache_root) as edge, http.viewer(edge) as viewer:
        edge.origin.put("a", b"one", headers=FRESH)
        for _cold_then_warm in range(2):
            for range_field in (f"bytes={number}-", f"bytes=0-{number}", f"bytes=-{number}"):
                response = await viewer.get("/a", range=range_field)
                assert response.status in {200, 206, 416}
                if response.status != 416:
                    assert response.body == b"one"
        assert (await viewer.get("/a")).body == b"one"


# --- bombs -----------------------------------------------------------------------------------

ZEROS_BYTES = 32 << 20
BOMBS = {
    "gzip": gzip.compress(bytes(ZEROS_BYTES)),
    "br": brotli.compress(bytes(ZEROS_BYTES), quality=5),
    "zstd": zstandard.compress(bytes(ZEROS_BYTES)),
}


@pytest.mark.parametrize("coding", BOMBS)
@pytest.mark.parametrize("control", ["max-age=60", "no-store"])
async def test_compressed_origin_response_is_never_decompressed(
    cache_root: Path, coding: str, control: str, http: WebVersion
) -> None:
    """It is not compressed again either, nor changed for a viewer that prefers another coding."""
    bomb = BOMBS[coding]
    async with http.serve(cache_root, rules={"compress": True}) as edge:
        headers = (("Cache-Control", control), ("Content-Encoding", coding))
        edge.origin.put("a", bomb, headers=headers, content_type="text/html")
        for accepted in ("identity", "gzip, br, zstd", coding):
            response = await http.fetch(edge, "/a", accept_encoding=accepted)
            assert response.body == bomb
            assert response.fields["content-encoding"] == coding
            part = await http.fetch(edge, "/a", accept_encoding=accepted, range="bytes=10-19")
            assert (part.status, part.body) == (206, bomb[10:20])
        files = [path for path in cache_root.rglob("*") if path.is_file()]
        assert sum(path.stat().st_blocks * 512 for path in files) < ZEROS_BYTES / 8


@pytest.mark.parametrize("chunked", [False, True])
async def test_text_over_the_limit_is_not_compressed(
    cache_root: Path, chunked: bool, http: WebVersion
) -> None:
    """An object is compressed as a whole before it is sent, so its size is limited."""
    async with http.serve(cache_root, rules={"compress": True}) as edge:
        text = bytes(ZEROS_BYTES)
        edge.origin.put("a", text, etag="", headers=FRESH, content_type="text/html")
        edge.origin.script(Reply(chunked=chunked))
        for _cold_then_warm in range(2):
            response = await http.fetch(edge, "/a", accept_encoding="gzip, br, zstd")
            assert response.body == text
            assert "content-encoding" not in response.fields
        assert len(edge.origin.requests) == 1


@pytest.mark.parametrize("coding", BOMBS)
async def test_compressed_request_body_is_forwarded_unchanged(
    cache_root: Path, coding: str, http1: WebVersion
) -> None:
    rules = {**WRITES, "limits": {"request_body": "64KB"}}
    async with http1.serve(cache_root, **rules) as edge, http1.http1_viewer(edge) as viewer:
        edge.origin.script(Reply(status=200), times=2)
        bomb = BOMBS[coding][: 60 << 10]
        fields = b"Content-Encoding: %b\r\n" % coding.encode()
        await viewer.send(post(fields + b"Content-Length: %d\r\n" % len(bomb), bomb))
        assert (await viewer.receive()).status == 200
        await viewer.send(post(fields + CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (len(bomb), bomb)))
        assert (await viewer.receive()).status == 200
        for seen in edge.origin.requests:
            assert (bytes(seen.body), seen.headers["content-encoding"]) == (bomb, coding)


@pytest.mark.parametrize("framing", [b"Content-Length: 70000\r\n", CHUNKED])
async def test_body_over_the_limit_is_refused(
    cache_root: Path, framing: bytes, http1: WebVersion
) -> None:
    rules = {**WRITES, "limits": {"request_body": "64KB"}}
    async with http1.serve(cache_root, **rules) as edge, http1.http1_viewer(edge) as viewer:
        body = bytes(70_000)
        if framing is CHUNKED:
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        await viewer.send(post(b"Content-Encoding: gzip\r\n" + framing, body))
        assert (await viewer.receive()).status == 413
        assert not any(seen.has_ended for seen in edge.origin.requests)


# --- slow and numerous clients ----------------------------------------------------------------


async def test_slow_request_is_closed(cache_root: Path, http1: WebVersion) -> None:
    """Slowloris: an incomplete request does not keep its connection open."""
    async with http1.serve(cache_root, limits={"http_idle": "50ms"}) as edge:
        async with http1.http1_viewer(edge) as viewer:
            await viewer.send(b"GET /a HTTP/1.1\r\nHost: edge\r\nX-")
            assert await viewer.receive_rest() == b""
        assert edge.origin.requests == []


async def test_trickling_request_is_closed(cache_root: Path, http1: WebVersion) -> None:
    """A few more bytes do not extend its timeout."""
    async with http1.serve(cache_root) as edge, http1.http1_viewer(edge) as viewer:
        await until(lambda: bool(connections(edge)))
        (connection,) = connections(edge)
        started_s, came_bytes = connection.stats().quiet_since_s, 0
        for second in range(10):
            line = b"X: 1\r\n" if second else b"GET /a HTTP/1.1\r\nHost: edge\r\n"
            came_bytes += len(line)
            await viewer.send(line)
            await until(partial(lambda count: connection.stats().header_bytes == count, came_bytes))
            connection.sweep(started_s + second, idle_s=9.5, stall_s=60)
            assert not connection.transport.is_closing()
        connection.sweep(started_s + 10, idle_s=9.5, stall_s=60)
        assert await viewer.receive_rest() == b""
        assert edge.origin.requests == []


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 9\r\n\r\nabc", CHUNKED + b"\r\n3\r\nabc\r\n"]
)
async def test_stalled_request_body_is_dropped(
    cache_root: Path, framing: bytes, http1: WebVersion
) -> None:
    """Its connection to the origin is closed too."""
    rules = {**WRITES, "limits": {"http_stall": "50ms", "origin_retries": 0}}
    async with http1.serve(cache_root, **rules) as edge, http1.http1_viewer(edge) as viewer:
        await viewer.send(b"POST /a HTTP/1.1\r\nHost: edge\r\n" + framing)
        assert await viewer.receive_rest() == b""
        await edge.origin.until(lambda: edge.origin.connections_open == 0)
        assert not any(seen.has_ended for seen in edge.origin.requests)


async def test_slow_reader_is_dropped(cache_root: Path, http1: WebVersion) -> None:
    async with (
        http1.serve(cache_root, limits={"http_stall": "50ms"}) as edge,
        http1.http1_viewer(edge, receive_buffer_bytes=4096) as viewer,
        another_viewer(edge, http1),
    ):
        edge.origin.put("film", Pattern(20 << 20), headers=FRESH)
        await viewer.send_request("/film")
        await until(lambda: len(connections(edge)) == 2)
        await until(lambda: len(connections(edge)) == 1)
        (cut,) = [line for line in edge.lines() if "reason" in line]
        assert (cut["path"], cut["reason"]) == ("/film", "viewer stalled")


async def test_too_many_connections_are_refused(cache_root: Path, http1: WebVersion) -> None:
    async with (
        http1.serve(cache_root, limits={"http_connections": 2}) as edge,
        http1.http1_viewer(edge),
        http1.http1_viewer(edge) as second,
    ):
        await until(lambda: len(connections(edge)) == 2)
        async with http1.http1_viewer(edge) as third:
            assert await third.receive_rest() == b""
        edge.origin.put("a", b"one")
        assert (await second.get("/a")).body == b"one"


# --- invalid origin responses -----------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        (("Content-Range", "bytes 9-0/99"),),
        (("Content-Range", "bytes 10-19/300000"),),
        (("Content-Range", "bytes 0-65535/10"),),
        (("Content-Range", "bytes 0-65535/*"),),
        (("Content-Range", "lines 0-65535/300000"),),
        (("Content-Range", None),),
        (("Content-Range", "bytes 0-99999999999999999999/300000"),),
    ],
)
async def test_wrong_content_range_is_never_stored(
    cache_root: Path, headers: tuple[tuple[str, str | None], ...], http: WebVersion
) -> None:
    async with http.serve(cache_root, limits={"origin_retries": 0}) as edge:
        film = Pattern(300_000, seed=1)
        edge.origin.put("film", film, headers=FRESH)
        edge.origin.script(Reply(headers=headers), times=2)
        response = await http.fetch(edge, "/film", range="bytes=0-9")
        assert response.status == 502
        assert (await http.fetch(edge, "/film")).body == film.read(Span(0, 300_000))


@pytest.mark.parametrize("reply", [Reply(cut_at=1000), Reply(reset_at=1000)])
async def test_short_body_is_not_complete(
    cache_root: Path, reply: Reply, http1: WebVersion
) -> None:
    async with http1.serve(cache_root, limits={"origin_retries": 0}) as edge:
        film = Pattern(300_000, seed=1)
        edge.origin.put("film", film, headers=FRESH, etag="", last_modified_s=None)
        edge.origin.script(reply)
        async with http1.http1_viewer(edge) as viewer:
            await viewer.send_request("/film")
            await viewer.receive_rest()
        assert edge.counts.gathered(Counter.ERRORS, "response_cut") == 1
        assert (await http1.fetch(edge, "/film")).body == film.read(Span(0, 300_000))


@pytest.mark.parametrize("control", ["max-age=60", "no-store"])
async def test_body_longer_than_its_length_is_cut(
    cache_root: Path, control: str, http: WebVersion
) -> None:
    """The bytes after it are in no response."""
    extra = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nCache-Control: max-age=60\r\n\r\nevil"
    async with http.serve(cache_root) as edge, http.viewer(edge) as viewer:
        edge.origin.put("a", b"one", headers=(("Cache-Control", control),))
        edge.origin.put("b", b"two")
        edge.origin.script(Reply(extra=extra))
        assert (await viewer.get("/a")).body == b"one"
        assert (await viewer.get("/b")).body == b"two"


async def test_object_that_changes_during_a_fill_is_never_mixed(
    cache_root: Path, http1: WebVersion
) -> None:
    async with http1.serve(cache_root, limits={"origin_retries": 0}) as edge:
        old, new = Pattern(300_000, seed=1), Pattern(300_000, seed=2)
        edge.origin.put("film", old, etag='"1"', headers=FRESH)
        part = await http1.fetch(edge, "/film", range="bytes=0-9")
        assert part.body == old.read(Span(0, 10))
        edge.origin.put("film", new, etag='"2"', headers=FRESH)
        async with http1.http1_viewer(edge) as viewer:
            await viewer.send_request("/film")
            head = await viewer.receive_head()
            body = await viewer.receive_rest()
        expected = old if head.fields["etag"] == '"1"' else new
        assert expected.read(Span(0, 300_000)).startswith(body)
        response = await http1.fetch(edge, "/film")
        assert response.fields["etag"] == '"2"'
        assert response.body == new.read(Span(0, 300_000))


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nevil",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * (80 << 10) + b"\r\n\r\nevil",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\nConnection: upgrade\r\n\r\n",
    ],
)
async def test_invalid_http_of_an_origin_is_never_stored(
    cache_root: Path, raw: bytes, http1: WebVersion
) -> None:
    async with http1.serve(cache_root, limits={"origin_retries": 0}) as edge:
        edge.origin.put("a", b"one", headers=FRESH)
        edge.origin.script(Reply(raw=raw))
        async with http1.http1_viewer(edge) as viewer:
            await viewer.send_request("/a")
            head = await viewer.receive_head()
            while head.status == 100:
                head = await viewer.receive_head()
            assert head.status in {200, 502}
            if head.status == 200:  # it ended after its head: the viewer can detect that
                assert "transfer-encoding" in head.fields
                assert not (await viewer.receive_rest()).endswith(b"0\r\n\r\n")
        assert (await http1.fetch(edge, "/a")).body == b"one"


# --- loops and SSRF ---------------------------------------------------------------------------


async def test_loop_ends_at_its_second_pass(cache_root: Path, http: WebVersion) -> None:
    async with http.serve(cache_root) as edge:
        loop = ", ".join(["other"] * 50 + ["streamedge-test"])
        for method in ("GET", "HEAD"):
            assert (await http.fetch(edge, "/a", method, cdn_loop=loop)).status == 508
        assert edge.origin.requests == []


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/latest/meta-data", "//evil/x", "file:///etc/passwd"]
)
async def test_redirect_is_passed_to_the_viewer(
    cache_root: Path, location: str, http: WebVersion
) -> None:
    """SSRF: no request is sent to a host that the config does not name."""
    async with http.serve(cache_root) as edge, http.viewer(edge) as viewer:
        edge.origin.script(Reply(status=302, headers=(("Location", location),)))
        response = await viewer.get("/a")
        assert (response.status, response.fields["location"]) == (302, location)
        assert len(edge.origin.requests) == 1
