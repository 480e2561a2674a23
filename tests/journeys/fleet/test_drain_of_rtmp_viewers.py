"""Journey: an edge drains while viewers play over RTMPT, and stops when they have gone."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamedge.delivery.rtmp.protocol.events import CAN_RECONNECT
from tests.support.engine.redis_server import RedisServer, run_redis
from tests.support.fleet.fleet_edges import fleet_edges, status
from tests.support.patience import PATIENCE_S
from tests.support.process.ports import free_ports
from tests.support.rtmp.rtmp_client import (
    await_metrics,
    information,
    message_name,
    open_raw_client,
    samples,
)
from tests.support.rtmp.rtmp_media import tags_flv
from tests.support.rtmp.rtmp_players import flv_packets
from tests.support.rtmp.tunnel_client import run_tunnel_relay

RECONNECT = "NetConnection.Connect.ReconnectRequest"
STOP = "NetStream.Play.Stop"
FILM_S, FRAME_BYTES = 10, 120_000  # more than the buffers of a client that does not read
FRAMES = 2 * 25 * FILM_S  # of video and audio
CONNECTIONS = "streamedge_rtmp_connections"


@pytest.fixture(name="redis_server")
def _redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path / "redis") as server:
        yield server


async def test_drain_moves_viewers_who_can_reconnect_and_cuts_no_play(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    films = tmp_path / "films"
    films.mkdir()
    (films / "film.flv").write_bytes(tags_flv(FILM_S, frame_bytes=FRAME_BYTES))
    [port] = free_ports(1)
    with fleet_edges(
        tmp_path,
        f'[origins.main]\ntype = "directory"\npath = "{films}"\n',
        redis_server,
        names=("fra-1", "ams-1"),
        workers=2,
        listen={"ams-1": f'mixed = ["127.0.0.1:{port}"]'},
    ) as fleet:
        ams = fleet.edges["ams-1"]
        url = f"rtmpt://127.0.0.1:{port}/cfx/st"
        player = await asyncio.create_subprocess_exec(
            *("rtmpdump", "-q", "-r", f"{url}/film", "-b", "1000", "-o", "-"),
            stdout=subprocess.PIPE,
        )
        assert player.stdout is not None
        async with (
            run_tunnel_relay(port) as plain_port,
            open_raw_client(plain_port) as plain,
            run_tunnel_relay(port) as able_port,
            open_raw_client(able_port) as able,
        ):
            for client, announced in ((plain, 0), (able, CAN_RECONNECT)):
                await client.connect("cfx/st", tcUrl=url, capsEx=float(announced))
                await client.create_stream()
                client.buffer(1000)
                client.play("film")
                await client.until_named("NetStream.Play.Start")
            # rtmpdump has its first frame, and reads no further until the edge drains.
            start = await player.stdout.readexactly(FRAME_BYTES)
            player.send_signal(signal.SIGSTOP)
            await asyncio.to_thread(fleet.command, "fra-1", "fleet", "drain", "ams-1")
            received = await able.until_named(RECONNECT)
            assert information(received[-1])["level"] == "status"
            assert STOP not in map(message_name, able.messages)
            await asyncio.to_thread(fleet.until, lambda: status(ams) == 503)
            player.send_signal(signal.SIGCONT)
            rest = asyncio.create_task(player.communicate())
            await able.until_named(STOP)  # its play goes on until it leaves
            assert len(samples(able.messages)) == FRAMES
            await plain.until_named(STOP)
            assert len(samples(plain.messages)) == FRAMES
            assert RECONNECT not in map(message_name, plain.messages)
        async with asyncio.timeout(PATIENCE_S):
            end, _ = await rest
        (tmp_path / "received.flv").write_bytes(start + end)
        assert flv_packets(tmp_path / "received.flv") == flv_packets(films / "film.flv")
        await asyncio.to_thread(await_metrics, ams, {CONNECTIONS: 0.0})
        assert await asyncio.to_thread(ams.stop) == 0
        assert len(ams.log("rtmp_reconnect_requested")) == 1
        assert len(ams.log("rtmp_end")) == 3
        reasons = {line["reason"] for line in ams.log("rtmp_disconnect")}
        assert not any("stopping" in reason for reason in reasons)
