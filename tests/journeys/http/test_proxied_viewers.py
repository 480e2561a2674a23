"""Journeys: a real edge behind a proxy, with PROXY headers on HTTP and RTMP."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http.http_viewer import fetch
from tests.support.http.proxy_headers import proxy_v1, proxy_v2, relay
from tests.support.mmdb_file import country, mmdb
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.process.ports import free_ports
from tests.support.rtmp.rtmp_client import open_client, samples
from tests.support.rtmp.rtmp_media import sample_file

GERMAN, FRENCH = "192.0.2.1", "198.51.100.7"
FILM = sample_file("film.mp4")
EDITIONS = [
    mmdb({"192.0.2.0/24": country("DE"), "198.51.100.0/24": country("FR")}),
    mmdb({"192.0.2.0/24": country("FR"), "198.51.100.0/24": country("DE")}),
]


class ProxiedEdge:
    """An edge whose connections begin with a PROXY header."""

    def __init__(self, edge: EdgeProcess, http_port: int, rtmp_port: int, database: Path) -> None:
        self.edge = edge
        self.http_port = http_port
        self.rtmp_port = rtmp_port
        self.database = database

    async def status(self, address: str) -> int:
        """The status of a GET by a viewer with this address."""
        async with relay(self.http_port, proxy_v1(address, 4711)) as port:
            return (await fetch(port, "/film.mp4")).status


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedEdge]:
    folder = tmp_path_factory.mktemp("proxied")
    media, database = folder / "media", folder / "countries.mmdb"
    media.mkdir()
    (media / "film.mp4").write_bytes(FILM)
    database.write_bytes(EDITIONS[0])
    http_port, rtmp_port = free_ports(2)
    origin = f'[origins.main]\ntype = "directory"\npath = "{media}"\n'
    tables = f'[countries]\ndatabase = "{database}"\n'
    distributions = (
        '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
        'countries = { allow = ["DE"] }\n'
        '[[distributions]]\nid = "ESTREAM"\ntype = "rtmp"\norigin = "main"\n'
        'application = ["cfx/st"]\n'
    )
    addresses = f'"127.0.0.1:{http_port}", "127.0.0.1:{rtmp_port}"'
    listen = f'proxies = ["127.0.0.1"]\nproxy_protocol = [{addresses}]'
    with run_edge(
        folder / "edge",
        origin + tables,
        listen=listen,
        limits="rtmp_connections_per_address = 1",
        distributions=distributions,
        ports=(http_port, rtmp_port),
    ) as edge:
        yield ProxiedEdge(edge, http_port, rtmp_port, database)


async def test_address_of_the_proxy_header_decides_access(proxied: ProxiedEdge) -> None:
    for _miss_then_hit in range(2):
        assert await proxied.status(GERMAN) == 200
        assert await proxied.status(FRENCH) == 403
    lines = await asyncio.to_thread(proxied.edge.await_log, "response", 4)
    assert [line["client"] for line in lines[:4]] == [f"{GERMAN}:4711", f"{FRENCH}:4711"] * 2
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await fetch(proxied.http_port, "/film.mp4")
    (line,) = await asyncio.to_thread(proxied.edge.await_log, "proxy_header_refused")
    assert line["protocol"] == "http"


async def test_rtmp_connection_begins_with_a_proxy_header(proxied: ProxiedEdge) -> None:
    async with relay(proxied.rtmp_port, proxy_v2(FRENCH, 4712, behind=b"\x04\x00\x01x")) as port:
        async with open_client(port) as client:
            client.play("film.mp4")
            assert samples(await client.until_named("NetStream.Play.Stop"))
            dump = ["rtmpdump", "-q", "-r", f"rtmp://127.0.0.1:{port}/cfx/st/film.mp4"]
            second = await asyncio.to_thread(
                subprocess.run,
                [*dump, "-o", "/dev/null", "-m", "5"],
                timeout=PATIENCE_S,
                check=False,
            )
            assert second.returncode != 0
        (line,) = await asyncio.to_thread(proxied.edge.await_log, "connections_per_address_refused")
        assert line["client"] == f"{FRENCH}:4712"
    lines = await asyncio.to_thread(proxied.edge.await_log, "rtmp_disconnect")
    assert [line["client"] for line in lines] == [f"{FRENCH}:4712"]


async def test_new_country_database_is_loaded(proxied: ProxiedEdge) -> None:
    proxied.database.write_bytes(EDITIONS[1][:-40])
    (line,) = await asyncio.to_thread(proxied.edge.await_log, "countries_refused")
    assert str(proxied.database) in line["reason"]
    assert await proxied.status(GERMAN) == 200

    proxied.database.write_bytes(EDITIONS[1])
    await asyncio.to_thread(proxied.edge.await_log, "countries_loaded")
    assert await proxied.status(GERMAN) == 403
    assert await proxied.status(FRENCH) == 200


def test_edge_without_a_valid_country_database_does_not_start(tmp_path: Path) -> None:
    database = tmp_path / "countries.mmdb"
    database.write_bytes(EDITIONS[0][300:])
    tables = f'[origins.main]\ntype = "directory"\npath = "{tmp_path}"\n'
    tables += f'[countries]\ndatabase = "{database}"\n'
    with (
        pytest.raises(RuntimeError, match=f"cannot load the country database: {database}: "),
        run_edge(tmp_path / "edge", tables),
    ):
        raise AssertionError("the edge has started")
