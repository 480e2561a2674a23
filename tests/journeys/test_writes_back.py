"""Journeys: writes that are answered before their origin has them, and what survives what.

A relay is in front of a real bucket; while it is closed, the bucket is down.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.edge_process import EdgeProcess, pause, run_edge
from tests.support.http_viewer import Response, open_viewer, request
from tests.support.rtmp_client import VIDEO, metric, open_client, samples
from tests.support.rtmp_media import tags_flv
from tests.support.s3_server import S3Server
from tests.support.scripted_origin import Reply, ScriptedOrigin

BUCKET = "queued"
FRAME_HEADER_BYTES = 13  # of a picture of tags_flv, before its filler
VIEWERS = 8  # on new connections: that all meet one worker of two happens once in 128 times
PATIENCE_ROUNDS = 1500  # of the pause between looks at another process

ORIGIN = """
[origins.main]
type = "s3"
bucket = "{bucket}"
endpoint = "http://127.0.0.1:{port}"
region = "{s3.region}"
access_key_id = "{s3.access_key_id}"
secret_access_key = "{s3.secret_access_key}"
connect_timeout = "2s"
"""
SITES = """
[origins.main]
type = "http"
url = "{first}"
connect_timeout = "2s"
[origins.backup]
type = "http"
url = "{second}"
[origin_groups.both]
origins = ["main", "backup"]
"""
DISTRIBUTIONS_OF_SITES = "".join(
    f"""
[[distributions]]
id = "E{name.upper()}"
type = "web"
aliases = ["{name}.test"]
origin = "{name}"
methods = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]
write = "back"
"""
    for name in ("main", "both")
)
DISTRIBUTIONS = """
[[distributions]]
id = "EWEB"
type = "web"
origin = "main"
methods = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]
write = "back"
[[distributions]]
id = "ESTREAM"
type = "rtmp"
origin = "main"
application = ["vod"]
"""


class Relay:
    """A way to the bucket that can be shut: then connections to it are refused."""

    def __init__(self, endpoint: str) -> None:
        self._behind = urlsplit(endpoint)
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[None]] = set()
        self.port = 0

    async def open(self) -> None:
        """Lets connections through, on the same port as before."""
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuses new connections and cuts those that are there."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for passing in self._passing:
            passing.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passing = asyncio.current_task()
        assert passing is not None
        self._passing.add(passing)
        host, port = self._behind.hostname, self._behind.port
        far_reader, far_writer = await asyncio.open_connection(host, port)
        ways = [
            asyncio.create_task(_copy(reader, far_writer)),
            asyncio.create_task(_copy(far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # the relay is closed
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.transport.abort()
            far_writer.transport.abort()
            self._passing.discard(passing)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1 << 16):
        writer.write(piece)
        await writer.drain()


@asynccontextmanager
async def relay_to(s3: S3Server) -> AsyncIterator[Relay]:
    relay = Relay(s3.endpoint)
    await relay.open()
    try:
        yield relay
    finally:
        await relay.close()


@asynccontextmanager
async def running(folder: Path, origins: str, distributions: str) -> AsyncIterator[EdgeProcess]:
    """An edge; it is started and stopped while its origins, here, work on."""
    starting = run_edge(folder, origins, workers=2, distributions=distributions)
    edge = await asyncio.to_thread(starting.__enter__)
    try:
        yield edge
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


def before(s3: S3Server, relay: Relay) -> tuple[str, str]:
    """Origin and distributions of an edge behind the relay."""
    return ORIGIN.format(bucket=BUCKET, s3=s3, port=relay.port), DISTRIBUTIONS


@pytest.fixture(scope="module", autouse=True)
def _bucket(s3: S3Server) -> None:
    s3.create_bucket(BUCKET)


async def ask(
    edge: EdgeProcess,
    name: str,
    method: str = "GET",
    body: bytes = b"",
    *,
    host: str = "edge",
    **fields: str,
) -> Response:
    """One request on a connection of its own."""
    async with open_viewer(edge.http_port) as viewer:
        if method != "GET":
            fields["content_length"] = str(len(body))
        await viewer.send(request(f"/{name}", method, host=host, **fields) + body)
        return await viewer.receive(method)


async def served(edge: EdgeProcess, name: str, host: str = "edge") -> set[tuple[int, bytes]]:
    """What viewers get who come now."""
    answers = await asyncio.gather(*(ask(edge, name, host=host) for _viewer in range(VIEWERS)))
    return {(answer.status, answer.body) for answer in answers}


async def played(edge: EdgeProcess) -> list[int]:
    """Sizes of the pictures of film.flv."""
    async with open_client(edge.rtmp_port, "vod") as client:
        client.play("film")
        got = samples(await client.until_named("NetStream.Play.Stop"))
        return [len(frame.body) for frame in got if frame.kind == VIDEO]


async def admin(edge: EdgeProcess, method: str, path: str) -> dict[str, Any]:
    """The JSON of an answer of the admin address."""
    request = urllib.request.Request(f"http://127.0.0.1:{edge.admin_port}{path}", method=method)

    def answer() -> bytes:
        with urllib.request.urlopen(request, timeout=10) as response:
            body: bytes = response.read()
            return body

    document: dict[str, Any] = json.loads(await asyncio.to_thread(answer))
    return document


async def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for another process to bring ``condition`` about."""
    for _round in range(PATIENCE_ROUNDS):
        if await asyncio.to_thread(condition):
            return
        await asyncio.to_thread(pause)
    raise TimeoutError(what)


