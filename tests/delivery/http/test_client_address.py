"""The viewer's address over HTTP: PROXY headers, X-Forwarded-For, and where it is used."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from streamedge.delivery.net.tls import TlsConnection
from streamedge.ops.metrics import Counter
from streamedge.process.certificates import CertificateFiles, Certificates
from tests.support.certificate_authority import CertificateAuthority
from tests.support.event_loop import until
from tests.support.http.http_viewer import Response, Viewer, fetch, open_viewer, request
from tests.support.http.proxy_headers import proxy_v1, proxy_v2
from tests.support.http.web_edge import WebEdge, connections, serve_web
from tests.support.mmdb_file import country, mmdb

# Proxies have private addresses; viewers have addresses for documentation (RFC 5737).
TRUSTING: dict[str, Any] = {"listen": {"proxies": ["127.0.0.1/32", "10.0.0.0/8"]}}
VIEWER, CLAIMED, STRANGER, PROXY = "192.0.2.1", "203.0.113.9", "198.51.100.7", "10.0.0.9"
SMALL = b"small"


def put(edge: WebEdge) -> None:
    edge.origin.put("small", SMALL)


@asynccontextmanager
async def coming_from(edge: WebEdge, address: str, port: int = 4711) -> AsyncIterator[Viewer]:
    """A connection with a PROXY header for that address."""
    async with open_viewer(edge.port) as viewer:
        await viewer.send(proxy_v1(address, port))
        yield viewer


def logged_viewers(edge: WebEdge) -> list[tuple[str, str | None, str]]:
    """The client without its port, the viewer and the cache result of each response."""
    return [
        (line["client"].rpartition(":")[0], line.get("viewer"), line["cache"])
        for line in edge.lines()
    ]


async def seen_by_origin(edge: WebEdge) -> str:
    return (await edge.origin.wait_for_requests(1))[-1].headers["x-forwarded-for"]


async def test_forwarded_address_of_a_viewer_is_ignored(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge:
        put(edge)
        for _miss_then_hit in range(2):
            await fetch(edge.port, "/small", X_Forwarded_For=VIEWER, X_Forwarded_Proto="https")
        assert await seen_by_origin(edge) == f"{VIEWER}, 127.0.0.1"
        assert logged_viewers(edge) == [("127.0.0.1", None, "Miss"), ("127.0.0.1", None, "Hit")]


@pytest.mark.parametrize(
    ("tables", "schemes"), [({}, ["http"]), (TRUSTING, ["https", "http"])], ids=["viewer", "proxy"]
)
async def test_origin_gets_the_scheme_of_the_viewer_where_the_policy_names_it(
    cache_root: Path, tables: dict[str, Any], schemes: list[str]
) -> None:
    """A proxy's statement counts, a viewer's does not; the two schemes are two keys."""
    policy = {"headers": ["X-Forwarded-Proto"]}
    async with serve_web(cache_root, policy=policy, tables=tables) as edge:
        put(edge)
        for _miss_parsed_recalled in range(3):
            await fetch(edge.port, "/small", X_Forwarded_Proto="https")
            await fetch(edge.port, "/small")
        requests = await edge.origin.wait_for_requests(len(schemes))
        assert [one.headers["x-forwarded-proto"] for one in requests] == schemes


async def test_viewer_address_comes_from_a_trusted_proxy(cache_root: Path) -> None:
    async with serve_web(cache_root, tables=TRUSTING) as edge, open_viewer(edge.port) as proxy:
        put(edge)
        fields = {"X_Forwarded_For": f"{CLAIMED}, {VIEWER}, {PROXY}", "User_Agent": "one"}
        for _miss_parsed_recalled in range(3):
            await proxy.get("/small", **fields)
        await proxy.get("/small", range="bytes=1-2", **fields)
        await proxy.get("/small", "HEAD", **fields)
        await proxy.get("/small")

        assert await seen_by_origin(edge) == f"{CLAIMED}, {VIEWER}, {PROXY}, {VIEWER}"
        behind = ("127.0.0.1", VIEWER)
        assert logged_viewers(edge) == [
            (*behind, "Miss"),
            *[(*behind, "Hit")] * 4,
            ("127.0.0.1", None, "Hit"),
        ]
        general, fast_path = edge.lines()[4], edge.lines()[2]
        assert list(general) == list(fast_path), "both paths write the same fields"


async def test_same_bytes_from_an_untrusted_client_keep_its_own_address(cache_root: Path) -> None:
    """A remembered request of a proxy does not match the same bytes of another client."""
    async with serve_web(cache_root, tables=TRUSTING, proxied=True) as edge:
        put(edge)
        raw_request = request("/small", X_Forwarded_For=VIEWER, X_Forwarded_Proto="https")
        for address in (PROXY, PROXY, STRANGER, STRANGER, PROXY):
            async with coming_from(edge, address) as viewer:
                for _parsed_recalled in range(2):
                    await viewer.send(raw_request)
                    assert (await viewer.receive()).status == 200
        assert [line[:2] for line in logged_viewers(edge)] == [
            *[(PROXY, VIEWER)] * 4,
            *[(STRANGER, None)] * 4,
            *[(PROXY, VIEWER)] * 2,
        ]


async def test_tls_status_comes_from_a_trusted_proxy(cache_root: Path) -> None:
    rules = {"viewer_protocol": "redirect-to-https"}
    async with serve_web(cache_root, tables=TRUSTING, rules=rules, proxied=True) as edge:
        put(edge)
        secure, plain = (
            request("/small", X_Forwarded_For=VIEWER, X_Forwarded_Proto=proto)
            for proto in ("https", "http")
        )
        statuses = {}
        for address in (PROXY, STRANGER):
            async with coming_from(edge, address) as viewer:
                answers: list[Response] = []
                for raw_request in (secure, plain, request("/small"), secure, plain, secure):
                    await viewer.send(raw_request)
                    answers.append(await viewer.receive())
                statuses[address] = [answer.status for answer in answers]
        assert statuses == {PROXY: [200, 301, 301, 200, 301, 200], STRANGER: [301] * 6}


async def test_countries_follow_the_viewers_address(cache_root: Path, tmp_path: Path) -> None:
    database = tmp_path / "countries.mmdb"
    database.write_bytes(mmdb({"192.0.2.0/24": country("DE"), "198.51.100.0/24": country("FR")}))
    tables = {**TRUSTING, "countries": {"database": database}}
    rules = {"countries": {"allow": ["DE"]}}
    async with serve_web(cache_root, tables=tables, rules=rules, proxied=True) as edge:
        put(edge)
        for _miss_then_hit in range(2):
            for address, status in ((VIEWER, 200), (STRANGER, 403), (PROXY, 200)):
                async with coming_from(edge, address) as viewer:
                    assert (await viewer.get("/small")).status == status
        async with coming_from(edge, PROXY) as proxy:
            for address, status in ((VIEWER, 200), (STRANGER, 403), (VIEWER, 200)):
                answer = await proxy.get("/small", X_Forwarded_For=address)
                assert answer.status == status


@pytest.mark.parametrize("header", [proxy_v1, proxy_v2])
async def test_proxy_header_may_arrive_with_requests(cache_root: Path, header: Any) -> None:
    async with (
        serve_web(cache_root, tables=TRUSTING, proxied=True) as edge,
        open_viewer(edge.port) as viewer,
    ):
        put(edge)
        await viewer.send(header(VIEWER, 4711) + request("/small") * 2)
        for _each in range(2):
            assert (await viewer.receive()).body == SMALL
        assert await seen_by_origin(edge) == VIEWER
        assert {line["client"] for line in edge.lines()} == {f"{VIEWER}:4711"}
        (connection,) = connections(edge)
        assert connection.peer == (VIEWER, 4711)


async def test_refused_request_is_logged_with_the_viewer_address(cache_root: Path) -> None:
    async with serve_web(cache_root, tables=TRUSTING, proxied=True) as edge:
        async with coming_from(edge, VIEWER) as viewer:
            await viewer.send(b"BAD\x00REQUEST\r\n\r\n")
            assert (await viewer.receive()).status == 400
        assert [line["client"] for line in edge.lines()] == [f"{VIEWER}:4711"]


async def test_ipv6_address_reaches_origin_and_log(cache_root: Path) -> None:
    async with serve_web(cache_root, tables=TRUSTING, proxied=True) as edge:
        put(edge)
        async with coming_from(edge, "2001:db8::1", 80) as viewer:
            await viewer.get("/small")
        assert await seen_by_origin(edge) == "2001:db8::1"
        assert logged_viewers(edge) == [("[2001:db8::1]", None, "Miss")]


async def test_connection_without_a_proxy_header_gets_no_response(cache_root: Path) -> None:
    async with (
        serve_web(cache_root, tables=TRUSTING, proxied=True) as edge,
        open_viewer(edge.port) as viewer,
    ):
        put(edge)
        await viewer.send_request("/small")
        assert await viewer.receive_rest() == b""
        assert not edge.lines()
        (line,) = edge.lines("proxy_header_refused")
        assert line["client"] == viewer.name
        assert edge.counts.gathered(Counter.ERRORS, "http_proxy_header") == 1


async def test_connections_per_address_are_limited(cache_root: Path) -> None:
    limits = {"http_connections_per_address": 2}
    async with serve_web(cache_root, tables=TRUSTING, limits=limits, proxied=True) as edge:
        put(edge)
        async with coming_from(edge, VIEWER) as first, coming_from(edge, VIEWER) as second:
            assert (await first.get("/small")).status == 200
            assert (await second.get("/small")).status == 200
            async with coming_from(edge, VIEWER) as third:
                answer = await third.receive()
                assert answer.status == 429
                assert await third.receive_rest() == b""
            async with coming_from(edge, STRANGER) as other:
                assert (await other.get("/small")).status == 200
        await until(lambda: not connections(edge))
        async with coming_from(edge, VIEWER) as again:
            assert (await again.get("/small")).status == 200
        (line,) = edge.lines("connections_per_address_refused")
        assert line["client"] == f"{VIEWER}:4711"


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


@pytest.fixture
def context(authority: CertificateAuthority) -> ssl.SSLContext:
    pair = authority.issue("edge")
    return Certificates([CertificateFiles(pair.certificate, pair.key)]).front


@asynccontextmanager
async def over_tls(
    edge: WebEdge, authority: CertificateAuthority, header: bytes
) -> AsyncIterator[Viewer]:
    """A connection whose PROXY header precedes the TLS handshake."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    try:
        writer.write(header)
        await writer.start_tls(authority.client(), server_hostname="edge")
        yield Viewer(reader, writer)
    finally:
        writer.transport.abort()


