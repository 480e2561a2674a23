"""Journeys: viewers from before an upgrade are listed until they leave, and can be ended."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.processes.test_upgrade import DIRECTORY, FILM_S, upgrade
from tests.support.http.http_viewer import TruncatedError, open_viewer
from tests.support.process.admin_calls import await_json, call_json, get_json
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_client import open_client
from tests.support.rtmp.rtmp_media import tags_flv

LARGE_BYTES = 64 << 20  # more than sockets hold, so that a viewer that pauses keeps its response


def make_media(folder: Path) -> None:
    (folder / "media").mkdir(parents=True)
    (folder / "media" / "film.flv").write_bytes(tags_flv(FILM_S, frame_bytes=40))
    with open(folder / "media" / "large.bin", "wb") as file:
        file.truncate(LARGE_BYTES)


async def by_kind(edge: EdgeProcess, query: str, kinds: list[str]) -> dict[str, dict[str, Any]]:
    """The rows by kind, once they are one of each of ``kinds``."""
    document = await asyncio.to_thread(
        await_json,
        edge,
        f"/viewers?{query}",
        lambda document: sorted(row["kind"] for row in document["rows"]) == kinds,
    )
    return {row["kind"]: row for row in document["rows"]}


async def test_viewers_from_before_an_upgrade_are_listed_and_ended(tmp_path: Path) -> None:
    make_media(tmp_path)
    with run_edge(tmp_path, DIRECTORY, workers=2) as edge:
        before = edge.worker_pids()
        async with (
            open_client(edge.rtmp_port, buffer_ms=1000) as player,
            open_viewer(edge.http_port) as download,
        ):
            player.play("film")
            await player.until_named("video", "aggregate")
            await download.send_request("/large.bin")
            await download.receive_head()
            rows = await by_kind(edge, "retiring=false", ["http", "rtmp"])
            await asyncio.to_thread(upgrade, edge)
            retiring = await by_kind(edge, "retiring=true", ["http", "rtmp"])
            for kind, row in retiring.items():
                assert row["id"] == rows[kind]["id"]
                assert row["retiring"] is True
                assert row["sent_bytes"] >= rows[kind]["sent_bytes"]
            assert get_json(edge, "/status")["viewers"]["rtmp"] == 1
            # A viewer that comes now is one of a new worker.
            async with open_client(edge.rtmp_port, buffer_ms=1000) as other:
                other.play("film")
                await other.until_named("video", "aggregate")
                new = await by_kind(edge, "retiring=false", ["rtmp"])
                assert new["rtmp"]["id"] != rows["rtmp"]["id"]
            path = f"/viewers/{retiring['rtmp']['id']}"
            ended = await asyncio.to_thread(call_json, edge, "DELETE", path)
            assert ended == (200, {"id": retiring["rtmp"]["id"], "connections": 1})
            await player.closed()
            # The other one is served on.
            await by_kind(edge, "retiring=true", ["http"])
            assert len(await download.receive_body(LARGE_BYTES)) == LARGE_BYTES
        await asyncio.to_thread(edge.await_log, "upgrade_finished")
        assert get_json(edge, "/viewers?retiring=true")["rows"] == []
        await asyncio.to_thread(edge.await_new_workers, before)


async def test_download_from_before_an_upgrade_is_ended(tmp_path: Path) -> None:
    make_media(tmp_path)
    with run_edge(tmp_path, DIRECTORY) as edge:
        async with open_viewer(edge.http_port) as download:
            await download.send_request("/large.bin")
            await download.receive_head()
            await asyncio.to_thread(upgrade, edge)
            rows = await by_kind(edge, "state=sending", ["http"])
            path = f"/viewers/{rows['http']['id']}"
            ended = await asyncio.to_thread(call_json, edge, "DELETE", path)
            assert ended[0] == 200
            with pytest.raises(TruncatedError):
                await download.receive_body(LARGE_BYTES)
        await asyncio.to_thread(edge.await_log, "upgrade_finished")


async def test_viewers_of_a_killed_worker_from_before_an_upgrade_are_gone(tmp_path: Path) -> None:
    make_media(tmp_path)
    with run_edge(tmp_path, DIRECTORY) as edge:
        (pid,) = edge.worker_pids()
        async with open_client(edge.rtmp_port, buffer_ms=1000) as player:
            player.play("film")
            await player.until_named("video", "aggregate")
            await asyncio.to_thread(upgrade, edge)
            await by_kind(edge, "retiring=true", ["rtmp"])
            os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(edge.await_log, "upgrade_finished")
            assert get_json(edge, "/viewers")["rows"] == []
