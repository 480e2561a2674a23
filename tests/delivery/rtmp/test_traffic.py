"""RTMP clients of an edge that drains, stops or refuses viewers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from streamedge.delivery.rtmp.protocol.events import CAN_RECONNECT
from streamedge.delivery.traffic import STOPPING, WELCOME, Traffic
from tests.support.event_loop import until
from tests.support.patience import PATIENCE_S
from tests.support.rtmp.rtmp_client import information, open_client, samples
from tests.support.rtmp.rtmp_edge import serve_rtmp
from tests.support.rtmp.rtmp_media import avc_mp4, keyframe

RECONNECT = "NetConnection.Connect.ReconnectRequest"


async def test_client_that_can_reconnect_gets_a_request_and_its_play_goes_on(
    cache_root: Path,
) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", avc_mp4([keyframe(40_000) for _ in range(120)], 40))
        async with open_client(edge.port, capsEx=float(CAN_RECONNECT)) as client:
            client.play("film.mp4")
            received = await client.until_named("NetStream.Play.Start")
            edge.server.set_traffic(STOPPING)
            edge.server.set_traffic(STOPPING)
            received += await client.until_named(RECONNECT)
            assert information(received[-1]) == {
                "level": "status",
                "code": RECONNECT,
                "description": "the edge is stopping",
            }
            assert received[-1].stream_id == 0
            received += await client.until_named("NetStream.Play.Stop")
            assert len(samples(received)) == 120
            assert not any(RECONNECT in str(one) for one in await client.read_pending())
        assert len(edge.lines("rtmp_reconnect_requested")) == 1


async def test_other_clients_get_no_request_to_reconnect(cache_root: Path) -> None:
    async with (
        serve_rtmp(cache_root) as edge,
        open_client(edge.port) as plain,
        open_client(edge.port, capsEx=2.0) as multitrack,
    ):
        edge.server.set_traffic(STOPPING)
        for client in (plain, multitrack):
            assert not any(RECONNECT in str(one.payload) for one in await client.read_pending())


async def test_new_client_is_rejected_while_the_edge_refuses_viewers(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        async with open_client(edge.port) as before:
            edge.server.set_traffic(Traffic("lost", refusal="this edge cannot reach its fleet"))
            with pytest.raises(KeyError, match=r"NetConnection\.Connect\.Rejected"):
                async with open_client(edge.port):
                    pass
            await before.read_pending()  # who is here stays
            edge.server.set_traffic(WELCOME)
            async with open_client(edge.port):
                pass
        await until(lambda: len(edge.lines("rtmp_disconnect")) >= 2)
        reasons = {line["reason"] for line in edge.lines("rtmp_disconnect")}
        assert "this edge cannot reach its fleet" in reasons


async def test_play_of_an_edge_that_does_not_hear_its_fleet_validates(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge:
        edge.origin.put("film.mp4", avc_mp4([keyframe(4_000) for _ in range(12)], 40), etag='"1"')
        for hears_fleet in (True, False, False):
            edge.cache.invalidation_checker.set_hears_fleet(hears_fleet)
            requests = len(edge.origin.requests)
            async with open_client(edge.port) as client:
                client.play("film.mp4")
                async with asyncio.timeout(PATIENCE_S):
                    received = await client.until_named("NetStream.Play.Stop")
                assert len(samples(received)) == 12
            assert len(edge.origin.requests) > requests
            assert hears_fleet or edge.origin.requests[-1].headers["if-none-match"] == '"1"'