async def test_proxy_header_precedes_tls(
    cache_root: Path, authority: CertificateAuthority, context: ssl.SSLContext
) -> None:
    limits = {"http_connections_per_address": 1}
    async with serve_web(
        cache_root, tables=TRUSTING, limits=limits, context=context, proxied=True
    ) as edge:
        put(edge)
        async with over_tls(edge, authority, proxy_v2(VIEWER, 4711)) as viewer:
            for _miss_then_hit in range(2):
                assert (await viewer.get("/small")).body == SMALL
            (connection,) = connections(edge)
            assert isinstance(connection.transport, TlsConnection)
            with pytest.raises((ConnectionError, ssl.SSLError)):
                async with over_tls(edge, authority, proxy_v2(VIEWER, 4712)):
                    raise AssertionError("a second connection of this address is served")
        assert logged_viewers(edge) == [(VIEWER, None, "Miss"), (VIEWER, None, "Hit")]
        await until(lambda: not edge.server.stats().connections_by_address)
        async with over_tls(edge, authority, proxy_v1(VIEWER, 4713)) as again:
            assert (await again.get("/small")).status == 200


async def test_trusted_proxy_may_terminate_tls(
    cache_root: Path, authority: CertificateAuthority, context: ssl.SSLContext
) -> None:
    rules = {"viewer_protocol": "redirect-to-https"}
    async with (
        serve_web(cache_root, tables=TRUSTING, rules=rules, context=context, proxied=True) as edge,
        over_tls(edge, authority, proxy_v1(PROXY, 4711)) as proxy,
        over_tls(edge, authority, proxy_v1(STRANGER, 4711)) as stranger,
    ):
        put(edge)
        for _miss_then_hit in range(2):
            assert (await proxy.get("/small")).status == 200
            assert (await proxy.get("/small", X_Forwarded_Proto="http")).status == 301
            assert (await stranger.get("/small", X_Forwarded_Proto="http")).status == 200


async def test_failed_handshake_is_logged_with_the_viewer_address(
    cache_root: Path, context: ssl.SSLContext
) -> None:
    async with (
        serve_web(cache_root, tables=TRUSTING, context=context, proxied=True) as edge,
        coming_from(edge, VIEWER) as viewer,
    ):
        await viewer.send_request("/small")
        assert b"400 Bad Request" in await viewer.receive_rest()
        (line,) = edge.lines("tls_handshake_failed")
        assert line["client"] == f"{VIEWER}:4711"
        await until(lambda: not edge.server.stats().connections_by_address)


async def test_alt_svc_is_in_responses_over_tls_only(cache_root: Path) -> None:
    """For hits, errors and redirects alike; the origin's own never is."""
    alt_svc = 'h3=":443"; ma=86400'
    tables = {"listen": {**TRUSTING["listen"], "alt_svc": alt_svc}}
    async with serve_web(cache_root, tables=tables) as edge:
        put(edge)
        for path in ("/small", "/small", "/none"):
            secure = await fetch(edge.port, path, X_Forwarded_Proto="https")
            assert secure.fields["alt-svc"] == alt_svc
            plain = await fetch(edge.port, path)
            assert "alt-svc" not in plain.fields
