"""Journeys: SIGUSR2 replaces the program while viewers are served."""

from __future__ import annotations

import asyncio
import signal
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

from tests.support.certificate_authority import CertificateAuthority
from tests.support.http.get_loop import GetLoop
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_client import HUGE_BUFFER_MS, frames, open_client
from tests.support.rtmp.rtmp_media import tags_flv

DIRECTORY = '[origins.main]\ntype = "directory"\npath = "media"\n'
FILM_S = 120
PLAYS = 200


def make_media(folder: Path) -> None:
    (folder / "media").mkdir(parents=True)
    (folder / "media" / "a.txt").write_text("content")


def upgrade(edge: EdgeProcess, count: int = 1) -> None:
    """Sends SIGUSR2 and waits until the new program serves."""
    edge.process.send_signal(signal.SIGUSR2)
    edge.await_log("upgraded", count, timeout_s=120)


async def test_upgrade_cuts_no_play_and_no_request(tmp_path: Path) -> None:
    make_media(tmp_path)
    (tmp_path / "media" / "film.flv").write_bytes(tags_flv(FILM_S, frame_bytes=40))
    authority = CertificateAuthority(tmp_path)
    tls = ssl.create_default_context(cafile=str(authority.root))
    with run_edge(tmp_path, DIRECTORY, workers=2, certificate=authority.issue("edge.test")) as edge:
        before = edge.worker_pids()
        loops = [
            GetLoop(edge.http_port, "/a.txt", b"content", keeps_alive=True),
            GetLoop(edge.http_port, "/a.txt", b"content", keeps_alive=False),
            GetLoop(edge.https_port, "/a.txt", b"content", True, tls, "edge.test"),
            GetLoop(edge.https_port, "/a.txt", b"content", False, tls, "edge.test"),
        ]
        async with AsyncExitStack() as stack:
            players = [
                await stack.enter_async_context(open_client(edge.rtmp_port, buffer_ms=1000))
                for _play in range(PLAYS)
            ]
            for player in players:
                player.play("film")
                await player.until_named("video", "aggregate")
            for loop in loops:
                loop.start()
                await loop.serve_more(3)
            await asyncio.to_thread(upgrade, edge)
            for loop in loops:
                await loop.serve_more(100)
                await loop.stop()
            after = edge.worker_pids()
            assert not set(before) & set(after)
            retiring = edge.log("worker_retiring")
            assert {line["pid"] for line in retiring} == set(before)
            # Those that began before the upgrade play on, from the workers from before.
            assert edge.metric("streamedge_viewers") == PLAYS
            for player in players:
                player.buffer(HUGE_BUFFER_MS)
            for player in players:
                await player.until_named("NetStream.Play.Stop")
                assert frames(player.messages)[-1].time_ms == FILM_S * 1000 - 40
        await asyncio.to_thread(edge.await_log, "upgrade_finished", timeout_s=60)
        assert {line["code"] for line in edge.log("process_ended")} <= {0}
        assert edge.stop() == 0
