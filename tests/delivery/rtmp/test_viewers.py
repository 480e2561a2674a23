"""An RTMP viewer: its address behind PROXY headers, the limit of connections of an address, its
row for operators.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from pathlib import Path

import pytest

from streamedge.ops.metrics import Counter
from tests.support.event_loop import until
from tests.support.http.proxy_headers import proxy_v1, proxy_v2, relay
from tests.support.rtmp.rtmp_client import ClosedError, open_client, open_raw_client, samples
from tests.support.rtmp.rtmp_edge import serve_rtmp
from tests.support.rtmp.rtmp_media import sample_file

PROXIES = (ip_network("127.0.0.0/8"),)
VIEWER, OTHER = "192.0.2.1", "192.0.2.2"


@pytest.mark.parametrize("header", [proxy_v1(VIEWER, 4711), proxy_v2(VIEWER, 4711)])
async def test_address_of_the_proxy_header_is_used(cache_root: Path, header: bytes) -> None:
    async with serve_rtmp(cache_root, proxies=PROXIES) as edge, relay(edge.port, header) as port:
        edge.origin.put("film.mp4", sample_file("film.mp4"))
        async with open_client(port) as client:
            client.play("film.mp4")
            assert samples(await client.until_named("NetStream.Play.Stop"))
            (session,) = edge.sessions
            assert session.address == VIEWER
        await edge.until_gone()
        events = {line["event"] for line in edge.lines() if line.get("client") == f"{VIEWER}:4711"}
        assert {"rtmp_connect", "rtmp_play", "rtmp_disconnect"} <= events


async def test_connection_without_a_proxy_header_is_closed(cache_root: Path) -> None:
    async with serve_rtmp(cache_root, proxies=PROXIES) as edge:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with open_raw_client(edge.port):
                raise AssertionError("it is served")
        assert not edge.sessions
        (line,) = edge.lines("proxy_header_refused")
        assert line["protocol"] == "rtmp"
        assert edge.counts.gathered(Counter.ERRORS, "rtmp_proxy_header") == 1


async def test_connections_of_an_address_are_limited(cache_root: Path) -> None:
    async with (
        serve_rtmp(cache_root, proxies=PROXIES, per_address_max=2) as edge,
        relay(edge.port, proxy_v1(VIEWER, 4711)) as port,
        relay(edge.port, proxy_v2(OTHER, 4712)) as other_port,
    ):
        async with open_client(port), open_client(port):
            with pytest.raises((ClosedError, ConnectionError, asyncio.IncompleteReadError)):
                async with open_client(port):
                    raise AssertionError("a third connection is served")
            async with open_client(other_port):
                assert len(edge.sessions) == 3
        await until(lambda: not edge.sessions)
        async with open_client(port):
            (line,) = edge.lines("connections_per_address_refused")
            assert line["client"] == f"{VIEWER}:4711"
            assert edge.counts.gathered(Counter.ERRORS, "rtmp_connections_per_address") == 1


async def test_row_of_a_session_follows_its_play_and_its_distribution(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", sample_file("film.mp4"))
        async with open_client(edge.port) as client:
            (session,) = edge.sessions
            row = session.viewer_row(asyncio.get_running_loop().time())
            assert row is not None
            assert (row.object, row.state, row.requests) == ("", "connected", 0)
            assert (row.distribution, row.address) == (edge.distribution.id, "127.0.0.1")
            client.play("film.mp4")
            await client.until_named("NetStream.Play.Stop")
            row = session.viewer_row(asyncio.get_running_loop().time())
            assert row is not None
            assert (row.object, row.requests) == ("film.mp4", 1)
            assert row.agent
            assert row.sent_bytes > 0
            edge.rule(id="EOTHER")
            client.play("film.mp4")
            await client.until_named("NetStream.Play.Stop")
            row = session.viewer_row(asyncio.get_running_loop().time())
            assert row is not None
            assert row.distribution == "EOTHER"