async def until_metrics(edge: EdgeProcess, **expected: float) -> None:
    for name, value in expected.items():
        await until(lambda: metric(edge, f"streamedge_{name}") == value, f"{name} == {value}")  # noqa: B023


async def kill(edge: EdgeProcess) -> None:
    """All of the edge at once, with no chance to say anything."""
    os.killpg(edge.pid, signal.SIGKILL)
    await asyncio.to_thread(edge.process.wait)


def bucket_has(s3: S3Server, name: str) -> bytes | None:
    try:
        body: bytes = s3.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
    except s3.client.exceptions.NoSuchKey:
        return None
    return body


async def test_answered_writes_survive_the_death_of_all_processes(
    tmp_path: Path, s3: S3Server
) -> None:
    film = tags_flv(2, frame_bytes=700)
    s3.put(BUCKET, "film.flv", tags_flv(2, frame_bytes=500))
    s3.put(BUCKET, "page", b"0")
    s3.put(BUCKET, "gone", b"here")
    async with relay_to(s3) as relay:
        async with running(tmp_path, *before(s3, relay)) as edge:
            assert await served(edge, "page") == {(200, b"0")}
            assert await served(edge, "gone") == {(200, b"here")}
            assert set(await played(edge)) == {FRAME_HEADER_BYTES + 500}
            await relay.close()
            for body in (b"1", b"2", b"3"):
                assert (await ask(edge, "page", "PUT", body)).status == 200
                assert await served(edge, "page") == {(200, body)}
            assert (await ask(edge, "film.flv", "PUT", film)).status == 200
            assert (await ask(edge, "gone", "DELETE")).status == 204
            assert {status for status, _body in await served(edge, "gone")} == {404}
            plays = await asyncio.gather(*(played(edge) for _viewer in range(VIEWERS)))
            assert plays == [[FRAME_HEADER_BYTES + 700] * 50] * VIEWERS
            listed = await admin(edge, "GET", "/writes")
            assert sum(listed["by_state"].values()) == listed["accepted"] == 5
            assert listed["held_bytes"] == len(film) + 3
            waiting = [(row["method"], row["object"]) for row in listed["rows"]]
            assert sorted(waiting) == [
                ("DELETE", "gone"), *[("PUT", "film.flv")], *[("PUT", "page")] * 3
            ]  # fmt: skip
            await until_metrics(
                edge, waiting_writes=5, kept_writes=0, held_write_bytes=len(film) + 3
            )
            await kill(edge)
        assert bucket_has(s3, "page") == b"0"
        async with running(tmp_path, *before(s3, relay)) as edge:
            assert await served(edge, "page") == {(200, b"3")}
            assert {status for status, _body in await served(edge, "gone")} == {404}
            assert set(await played(edge)) == {FRAME_HEADER_BYTES + 700}
            await relay.open()
            done = await asyncio.to_thread(edge.await_log, "write_replicated", 5)
            assert bucket_has(s3, "page") == b"3"
            assert bucket_has(s3, "film.flv") == film
            assert bucket_has(s3, "gone") is None
            of_page = [line["serial"] for line in done if line["object"] == "page"]
            assert len(of_page) == 3
            assert of_page == sorted(of_page)
            assert await served(edge, "page") == {(200, b"3")}
            assert (await admin(edge, "GET", "/writes"))["done"] == 5
            await until_metrics(edge, waiting_writes=0, held_write_bytes=0)
            assert list((edge.cache / "writes" / "bodies").iterdir()) == []


