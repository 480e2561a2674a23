"""Journeys: an upgrade cuts no tunnel of RTMPT and no stream of HTTP/2, nor does a stop."""

from __future__ import annotations

import asyncio
import signal
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.journeys.processes.test_upgrade import DIRECTORY, upgrade
from tests.support.certificate_authority import CertificateAuthority
from tests.support.http.http2_viewer import ConnectionEndedError, open_http2_viewer
from tests.support.patience import PATIENCE_S
from tests.support.process.admin_calls import await_json
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.process.ports import free_ports
from tests.support.rtmp.rtmp_client import HUGE_BUFFER_MS, frames, open_client
from tests.support.rtmp.rtmp_media import tags_flv
from tests.support.rtmp.rtmp_players import FFMPEG_5, packets
from tests.support.rtmp.rtmp_players import ffmpeg as play_with_ffmpeg
from tests.support.rtmp.rtmp_renditions import SECONDS, rendition
from tests.support.rtmp.tunnel_client import open_connection, run_tunnel_relay

LARGE_BYTES = 24 << 20
LARGE = bytes(range(256)) * (LARGE_BYTES // 256)
HANDSHAKE = bytes(8) + bytes(range(256)) * 5 + bytes(248)


def make_media(folder: Path) -> None:
    (folder / "media").mkdir(parents=True)
    (folder / "media" / "a.txt").write_text("content")
    (folder / "media" / "film.flv").write_bytes(tags_flv(20, frame_bytes=400))
    (folder / "media" / "low.mp4").write_bytes(rendition("low"))
    (folder / "media" / "large.bin").write_bytes(LARGE)


@pytest.mark.parametrize("transport", ["rtmpt", "rtmpts"])
async def test_player_over_a_tunnel_plays_on(tmp_path: Path, transport: str) -> None:
    make_media(tmp_path)
    (mixed,) = free_ports(1)
    with run_edge(
        tmp_path,
        DIRECTORY,
        listen=f'mixed = ["127.0.0.1:{mixed}"]',
        certificate=CertificateAuthority(tmp_path).issue("localhost"),
        workers=2,
    ) as edge:
        url = f"{transport}://localhost:{mixed}/cfx/st/mp4:low.mp4"
        play = asyncio.create_task(play_with_ffmpeg(url, exe=FFMPEG_5, buffer_ms=1000))
        await asyncio.to_thread(edge.await_log, "rtmp_play")
        await asyncio.to_thread(upgrade, edge)
        result = await play
        assert result.code == 0, result.stderr
        assert len(packets(result.output)["video"]) == SECONDS * 25
        await asyncio.to_thread(edge.await_log, "upgrade_finished", timeout_s=2 * PATIENCE_S)


async def test_tunnel_loses_no_byte_when_its_requests_come_to_new_workers(tmp_path: Path) -> None:
    make_media(tmp_path)
    (mixed,) = free_ports(1)
    listen = f'mixed = ["127.0.0.1:{mixed}"]'
    with run_edge(tmp_path, DIRECTORY, listen=listen, workers=2) as edge:
        async with open_client(edge.rtmp_port) as player:
            player.play("film")
            await player.until_named("NetStream.Play.Stop")
            expected = frames(player.messages)
        async with (
            run_tunnel_relay(mixed, keeps_connection=False) as port,
            open_client(port, buffer_ms=1000) as player,
        ):
            player.play("film")
            await player.until_named("video", "aggregate")
            await asyncio.to_thread(upgrade, edge)
            await asyncio.to_thread(edge.await_log, "worker_retiring", 2)  # new ones accept now
            player.buffer(HUGE_BUFFER_MS)
            await player.until_named("NetStream.Play.Stop")
            assert frames(player.messages) == expected
        await asyncio.to_thread(edge.await_log, "upgrade_finished")


async def test_edge_that_stops_forwards_a_tunnel_until_its_play_has_ended(tmp_path: Path) -> None:
    make_media(tmp_path)
    (mixed,) = free_ports(1)
    listen = f'mixed = ["127.0.0.1:{mixed}"]'
    with run_edge(tmp_path, DIRECTORY, listen=listen, workers=2) as edge:
        async with (
            run_tunnel_relay(mixed, is_forwarded=True) as port,
            open_client(port, buffer_ms=1000) as player,
        ):
            player.play("film")
            await player.until_named("video", "aggregate")
            edge.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(edge.await_log, "worker_draining", 2)
            player.buffer(HUGE_BUFFER_MS)
            await player.until_named("NetStream.Play.Stop")
        assert await asyncio.to_thread(edge.process.wait, PATIENCE_S) == 0


async def test_connection_of_an_old_worker_reaches_new_sessions(tmp_path: Path) -> None:
    make_media(tmp_path)
    (mixed,) = free_ports(1)
    listen = f'mixed = ["127.0.0.1:{mixed}"]\nproxies = ["127.0.0.1"]'
    with run_edge(tmp_path, DIRECTORY, listen=listen) as edge:
        async with open_connection(mixed) as early, open_connection(mixed) as proxy:
            for connection in (early, proxy):
                assert (await connection.request("/idle/00/0"))[0] == 404  # no session yet
            await asyncio.to_thread(upgrade, edge)
            async with open_connection(mixed) as new:
                session = await new.open()
            status, received = await early.request(f"/send/{session}/0", b"\x03" + HANDSHAKE)
            assert status == 200
            fields = "X-Forwarded-For: 192.0.2.1\r\n"
            for number in range(1, 20):
                if number == 1:
                    status, body = await proxy.request(f"/idle/{session}/1", fields=fields)
                    assert proxy.says_close  # the next one is one of a new worker
                    assert await proxy.is_closed()
                else:
                    status, body = await early.request(f"/idle/{session}/{number}")
                assert status == 200
                received = received + body[1:]
                if len(received) == 2 + 2 * len(HANDSHAKE):
                    break
            assert received[1:2] == b"\x03"
            assert received[2 + len(HANDSHAKE) + 8 :] == HANDSHAKE[8:]
            assert edge.log("upgrade_finished") == []  # the old worker serves its connection
        await asyncio.to_thread(edge.await_log, "upgrade_finished")


async def get_over_http2(edge: EdgeProcess, tls: ssl.SSLContext, counts: Counts) -> None:
    """Requests an object over and over, as RFC 9113 lets a client: on one connection until GOAWAY.

    A request that came too late for a connection (§6.8) is sent again on the next one.
    """
    while not counts.is_stopping:
        counts.connections += 1
        async with open_http2_viewer(edge.https_port, tls, server_name="edge.test") as viewer:
            while not counts.is_stopping and not viewer.goaways:
                try:
                    response = await viewer.get("/a.txt", host="edge.test")
                except ConnectionEndedError:
                    assert [code for _last, code in viewer.goaways] == [0, 0]  # NO_ERROR
                    break
                assert (response.status, response.body) == (200, b"content")
                counts.responses += 1


@dataclass
class Counts:
    responses: int = 0
    connections: int = 0
    is_stopping: bool = False

    async def more(self, loop: asyncio.Task[None], responses: int) -> None:
        """Waits for so many more responses."""
        until = self.responses + responses
        while self.responses < until:
            if loop.done():
                await loop
            await asyncio.sleep(0)


async def test_http2_streams_in_flight_end_and_new_requests_go_elsewhere(tmp_path: Path) -> None:
    make_media(tmp_path)
    authority = CertificateAuthority(tmp_path)
    tls = ssl.create_default_context(cafile=str(authority.root))
    counts = Counts()
    with run_edge(tmp_path, DIRECTORY, workers=2, certificate=authority.issue("edge.test")) as edge:
        async with open_http2_viewer(
            edge.https_port, tls, server_name="edge.test", reads=False
        ) as viewer:
            streams = [await viewer.send_request("/large.bin", host="edge.test") for _ in range(3)]
            for stream in streams:
                assert (await viewer.receive_head(stream)).status == 200
            loop = asyncio.create_task(get_over_http2(edge, tls, counts))
            await counts.more(loop, 3)
            await asyncio.to_thread(upgrade, edge)
            await counts.more(loop, 100)
            counts.is_stopping = True
            await loop
            assert counts.connections >= 2  # GOAWAY has ended the first one
            await viewer.until(lambda: bool(viewer.goaways))
            # The three responses are complete, long after the new workers serve.
            await viewer.open_windows(streams, 2 * LARGE_BYTES)
            for stream in streams:
                assert (await viewer.receive(stream)).body == LARGE
            assert await viewer.receive_end() == 0  # NO_ERROR
        await asyncio.to_thread(edge.await_log, "upgrade_finished")


def test_curl_downloads_over_http2_through_an_upgrade(tmp_path: Path) -> None:
    make_media(tmp_path)
    pair = CertificateAuthority(tmp_path).issue("localhost")
    target = tmp_path / "received"
    with run_edge(tmp_path, DIRECTORY, certificate=pair) as edge:
        url = f"https://localhost:{edge.https_port}/large.bin"
        command = ["curl", "-sk", "--http2", "--limit-rate", "6M", "-w", "%{http_version}"]
        curl = subprocess.Popen([*command, "-o", str(target), url], stdout=subprocess.PIPE)
        await_json(edge, "/viewers?state=sending", lambda viewers: viewers["matching"] == 1)
        upgrade(edge)
        output, _errors = curl.communicate(timeout=PATIENCE_S)
        assert (curl.returncode, output) == (0, b"2")
        assert target.read_bytes() == LARGE
        edge.await_log("upgrade_finished")
