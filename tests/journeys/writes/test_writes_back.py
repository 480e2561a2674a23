"""Journeys: write-back: writes that are answered before their origin has them.

A proxy is in front of a real bucket; while it refuses connections, the bucket is down.
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

from tests.support.http.http_viewer import Response, open_viewer, request
from tests.support.origins.s3_server import S3Server
from tests.support.origins.scripted_origin import Reply, ScriptedOrigin
from tests.support.patience import PATIENCE_S, polls
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.process.ports import HeldPort
from tests.support.rtmp.rtmp_client import VIDEO, metric, open_client, samples
from tests.support.rtmp.rtmp_media import tags_flv

BUCKET = "queued"
FRAME_HEADER_BYTES = 13  # of a frame of tags_flv, before its filler
VIEWERS = 8  # on new connections; all reach the same of two workers once in 128 times

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


class BucketProxy:
    """A proxy to the bucket that can refuse connections."""

    def __init__(self, endpoint: str) -> None:
        self._behind = urlsplit(endpoint)
        self._server: asyncio.Server | None = None
        self._held_port = HeldPort()
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    async def accept(self) -> None:
        """Accepts connections, on the same port as before."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self._held_port.release()

    async def close(self) -> None:
        """Ends the proxy."""
        await self.refuse()
        self._held_port.release()

    async def refuse(self) -> None:
        """Refuses new connections and aborts open ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._held_port.hold(self.port)
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        host, port = self._behind.hostname, self._behind.port
        far_reader, far_writer = await asyncio.open_connection(host, port)
        copies = [
            asyncio.create_task(_copy(reader, far_writer)),
            asyncio.create_task(_copy(far_reader, writer)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # the proxy refuses connections
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            writer.transport.abort()
            far_writer.transport.abort()
            self._connections.discard(connection)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1 << 16):
        writer.write(piece)
        await writer.drain()


@asynccontextmanager
async def open_bucket_proxy(s3: S3Server) -> AsyncIterator[BucketProxy]:
    bucket_proxy = BucketProxy(s3.endpoint)
    await bucket_proxy.accept()
    try:
        yield bucket_proxy
    finally:
        await bucket_proxy.close()


@asynccontextmanager
async def running(folder: Path, origins: str, distributions: str) -> AsyncIterator[EdgeProcess]:
    """Runs an edge; its start and stop do not block the origins in this process."""
    starting = run_edge(folder, origins, workers=2, distributions=distributions)
    edge = await asyncio.to_thread(starting.__enter__)
    try:
        yield edge
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


def edge_config(s3: S3Server, bucket_proxy: BucketProxy) -> tuple[str, str]:
    """Origin and distributions of an edge in front of the proxy."""
    return ORIGIN.format(bucket=BUCKET, s3=s3, port=bucket_proxy.port), DISTRIBUTIONS


@pytest.fixture(scope="module", autouse=True)
def _bucket(s3: S3Server) -> None:
    s3.create_bucket(BUCKET)


async def send_request(
    edge: EdgeProcess,
    name: str,
    method: str = "GET",
    body: bytes = b"",
    *,
    host: str = "edge",
    **fields: str,
) -> Response:
    """Sends one request on a new connection."""
    async with open_viewer(edge.http_port) as viewer:
        if method != "GET":
            fields["content_length"] = str(len(body))
        await viewer.send(request(f"/{name}", method, host=host, **fields) + body)
        return await viewer.receive(method)


async def new_responses(edge: EdgeProcess, name: str, host: str = "edge") -> set[tuple[int, bytes]]:
    """The responses that new viewers receive."""
    responses = await asyncio.gather(
        *(send_request(edge, name, host=host) for _viewer in range(VIEWERS))
    )
    return {(response.status, response.body) for response in responses}


async def frame_sizes(edge: EdgeProcess) -> list[int]:
    """The sizes of the video frames of film.flv."""
    async with open_client(edge.rtmp_port, "vod") as client:
        client.play("film")
        received = samples(await client.until_named("NetStream.Play.Stop"))
        return [len(frame.body) for frame in received if frame.kind == VIDEO]


async def admin(edge: EdgeProcess, method: str, path: str) -> dict[str, Any]:
    """The JSON response of the admin address."""
    request = urllib.request.Request(f"http://127.0.0.1:{edge.admin_port}{path}", method=method)

    def read() -> bytes:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            body: bytes = response.read()
            return body

    document: dict[str, Any] = json.loads(await asyncio.to_thread(read))
    return document


async def until(condition: Callable[[], bool], what: str) -> None:
    """Waits until ``condition`` holds because of another process."""
    for _round in polls():
        if await asyncio.to_thread(condition):
            return
        await asyncio.to_thread(pause)
    raise TimeoutError(what)


async def until_metrics(edge: EdgeProcess, **expected: float) -> None:
    for name, value in expected.items():
        await until(lambda: metric(edge, f"streamedge_{name}") == value, f"{name} == {value}")  # noqa: B023


async def kill(edge: EdgeProcess) -> None:
    """Kills all processes of the edge at once."""
    os.killpg(edge.pid, signal.SIGKILL)
    await asyncio.to_thread(edge.process.wait)


def conflicts_in_log(edge: EdgeProcess) -> set[str]:
    """The objects whose writes were refused for a conflict."""
    lines = edge.log("write_not_replicated")
    return {line["object"] for line in lines if line["state"] == "conflict"}


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
    async with open_bucket_proxy(s3) as bucket_proxy:
        async with running(tmp_path, *edge_config(s3, bucket_proxy)) as edge:
            assert await new_responses(edge, "page") == {(200, b"0")}
            assert await new_responses(edge, "gone") == {(200, b"here")}
            assert set(await frame_sizes(edge)) == {FRAME_HEADER_BYTES + 500}
            await bucket_proxy.refuse()
            for body in (b"1", b"2", b"3"):
                assert (await send_request(edge, "page", "PUT", body)).status == 200
                assert await new_responses(edge, "page") == {(200, body)}
            assert (await send_request(edge, "film.flv", "PUT", film)).status == 200
            assert (await send_request(edge, "gone", "DELETE")).status == 204
            assert {status for status, _body in await new_responses(edge, "gone")} == {404}
            plays = await asyncio.gather(*(frame_sizes(edge) for _viewer in range(VIEWERS)))
            assert plays == [[FRAME_HEADER_BYTES + 700] * 50] * VIEWERS
            listed = await admin(edge, "GET", "/writes")
            assert sum(listed["by_state"].values()) == listed["accepted"] == 5
            assert listed["held_bytes"] == len(film) + 3
            waiting = [(row["method"], row["object"]) for row in listed["rows"]]
            assert sorted(waiting) == [
                ("DELETE", "gone"), *[("PUT", "film.flv")], *[("PUT", "page")] * 3
            ]  # fmt: skip
            await until_metrics(
                edge, queued_writes=5, dead_letters=0, queued_write_bytes=len(film) + 3
            )
            await kill(edge)
        assert bucket_has(s3, "page") == b"0"
        async with running(tmp_path, *edge_config(s3, bucket_proxy)) as edge:
            assert await new_responses(edge, "page") == {(200, b"3")}
            assert {status for status, _body in await new_responses(edge, "gone")} == {404}
            assert set(await frame_sizes(edge)) == {FRAME_HEADER_BYTES + 700}
            await bucket_proxy.accept()
            done = await asyncio.to_thread(edge.await_log, "write_replicated", 5)
            assert bucket_has(s3, "page") == b"3"
            assert bucket_has(s3, "film.flv") == film
            assert bucket_has(s3, "gone") is None
            of_page = [line["serial"] for line in done if line["object"] == "page"]
            assert len(of_page) == 3
            assert of_page == sorted(of_page)
            assert await new_responses(edge, "page") == {(200, b"3")}
            assert (await admin(edge, "GET", "/writes"))["done"] == 5
            await until_metrics(edge, queued_writes=0, queued_write_bytes=0)
            bodies = edge.cache / "writes" / "bodies"
            await until(lambda: not list(bodies.iterdir()), "the bodies to be removed")


async def test_conflict_is_a_dead_letter_until_the_operator_decides(
    tmp_path: Path, s3: S3Server
) -> None:
    etag = s3.put(BUCKET, "contested", b"first")
    async with (
        open_bucket_proxy(s3) as bucket_proxy,
        running(tmp_path, *edge_config(s3, bucket_proxy)) as edge,
    ):
        await bucket_proxy.refuse()
        for name in ("contested", "dropped"):
            condition = {"if_match": etag} if name == "contested" else {"if_none_match": "*"}
            assert (await send_request(edge, name, "PUT", b"mine", **condition)).status == 200
            assert await new_responses(edge, name) == {(200, b"mine")}
        refused = await send_request(edge, "contested", "PUT", b"x", if_match='"none of mine"')
        assert refused.status == 412  # compared with the pending write
        s3.put(BUCKET, "contested", b"theirs")
        s3.put(BUCKET, "dropped", b"theirs")
        await bucket_proxy.accept()
        await until_metrics(edge, queued_writes=0, dead_letters=2, queued_write_bytes=8)
        for name in ("contested", "dropped"):
            assert await new_responses(edge, name) == {(200, b"theirs")}
        listed = await admin(edge, "GET", "/writes")
        assert listed["by_state"]["conflict"] == 2
        serials = {row["object"]: row["serial"] for row in listed["rows"]}
        assert {row["state"] for row in listed["rows"]} == {"conflict"}
        assert all("412" in row["problem"] for row in listed["rows"])
        # The log also has the earlier attempts, from before the bucket was up again.
        await until(lambda: conflicts_in_log(edge) == set(serials), "the conflicts in the log")

        retry = f"/writes/{serials['contested']}/retry?unconditional=1"
        await admin(edge, "POST", retry)
        await admin(edge, "DELETE", f"/writes/{serials['dropped']}")
        await until_metrics(edge, queued_writes=0, dead_letters=0, queued_write_bytes=0)
        assert bucket_has(s3, "contested") == b"mine"
        assert bucket_has(s3, "dropped") == b"theirs"
        assert await new_responses(edge, "contested") == {(200, b"mine")}
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
                assert await new_responses(edge, "page", host) == {(200, b"old")}
            await first.refuse()
            before_write = len(first.requests)
            response = await send_request(
                edge, "page", "PUT", b"new", host=f"{written}.test", content_type="text/plain"
            )
            assert response.status == 200
            for host in hosts:  # the group does not use its other origin instead
                assert await new_responses(edge, "page", host) == {(200, b"new")}
            first.script(Reply(status=204))
            first.put("page", b"new", etag='"2"')
            await first.accept()
            await asyncio.to_thread(edge.await_log, "write_replicated")
            arrived = first.requests[before_write]
            assert (arrived.method, bytes(arrived.body)) == ("PUT", b"new")
            assert arrived.headers["content-type"] == "text/plain"
            for host in hosts:
                assert await new_responses(edge, "page", host) == {(200, b"new")}
                assert (await send_request(edge, "page", host=host)).fields["etag"] == '"2"'
            assert not any(request.method == "PUT" for request in second.requests)