async def test_conflict_is_a_dead_letter_until_the_operator_decides(
    tmp_path: Path, s3: S3Server
) -> None:
    etag = s3.put(BUCKET, "contested", b"first")
    async with relay_to(s3) as relay, running(tmp_path, *before(s3, relay)) as edge:
        await relay.close()
        for name in ("contested", "dropped"):
            condition = {"if_match": etag} if name == "contested" else {"if_none_match": "*"}
            assert (await ask(edge, name, "PUT", b"mine", **condition)).status == 200
            assert await served(edge, name) == {(200, b"mine")}
        refused = await ask(edge, "contested", "PUT", b"x", if_match='"none of mine"')
        assert refused.status == 412  # against what waits here
        s3.put(BUCKET, "contested", b"theirs")
        s3.put(BUCKET, "dropped", b"theirs")
        await relay.open()
        await until_metrics(edge, waiting_writes=0, kept_writes=2, held_write_bytes=8)
        for name in ("contested", "dropped"):
            assert await served(edge, name) == {(200, b"theirs")}
        listed = await admin(edge, "GET", "/writes")
        assert listed["by_state"]["conflict"] == 2
        serials = {row["object"]: row["serial"] for row in listed["rows"]}
        assert {row["state"] for row in listed["rows"]} == {"conflict"}
        assert all("412" in row["problem"] for row in listed["rows"])
        lines = await asyncio.to_thread(edge.await_log, "write_not_replicated", 2)
        assert {line["object"] for line in lines if line["state"] == "conflict"} == set(serials)

        again = f"/writes/{serials['contested']}/retry?unconditional=1"
        await admin(edge, "POST", again)
        await admin(edge, "DELETE", f"/writes/{serials['dropped']}")
        await until_metrics(edge, waiting_writes=0, kept_writes=0, held_write_bytes=0)
        assert bucket_has(s3, "contested") == b"mine"
        assert bucket_has(s3, "dropped") == b"theirs"
        assert await served(edge, "contested") == {(200, b"mine")}
        assert (await admin(edge, "GET", "/writes"))["rows"] == []


@pytest.mark.parametrize("written", ["main", "both"])
async def test_writes_to_an_http_origin_that_is_down_are_queued(
    tmp_path: Path, written: str
) -> None:
    async with ScriptedOrigin() as first, ScriptedOrigin() as second:
        for origin in (first, second):
            origin.put("page", b"old")
        sites = SITES.format(first=first.url, second=second.url)
        async with running(tmp_path, sites, DISTRIBUTIONS_OF_SITES) as edge:
            hosts = ("main.test", "both.test")
            for host in hosts:
                assert await served(edge, "page", host) == {(200, b"old")}
            await first.refuse()
            requests_before = len(first.requests)
            response = await ask(
                edge, "page", "PUT", b"new", host=f"{written}.test", content_type="text/plain"
            )
            assert response.status == 200
            for host in hosts:  # the group does not ask its other origin instead
                assert await served(edge, "page", host) == {(200, b"new")}
            first.script(Reply(status=204))
            first.put("page", b"new", etag='"2"')
            await first.accept()
            await asyncio.to_thread(edge.await_log, "write_replicated")
            arrived = first.requests[requests_before]
            assert (arrived.method, bytes(arrived.body)) == ("PUT", b"new")
            assert arrived.headers["content-type"] == "text/plain"
            for host in hosts:
                assert await served(edge, "page", host) == {(200, b"new")}
                assert (await ask(edge, "page", host=host)).fields["etag"] == '"2"'
            assert not any(request.method == "PUT" for request in second.requests)
