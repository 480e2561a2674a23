"""RTMP clients that announce that they follow a redirect get one to the nearest edge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from streamedge.access.admission import AccessRules
from streamedge.delivery.rtmp.protocol.events import CAN_RECONNECT
from streamedge.delivery.traffic import STOPPING
from tests.support.event_loop import until
from tests.support.fleet.places import OSAKA, Places
from tests.support.rtmp.rtmp_client import (
    RtmpClient,
    information,
    open_client,
    open_raw_client,
    samples,
)
from tests.support.rtmp.rtmp_edge import RtmpEdge, serve_rtmp
from tests.support.rtmp.rtmp_media import avc_mp4, keyframe
from tests.support.rtmp.rtmp_signer import rsa_signer

ALIAS = "stream.example.com"
ANNOUNCED: dict[str, Any] = {"capsEx": float(CAN_RECONNECT)}
RECONNECT = "NetConnection.Connect.ReconnectRequest"
REJECTED = "NetConnection.Connect.Rejected"
SIGNER = rsa_signer()


@asynccontextmanager
async def serve(root: Path, places: Places | None = None, **more: Any) -> AsyncIterator[RtmpEdge]:
    """An edge in Frankfurt whose viewers are in Osaka."""
    places = places or Places(viewers={"127.0.0.1": OSAKA})
    async with serve_rtmp(root, nearest=places.nearest(), **more) as edge:
        edge.origin.put("film.mp4", avc_mp4([keyframe(4000) for _ in range(5)], 40))
        edge.rule(nearest=True, aliases=(ALIAS,))
        yield edge


def tc_url(edge: RtmpEdge, host: str = ALIAS, query: str = "") -> str:
    return f"rtmp://{host}:{edge.port}/cfx/st{query}"


async def connect(edge: RtmpEdge, url: str, **more: Any) -> list[dict[str, Any]]:
    """The information objects that a client of ``url`` gets until it is accepted or rejected."""
    async with open_raw_client(edge.port) as client:
        client.command("connect", {"app": "cfx/st", "tcUrl": url, **more}, transaction=1.0)
        messages = await client.until_named("NetConnection.Connect.Success", REJECTED)
        if REJECTED.encode() in messages[-1].payload:
            await client.closed()
    named = (b"onStatus", b"_error", b"_result")
    return [information(one) for one in messages if any(name in one.payload for name in named)]


async def test_client_with_the_bit_for_reconnecting_is_redirected(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        request, rejection = await connect(edge, tc_url(edge), **ANNOUNCED)
        elsewhere = tc_url(edge, f"tyo-1.{ALIAS}")
        assert (request["code"], request["tcUrl"]) == (RECONNECT, elsewhere)
        assert request["level"] == "status"
        assert rejection["level"] == "error"
        assert rejection["code"] == REJECTED
        assert rejection["ex"] == {"code": 302.0, "redirect": elsewhere}
        await until(lambda: bool(edge.lines("rtmp_disconnect")))
        [line] = edge.lines("rtmp_disconnect")
        assert line["reason"] == f"redirected to tyo-1.{ALIAS}:{edge.port}"


@pytest.mark.parametrize(
    ("places", "edge_name"),
    [
        (Places(viewers={"127.0.0.1": OSAKA}, up=["tyo-1", "nyc-1"]), "tyo-1"),
        (Places(viewers={"127.0.0.1": OSAKA}, up=["fra-1", "nyc-1"]), "nyc-1"),
        (Places(up=["fra-1", "nyc-1"]), "nyc-1"),  # a viewer at an unknown place
        (Places(viewers={"127.0.0.1": OSAKA}, up=["fra-1"]), ""),
        (Places(viewers={"127.0.0.1": OSAKA}, hears_fleet=False), ""),
    ],
)
async def test_request_to_reconnect_names_the_nearest_other_edge(
    cache_root: Path, places: Places, edge_name: str
) -> None:
    async with serve(cache_root, places) as edge:
        url = tc_url(edge, f"fra-1.{ALIAS}", "?token=x")  # a name that is not redirected
        async with open_client(edge.port, tcUrl=url, **ANNOUNCED) as client:
            edge.server.set_traffic(STOPPING)
            [*_, request] = await client.until_named(RECONNECT)
            elsewhere = tc_url(edge, f"{edge_name}.{ALIAS}", "?token=x") if edge_name else None
            assert information(request).get("tcUrl") == elsewhere
            assert await film(client, "mp4:film.mp4") == 5  # the connection goes on
        [line] = edge.lines("rtmp_reconnect_requested")
        assert line.get("edge") == (f"{edge_name}.{ALIAS}:{edge.port}" if edge_name else None)


async def test_request_to_reconnect_without_nearest_names_no_edge(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        edge.rule(nearest=False)
        async with open_client(edge.port, tcUrl=tc_url(edge), **ANNOUNCED) as client:
            edge.server.set_traffic(STOPPING)
            [*_, request] = await client.until_named(RECONNECT)
            assert "tcUrl" not in information(request)


async def test_client_with_the_query_parameter_is_redirected(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        [rejection] = await connect(edge, tc_url(edge, query="?a=b&redirect=302"))
        elsewhere = tc_url(edge, f"tyo-1.{ALIAS}", "?a=b&redirect=302")
        assert rejection["ex"] == {"code": 302.0, "redirect": elsewhere}


@pytest.mark.parametrize("more", [{}, {"capsEx": 2.0}, {"capsEx": "1"}])
async def test_other_clients_play_here(cache_root: Path, more: dict[str, Any]) -> None:
    async with serve(cache_root) as edge:
        [accepted] = await connect(edge, tc_url(edge, query="?redirect=no"), **more)
        assert accepted["code"] == "NetConnection.Connect.Success"


async def test_distribution_without_nearest_redirects_no_viewer(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        edge.rule(nearest=False)
        [accepted] = await connect(edge, tc_url(edge), **ANNOUNCED)
        assert accepted["code"] == "NetConnection.Connect.Success"


@pytest.mark.parametrize(
    "places",
    [
        Places(),  # the place of 127.0.0.1 is unknown
        Places(viewers={"127.0.0.1": OSAKA}, up=["fra-1"]),
        Places(viewers={"127.0.0.1": OSAKA}, hears_fleet=False),
        Places(viewers={"127.0.0.1": OSAKA}, own_name="tyo-1"),
    ],
)
async def test_client_plays_here_if_this_edge_is_the_nearest_known(
    cache_root: Path, places: Places
) -> None:
    async with serve(cache_root, places) as edge:
        [accepted] = await connect(edge, tc_url(edge), **ANNOUNCED)
        assert accepted["code"] == "NetConnection.Connect.Success"


async def test_host_that_is_an_address_is_not_redirected(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        edge.rule(aliases=("*",))
        [accepted] = await connect(edge, tc_url(edge, "127.0.0.1"), **ANNOUNCED)
        assert accepted["code"] == "NetConnection.Connect.Success"


async def film(client: RtmpClient, name: str) -> int:
    client.play(name)
    return len(samples(await client.until_named("NetStream.Play.Stop")))


@pytest.mark.parametrize("label", ["tyo-1", "FRA-1"])
async def test_client_at_the_name_of_an_edge_plays_as_at_the_alias(
    cache_root: Path, label: str
) -> None:
    async with serve(cache_root) as edge:
        url = tc_url(edge, f"{label}.{ALIAS}")
        async with open_client(edge.port, tcUrl=url, **ANNOUNCED) as client:
            assert await film(client, "mp4:film.mp4") == 5


async def test_signature_for_the_alias_is_valid_at_the_target(cache_root: Path) -> None:
    access = AccessRules(keys={SIGNER.key_id: SIGNER.public_key})
    async with serve(cache_root, access=access) as edge:
        at_alias = f"rtmp://{ALIAS}:{edge.port}/cfx/st/film.mp4"
        query = SIGNER.canned(at_alias, edge.now_s + 60).partition("?")[2]
        url = tc_url(edge, f"tyo-1.{ALIAS}")
        async with open_client(edge.port, tcUrl=url) as client:
            assert await film(client, f"mp4:film.mp4?{query}") == 5


async def test_name_of_no_edge_has_no_application(cache_root: Path) -> None:
    async with serve(cache_root) as edge:
        with pytest.raises(KeyError, match="InvalidApp"):
            async with open_client(edge.port, tcUrl=tc_url(edge, f"ams-1.{ALIAS}")):
                pass
