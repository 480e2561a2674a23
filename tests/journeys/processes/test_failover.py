"""Journeys: an origin group whose first origin fails."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamedge.origin.group.breaker import FAILURES_MAX
from streamedge.spans import Span
from tests.support.http.http_viewer import open_viewer
from tests.support.origins.scripted_origin import Pattern, Reply, ScriptedOrigin
from tests.support.patience import polls
from tests.support.process.edge_process import EdgeProcess, pause, run_edge

FILM_BYTES = 3_000_001
FILM = Pattern(FILM_BYTES, seed=21)
WHOLE = FILM.read(Span(0, FILM_BYTES))
HELD_AT = 1_000_000

TOML = """
[origins.main]
type = "{kind}"
{main}
connect_timeout = "2s"
[origins.backup]
type = "{kind}"
{backup}
[origin_groups.both]
origins = ["main", "backup"]
"""
WEB = '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "both"\n'
KINDS = {
    "http": 'url = "{url}"',
    "s3": 'bucket = "b"\nendpoint = "{url}"\nanonymous = true',
}


@dataclass(slots=True)
class Site:
    edge: EdgeProcess
    first: ScriptedOrigin
    second: ScriptedOrigin


@asynccontextmanager
async def serving(folder: Path, kind: str, prefix: str) -> AsyncIterator[Site]:
    async with ScriptedOrigin() as first, ScriptedOrigin() as second:
        for server in (first, second):
            server.put(f"{prefix}film.mp4", FILM, content_type="video/mp4")
            for number in range(20):
                server.put(f"{prefix}small{number}", b"small")
        template = KINDS[kind]
        toml = TOML.format(
            kind=kind, main=template.format(url=first.url), backup=template.format(url=second.url)
        )
        with run_edge(folder, toml, distributions=WEB) as edge:
            yield Site(edge, first, second)


@pytest.mark.parametrize(("kind", "prefix"), [("http", ""), ("s3", "b/")])
async def test_download_continues_from_the_other_origin(
    tmp_path: Path, kind: str, prefix: str
) -> None:
    async with serving(tmp_path, kind, prefix) as site, open_viewer(site.edge.http_port) as viewer:
        site.first.hold(f"{prefix}film.mp4", HELD_AT)
        await viewer.send_request("/film.mp4")
        head = await viewer.receive_head()
        assert (head.status, head.fields["content-length"]) == (200, str(FILM_BYTES))
        assert await viewer.receive_body(HELD_AT) == WHOLE[:HELD_AT]
        await site.first.refuse()
        assert await viewer.receive_body(FILM_BYTES - HELD_AT) == WHOLE[HELD_AT:]
        (request,) = site.second.requests
        assert request.headers["if-match"] == '"1"'
        assert request.span is not None
        assert request.span.start == HELD_AT  # each byte is fetched once
        again = await viewer.get("/film.mp4", range="bytes=900000-1100000")
        assert (again.body, again.cache) == (WHOLE[900_000:1_100_001], "Hit")


async def test_dead_origin_is_skipped_and_used_again_after_recovery(tmp_path: Path) -> None:
    async with serving(tmp_path, "http", "") as site, open_viewer(site.edge.http_port) as viewer:
        site.first.script(Reply(status=503, body=b"no"), times=20)
        number = 0
        while len(site.first.requests) == len(site.second.requests):  # until one skips the first
            assert (await viewer.get(f"/small{number}")).body == b"small"
            number += 1
        (line,) = await asyncio.to_thread(site.edge.await_log, "origin_down")
        assert (line["origin"], line["group"]) == ("main", "both")
        assert FAILURES_MAX <= len(site.first.requests) < number
        site.first.clear_script()
        for _round in polls():  # it is retried after a second
            if site.edge.log("origin_up"):
                break
            await viewer.get("/never", "HEAD", cache_control="no-store")
            await asyncio.to_thread(pause)
        assert site.edge.await_log("origin_up")[0]["origin"] == "main"
        request_count = len(site.second.requests)
        assert (await viewer.get("/small11")).body == b"small"
        assert len(site.second.requests) == request_count
        for _round in polls():  # workers publish metrics once a second
            numbers = site.edge.admin("/metrics").decode()
            if 'streamedge_failovers_total{origin="main"}' in numbers:
                break
            await asyncio.to_thread(pause)
        assert re.search(r'^streamedge_outages_total{origin="main"} 1\.0$', numbers, re.MULTILINE)
