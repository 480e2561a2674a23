"""The HTTP client against servers that are scripted byte by byte, on both kinds of event loop."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.http_client import client as client_module
from streamedge.origin.http_client import pool as pool_module
from streamedge.origin.http_client.client import Client, Response
from streamedge.origin.http_client.connection import INTERIM_MAX, UNREAD_MAX_BYTES, Connection
from streamedge.origin.http_client.request import Endpoint, split_url
from streamedge.origin.http_client.response_parser import HEAD_MAX_BYTES
from streamedge.origin.http_client.tls import system_tls
from tests.support.certificate_authority import CertificateAuthority
from tests.support.event_loop import until
from tests.support.patience import PATIENCE_S

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

LOOP_FACTORIES = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Peer:
    """One connection as the server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        """The head of the next request, with its blank line."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def closed_by_client(self) -> None:
        """Waits until the client has dropped the connection."""
        with suppress(ConnectionError):
            while await self.reader.read(1 << 16):
                pass


Script = Callable[[Peer], Awaitable[None]]


class Server:
    """Plays each connection's script in turn; ``heads`` are the requests' heads it has seen.

    A script that fails fails the test at ``stop``.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._scripts: list[Script] = []
        self._listener: asyncio.Server | None = None

    async def start(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> str:
        self._scripts = list(scripts)
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls)
        self.port = self._listener.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{self.port}"

    async def ended(self, connection: int) -> None:
        """Waits until the script of the connection with that number, from 1, has ended."""
        async with asyncio.timeout(PATIENCE_S):
            await self._tasks[connection - 1]

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._play(self._scripts.pop(0), Peer(reader, writer)))
        self._tasks.append(task)

    async def _play(self, script: Script, peer: Peer) -> None:
        try:
            await script(peer)
        finally:
            peer.writer.transport.abort()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    yield server
    await server.stop()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = make_client()
    yield client
    await client.close()


def make_client(
    *,
    connect_timeout_s: float = 10,
    read_timeout_s: float = 10,
    connections_max: int = 8,
    total_timeout_s: float = 0,
    tls: Callable[[], ssl.SSLContext] = system_tls,
) -> Client:
    return Client(
        connect_timeout_s=connect_timeout_s,
        read_timeout_s=read_timeout_s,
        connections_max=connections_max,
        total_timeout_s=total_timeout_s,
        tls=tls,
    )


async def get(client: Client, url: str) -> Response:
    return await client.send("it", "GET", url, {})


async def read(response: Response) -> bytes:
    return b"".join([piece async for piece in response.body()])


async def failure_of(awaitable: Awaitable[object]) -> OriginFailure:
    with pytest.raises(OriginError) as caught:
        await awaitable
    assert str(caught.value).startswith("it: ")
    assert caught.value.__cause__ is not None
    return caught.value.failure


async def cancelled(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def answering(*answers: bytes) -> Script:
    """A script that answers requests without a body, one after the other."""

    async def script(peer: Peer) -> None:
        for answer in answers:
            await peer.head()
            await peer.send(answer)
        await peer.closed_by_client()

    return script


def closing(*answers: bytes) -> Script:
    """As ``answering``, but the connection ends after the last response."""

    async def script(peer: Peer) -> None:
        for answer in answers:
            await peer.head()
            await peer.send(answer)
        peer.writer.write_eof()
        await peer.closed_by_client()

    return script


# --- answers --------------------------------------------------------------------------------


async def test_response_fields_keep_their_order_and_case(server: Server, client: Client) -> None:
    fields = [
        ("X-B", "1"),
        ("Set-Cookie", "a=b"),
        ("x-a", "caf\xe9"),
        ("Set-Cookie", "c=d"),
        ("X-Empty", ""),
    ]
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    head = f"HTTP/1.1 207 So Many\r\n{lines}Content-Length: 3\r\n\r\n".encode("latin-1")
    url = await server.start(answering(head + b"abc"))
    response = await get(client, url)
    assert (response.status, response.reason, response.http_version) == (207, "So Many", "1.1")
    assert response.fields == [*fields, ("Content-Length", "3")]
    assert response.size_bytes == 3
    assert await read(response) == b"abc"
    assert response.trailers == []


@pytest.mark.parametrize(
    ("method", "head", "size_bytes"),
    [
        ("HEAD", b"200 OK\r\nContent-Length: 9\r\n", 0),
        ("HEAD", b"200 OK\r\nTransfer-Encoding: chunked\r\n", 0),
        ("GET", b"204 No Content\r\n", 0),
        ("GET", b"304 Not Modified\r\nContent-Length: 9\r\n", 0),
        ("GET", b"200 OK\r\nContent-Length: 0\r\n", 0),
    ],
)
async def test_response_without_a_body_is_empty(
    server: Server, client: Client, method: str, head: bytes, size_bytes: int
) -> None:
    url = await server.start(answering(b"HTTP/1.1 " + head + b"\r\n", OK))
    response = await client.send("it", method, url, {})
    assert response.size_bytes == size_bytes
    assert await read(response) == b""
    assert await read(await get(client, url)) == b"ok"
    assert server.connections == 1


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
CHUNKS = b"3\r\nabc\r\n5;x=y\r\ndefgh\r\n0\r\nX-Sum: 8\r\nX-Sum: 9\r\n\r\n"


@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_chunked_body_and_trailers_are_read_in_pieces_of_any_size(
    server: Server, client: Client, step: int
) -> None:
    answer = CHUNKED + CHUNKS

    async def script(peer: Peer) -> None:
        for _ in range(2):
            await peer.head()
            for at in range(0, len(answer), step):
                await peer.send(answer[at : at + step])
        await peer.closed_by_client()

    url = await server.start(script)
    for _ in range(2):
        response = await get(client, url)
        assert response.size_bytes is None
        assert await read(response) == b"abcdefgh"
        assert response.trailers == [("X-Sum", "8"), ("X-Sum", "9")]
    assert server.connections == 1


async def test_tiny_chunks_are_joined_into_larger_pieces(server: Server, client: Client) -> None:
    url = await server.start(answering(CHUNKED + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"))
    pieces = [piece async for piece in (await get(client, url)).body()]
    assert b"".join(pieces) == b"x" * 5000
    assert len(pieces) < 100


async def test_body_without_length_ends_with_the_connection(server: Server, client: Client) -> None:
    url = await server.start(
        closing(b"HTTP/1.0 200 OK\r\n\r\nall of it"), closing(b"HTTP/1.1 200 OK\r\n\r\n")
    )
    response = await get(client, url)
    assert response.size_bytes is None
    assert response.http_version == "1.0"
    assert await read(response) == b"all of it"
    assert await read(await get(client, url)) == b""
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"3\r\nabc\r\n0\r\n",
        CHUNKED + b"9\r\nabc",
        CHUNKED + b"3\r\nabc\r\nnonsense\r\n",
    ],
)
async def test_truncated_or_malformed_body_is_broken(
    server: Server, client: Client, answer: bytes
) -> None:
    url = await server.start(closing(answer))
    received = bytearray()

    async def receive() -> None:
        async for piece in (await get(client, url)).body():
            received.extend(piece)

    assert await failure_of(receive()) is OriginFailure.BROKEN
    assert received == b"abc"


async def test_reading_pauses_when_too_many_bytes_are_unread(
    server: Server, client: Client
) -> None:
    size_bytes = 32 << 20
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size_bytes)
        await go_on.wait()
        await peer.send(b"x" * size_bytes)
        await peer.closed_by_client()

    url = await server.start(script)
    response = await get(client, url)
    go_on.set()
    await until(lambda: response.unread.is_paused)
    assert UNREAD_MAX_BYTES <= response.unread.size_bytes < 2 * UNREAD_MAX_BYTES
    received_bytes = 0
    async for piece in response.pieces(size_bytes):
        received_bytes += len(piece)
        assert response.unread.size_bytes < 2 * UNREAD_MAX_BYTES
    assert received_bytes == size_bytes


# --- interim responses ----------------------------------------------------------------------


async def test_interim_responses_are_passed_to_the_caller(server: Server, client: Client) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\n"
    url = await server.start(answering(b"HTTP/1.1 102 Processing\r\n\r\n" + hints + OK, OK))
    seen: list[tuple[int, list[tuple[str, str]]]] = []
    response = await client.send(
        "it", "GET", url, {}, interim=lambda status, fields: seen.append((status, fields))
    )
    assert seen == [(102, []), (103, [("Link", "</a>"), ("Link", "</b>")])]
    assert await read(response) == b"ok"
    assert await read(await get(client, url)) == b"ok"
    assert server.connections == 1


async def test_too_many_interim_responses_are_unavailable(server: Server, client: Client) -> None:
    url = await server.start(
        answering(b"HTTP/1.1 102 Processing\r\n\r\n" * INTERIM_MAX + OK),
        answering(b"HTTP/1.1 102 Processing\r\n\r\n" * (INTERIM_MAX + 1) + OK),
    )
    (await get(client, url)).close()
    await client.close()
    other = make_client()
    assert await failure_of(get(other, url)) is OriginFailure.UNAVAILABLE
    await other.close()


async def test_exception_in_the_interim_callback_drops_the_connection(
    server: Server, client: Client
) -> None:
    url = await server.start(answering(b"HTTP/1.1 103 Early Hints\r\n\r\n"))

    def refuse(status: int, _: list[tuple[str, str]]) -> None:
        raise TimeoutError(f"{status}")

    with pytest.raises(TimeoutError, match="103"):
        await client.send("it", "GET", url, {}, interim=refuse)


# --- requests -------------------------------------------------------------------------------


async def sent_by(server: Server, client: Client, method: str, path: str, **more: object) -> bytes:
    """The head of a request as it reaches the server."""
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        heads.append(await peer.head())
        await peer.send(OK)
        await peer.closed_by_client()

    url = await server.start(script)
    response = await client.send("it", method, url + path, **more)  # type: ignore[arg-type]
    response.close()
    return heads[0].replace(str(server.port).encode(), b"PORT")


async def test_request_has_only_the_given_fields_and_host(server: Server, client: Client) -> None:
    head = await sent_by(server, client, "GET", "/a%2Fb/%7e'?q=%C3%A9&&x=?", headers={"X-A": " b "})
    assert head == (
        b"GET /a%2Fb/%7e'?q=%C3%A9&&x=? HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nX-A: b\r\n\r\n"
    )


async def test_fields_are_sent_in_order_and_host_may_be_overridden(
    server: Server, client: Client
) -> None:
    headers = [("Cookie", "a"), ("host", "example.org"), ("X-A", "\xe9"), ("X-A", "2")]
    head = await sent_by(server, client, "GET", "", headers=headers)
    assert head == (
        b"GET / HTTP/1.1\r\nhost: example.org\r\nCookie: a\r\nX-A: \xe9\r\nX-A: 2\r\n\r\n"
    )


async def test_put_without_a_body_has_length_0(server: Server, client: Client) -> None:
    head = await sent_by(server, client, "PUT", "/x?", headers={})
    assert head == b"PUT /x? HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("url", "endpoint", "host", "target"),
    [
        ("http://a.example", Endpoint(False, "a.example", 80), "a.example", "/"),
        ("HTTPS://A.example:443/b", Endpoint(True, "a.example", 443), "A.example", "/b"),
        ("http://a:8080?q#f", Endpoint(False, "a", 8080), "a:8080", "/?q"),
        ("http://127.0.0.1:443/", Endpoint(False, "127.0.0.1", 443), "127.0.0.1:443", "/"),
        ("http://[::1]:81/a:b@c", Endpoint(False, "::1", 81), "[::1]:81", "/a:b@c"),
        ("https://[2001:db8::1]/", Endpoint(True, "2001:db8::1", 443), "[2001:db8::1]", "/"),
    ],
)
def test_url_is_split(url: str, endpoint: Endpoint, host: str, target: str) -> None:
    assert split_url(url) == (endpoint, host, target)


@pytest.mark.parametrize(
    "url", ["ftp://a/", "//a/", "http://", "http://u@a/", "http://a:70000/", "http://a:0/", "http:"]
)
def test_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        split_url(url)


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/a b", {}), ("/é", {}), ("/", {"X": "a\r\nY: b"}), ("/", {"X Y": ""}), ("/", {"X": "☃"})],
)
async def test_invalid_request_opens_no_connection(
    client: Client, path: str, headers: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=r"request|encode"):
        await client.send("it", "GET", "http://127.0.0.1:9" + path, headers)


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_body_of_unknown_length_is_sent_in_chunks(server: Server, client: Client) -> None:
    bodies: list[bytes] = []

    async def script(peer: Peer) -> None:
        for _ in range(2):
            assert b"\r\nTransfer-Encoding: chunked\r\n" in await peer.head()
            bodies.append(await peer.reader.readuntil(b"0\r\n\r\n"))
            await peer.send(OK)
        await peer.closed_by_client()

    url = await server.start(script)
    for _ in range(2):
        response = await client.send("it", "POST", url, {}, body=stream(b"abc", b"", b"d" * 16))
        assert await read(response) == b"ok"
    assert bodies == [b"3\r\nabc\r\n10\r\n" + b"d" * 16 + b"\r\n0\r\n\r\n"] * 2
    assert server.connections == 1


async def test_trailers_are_sent_after_the_chunks(server: Server, client: Client) -> None:
    ends: list[bytes] = []
    trailers: list[tuple[str, str]] = []

    async def give() -> AsyncIterator[bytes]:
        yield b"abc"
        trailers.append(("X-Sum", " \xe9\t"))
        trailers.append(("Empty", ""))

    async def script(peer: Peer) -> None:
        await peer.head()
        ends.append(await peer.reader.readuntil(b"\r\n\r\n"))
        await peer.send(OK)
        await peer.closed_by_client()

    url = await server.start(script)
    response = await client.send("it", "POST", url, {}, body=give(), trailers=lambda: trailers)
    assert await read(response) == b"ok"
    assert ends == [b"3\r\nabc\r\n0\r\nX-Sum: \xe9\r\nEmpty: \r\n\r\n"]


async def test_body_of_known_length_is_sent_without_trailers(
    server: Server, client: Client
) -> None:
    rest: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.head()
        assert await peer.reader.readexactly(3) == b"abc"
        await peer.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        rest.append(await peer.reader.read())

    url = await server.start(script)
    headers = {"Content-Length": "3"}
    response = await client.send(
        "it", "PUT", url, headers, body=stream(b"abc"), trailers=lambda: [("X-Sum", "1")]
    )
    assert await read(response) == b""
    await server.ended(1)
    assert rest == [b""]


@pytest.mark.parametrize(
    "trailer", [("X Sum", "1"), ("X-Sum", "1\r\nHost: evil"), ("X-\u0141", "1")]
)
async def test_invalid_trailers_end_the_request(
    server: Server, client: Client, trailer: tuple[str, str]
) -> None:
    rest: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.head()
        rest.append(await peer.reader.read())

    url = await server.start(script)
    with pytest.raises(ValueError):
        await client.send("it", "PUT", url, {}, body=stream(b"abc"), trailers=lambda: [trailer])
    await server.ended(1)
    assert rest == [b"3\r\nabc\r\n"]


@pytest.mark.parametrize("is_whole", [True, False])
async def test_body_of_known_length_is_sent_with_its_length(
    server: Server, client: Client, is_whole: bool
) -> None:
    body = bytes(range(256)) * 4096  # more than one piece, and than buffers hold
    received: list[bytes] = []

    async def script(peer: Peer) -> None:
        for _ in range(2):
            head = await peer.head()
            assert b"ontent-Length: %d\r\n" % len(body) in head
            assert b"ransfer" not in head
            received.append(await peer.reader.readexactly(len(body)))
            await peer.send(OK)
        await peer.closed_by_client()

    url = await server.start(script)
    headers = {} if is_whole else {"content-Length": str(len(body))}
    for _ in range(2):
        sent_body = body if is_whole else stream(body[:1000], body[1000:])
        assert await read(await client.send("it", "PUT", url, headers, body=sent_body)) == b"ok"
    assert received == [body] * 2
    assert server.connections == 1


@pytest.mark.parametrize("size", ["4", "6"])
async def test_body_of_another_length_than_announced_is_refused(
    server: Server, client: Client, size: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.closed_by_client()

    url = await server.start(script)
    with pytest.raises(ValueError, match="Content-Length"):
        await client.send("it", "PUT", url, {"Content-Length": size}, body=stream(b"abcde"))


async def test_exception_of_the_body_is_raised_to_the_caller(
    server: Server, client: Client
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.closed_by_client()

    async def fail() -> AsyncIterator[bytes]:
        yield b"abc"
        raise TimeoutError("the viewer left")

    url = await server.start(script)
    with pytest.raises(TimeoutError, match="the viewer left"):
        await client.send("it", "PUT", url, {}, body=fail())


async def test_early_response_stops_the_body(server: Server, client: Client) -> None:
    stopped = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0)
        finally:
            stopped.set()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.reader.readexactly(1000)
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge")
        await peer.closed_by_client()

    url = await server.start(script, answering(OK))
    body = endless()
    response = await client.send("it", "PUT", url, {}, body=body)
    assert response.status == 413
    assert await read(response) == b"large"
    await body.aclose()
    assert stopped.is_set()
    assert await read(await get(client, url)) == b"ok"
    assert server.connections == 2


EXPECT = {"Expect": "100-continue", "Content-Length": "4"}


async def test_body_waits_for_100_continue(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CONTINUE_S", 100 * PATIENCE_S)

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.reader.readexactly(4) == b"body"
        await peer.send(OK)
        await peer.closed_by_client()

    url = await server.start(script)
    seen: list[int] = []
    async with asyncio.timeout(PATIENCE_S):
        response = await client.send(
            "it", "PUT", url, EXPECT, body=b"body", interim=lambda status, _: seen.append(status)
        )
    assert await read(response) == b"ok"
    assert seen == [100]


async def test_body_is_not_sent_after_a_refusal(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CONTINUE_S", PATIENCE_S)
    rest: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno")
        rest.append(await peer.reader.read())

    url = await server.start(script)
    response = await client.send("it", "PUT", url, EXPECT, body=b"body")
    assert response.status == 417
    assert await read(response) == b"no"
    await server.ended(1)
    assert rest == [b""]


async def test_wait_for_100_continue_is_limited(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CONTINUE_S", 0.01)

    async def script(peer: Peer) -> None:
        await peer.head()
        assert await peer.reader.readexactly(4) == b"body"
        await peer.send(OK)
        await peer.closed_by_client()

    url = await server.start(script)
    response = await client.send("it", "PUT", url, EXPECT, body=b"body")
    assert await read(response) == b"ok"


# --- connections ----------------------------------------------------------------------------


async def test_most_recently_used_connection_is_reused_first(
    server: Server, client: Client
) -> None:
    url = await server.start(answering(OK), answering(OK, OK, OK))
    first, second = await get(client, url), await get(client, url)
    await read(first)
    await read(second)
    for _ in range(2):
        await read(await get(client, url))
    assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "headers"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok", {}),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", {}),
        (OK, {"Connection": "close"}),
        (OK + b"!", {}),
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\n!", {}),
    ],
)
async def test_connection_that_cannot_be_reused_is_dropped(
    server: Server, client: Client, answer: bytes, headers: dict[str, str]
) -> None:
    url = await server.start(answering(answer), answering(OK))
    assert await read(await client.send("it", "GET", url, headers)) == b"ok"
    assert await read(await get(client, url)) == b"ok"
    assert server.connections == 2


async def test_closed_response_returns_its_connection_only_after_its_last_byte(
    server: Server, client: Client
) -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
    url = await server.start(answering(OK, half), answering(OK))
    for expected in (1, 1, 2):
        response = await get(client, url)
        response.close()
        response.close()
        assert server.connections == expected


async def test_unsolicited_bytes_end_an_idle_connection(server: Server, client: Client) -> None:
    sent = asyncio.Event()
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        await go_on.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        sent.set()
        await peer.closed_by_client()

    url = await server.start(script, answering(OK))
    assert await read(await get(client, url)) == b"ok"
    go_on.set()
    await sent.wait()
    assert await read(await get(client, url)) == b"ok"
    assert server.connections == 2


async def test_idle_connection_is_dropped_after_its_timeout(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "IDLE_CONNECTION_S", 0.01)
    url = await server.start(answering(OK), answering(OK))
    first, second = await get(client, url), await get(client, url)
    await read(first)
    await read(second)
    await server.ended(1)  # a script ends when the client has left
    await server.ended(2)


async def test_request_on_a_dead_connection_is_repeated_on_a_new_one(
    server: Server, client: Client
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        await peer.head()  # accepted, but without a response

    url = await server.start(script, answering(OK))
    for _ in range(2):
        assert await read(await get(client, url)) == b"ok"
    assert server.connections == 2


async def test_repeated_request_uses_no_other_idle_connection(
    server: Server, client: Client
) -> None:
    second_requests = 0

    async def script(peer: Peer) -> None:
        nonlocal second_requests
        await peer.head()
        await peer.send(OK)
        with suppress(asyncio.IncompleteReadError):
            await peer.head()
            second_requests += 1

    url = await server.start(script, script, answering(OK))
    first, second = await get(client, url), await get(client, url)
    await read(first)
    await read(second)
    assert await read(await get(client, url)) == b"ok"
    assert (second_requests, server.connections) == (1, 3)


async def test_failure_of_a_new_connection_is_not_repeated(server: Server, client: Client) -> None:
    url = await server.start(closing(b""))
    assert await failure_of(get(client, url)) is OriginFailure.BROKEN
    assert server.connections == 1


async def test_request_is_repeated_only_once(server: Server, client: Client) -> None:
    url = await server.start(closing(OK, b""), closing(b""))
    await read(await get(client, url))
    assert await failure_of(get(client, url)) is OriginFailure.BROKEN
    assert server.connections == 2


@pytest.mark.parametrize(("method", "body"), [("POST", None), ("PUT", b"x"), ("GET", "stream")])
async def test_non_idempotent_request_is_not_repeated(
    server: Server, client: Client, method: str, body: bytes | str | None
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        await peer.head()

    url = await server.start(script)
    await read(await get(client, url))
    source = stream(b"x") if isinstance(body, str) else body
    failure = await failure_of(client.send("it", method, url, {}, body=source))
    assert failure is OriginFailure.BROKEN
    assert server.connections == 1


async def test_request_with_a_begun_response_is_not_repeated(
    server: Server, client: Client
) -> None:
    url = await server.start(closing(OK, b"HTTP/1.1 200 O"))
    await read(await get(client, url))
    assert await failure_of(get(client, url)) is OriginFailure.BROKEN
    assert server.connections == 1


async def test_concurrent_connections_are_limited(server: Server) -> None:
    client = make_client(connections_max=2)
    url = await server.start(answering(OK, OK), answering(OK, OK))
    answers = [await get(client, url) for _ in range(2)]
    waiting = [asyncio.create_task(get(client, url)) for _ in range(3)]
    await cancelled(waiting.pop(0))  # a cancelled waiter takes no connection
    assert not any(task.done() for task in waiting)
    for answer in answers:
        await read(answer)
    for task in waiting:
        assert await read(await task) == b"ok"
    assert server.connections == 2
    await client.close()


async def test_wait_for_a_connection_counts_as_connecting(server: Server) -> None:
    client = make_client(connections_max=1, connect_timeout_s=0.5)
    url = await server.start(answering(OK, OK))
    held = await get(client, url)
    assert await failure_of(get(client, url)) is OriginFailure.REFUSED
    await read(held)
    assert await read(await get(client, url)) == b"ok"
    await client.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "https://[::1]:9/", "http://a..b/"])
async def test_failed_connect_is_refused(client: Client, url: str) -> None:
    assert await failure_of(get(client, url)) is OriginFailure.REFUSED


async def test_retired_client_keeps_no_idle_connection_and_breaks_no_response(
    server: Server,
) -> None:
    client = make_client(connections_max=2)
    go_on = asyncio.Event()

    async def halting(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        await go_on.wait()
        await peer.send(b"half")
        await peer.closed_by_client()

    url = await server.start(answering(OK), halting, answering(OK))
    idle, running = await get(client, url), await get(client, url)
    await read(idle)
    client.retire()
    await server.ended(1)  # it was idle
    go_on.set()
    assert await read(running) == b"halfhalf"
    await server.ended(2)
    await read(await get(client, url))  # a response that is being read continues
    await server.ended(3)
    assert server.connections == 3
    await client.close()


async def test_closed_client_breaks_running_responses_and_opens_no_connection(
    server: Server,
) -> None:
    client = make_client(connections_max=2)
    url = await server.start(
        answering(OK), answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    )
    first, second = await get(client, url), await get(client, url)
    waiting = asyncio.create_task(get(client, url))
    await read(first)
    await client.close()
    assert await failure_of(read(second)) is OriginFailure.BROKEN
    assert await failure_of(waiting) is OriginFailure.REFUSED
    assert await failure_of(get(client, url)) is OriginFailure.REFUSED
    assert server.connections == 2


# --- time -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 103 Early Hints\r\n\r\n"]
)
async def test_silence_before_the_response_times_out(server: Server, answer: bytes) -> None:
    client = make_client(read_timeout_s=0.05)
    url = await server.start(answering(answer))
    assert await failure_of(get(client, url)) is OriginFailure.TIMEOUT
    await client.close()


async def test_silence_within_a_body_times_out_and_drops_the_connection(server: Server) -> None:
    client = make_client(read_timeout_s=0.05, connections_max=1)
    url = await server.start(answering(CHUNKED + b"3\r\nab"), answering(OK))
    response = await get(client, url)
    assert await failure_of(read(response)) is OriginFailure.TIMEOUT
    assert await read(await get(client, url)) == b"ok"
    await client.close()


async def test_slow_request_body_does_not_time_out_the_origin(server: Server) -> None:
    client = make_client(read_timeout_s=0.05)
    received = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        await received.wait()
        # When this request times out, the other one would have timed out too.
        assert await failure_of(get(client, url)) is OriginFailure.TIMEOUT
        yield b"b"

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.reader.readexactly(1)
        received.set()
        await peer.reader.readexactly(1)
        await peer.send(OK)
        await peer.closed_by_client()

    url = await server.start(script, answering(b""))
    headers = {"Content-Length": "2"}
    assert await read(await client.send("it", "PUT", url, headers, body=slow())) == b"ok"
    await client.close()


@pytest.mark.parametrize("size_bytes", [3, 64 << 20])
async def test_origin_that_reads_no_body_or_sends_no_response_times_out(
    server: Server, size_bytes: int
) -> None:
    client = make_client(read_timeout_s=0.1)
    done = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await done.wait()

    url = await server.start(script)
    failure = await failure_of(client.send("it", "PUT", url, {}, body=bytes(size_bytes)))
    assert failure is OriginFailure.TIMEOUT
    done.set()
    await client.close()


async def test_request_body_is_read_only_as_fast_as_the_origin_reads_it(server: Server) -> None:
    client = make_client(read_timeout_s=0.1)
    done = asyncio.Event()
    given_count = 0

    async def give() -> AsyncIterator[bytes]:
        nonlocal given_count
        while given_count < 64:
            given_count += 1
            yield bytes(1 << 20)

    async def script(peer: Peer) -> None:
        await peer.head()
        await done.wait()

    url = await server.start(script)
    failure = await failure_of(client.send("it", "PUT", url, {}, body=give()))
    assert failure is OriginFailure.TIMEOUT
    assert given_count < 64
    done.set()
    await client.close()


async def test_total_timeout_ends_a_response_with_unread_bytes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(total_timeout_s=60)
    url = await server.start(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"))
    response = await get(client, url)
    loop = asyncio.get_running_loop()
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + 61)
    assert await failure_of(read(response)) is OriginFailure.TIMEOUT
    monkeypatch.undo()
    await client.close()


async def test_total_timeout_ends_a_slow_response(server: Server) -> None:
    client = make_client(total_timeout_s=0.5)

    async def drip(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        leaving = asyncio.ensure_future(peer.closed_by_client())
        while not (leaving.done() or peer.writer.is_closing()):
            peer.writer.write(b"x")
            await asyncio.sleep(0)

    url = await server.start(drip, answering(b""))
    assert await failure_of(read(await get(client, url))) is OriginFailure.TIMEOUT
    assert await failure_of(get(client, url)) is OriginFailure.TIMEOUT
    await client.close()


# --- malformed responses
# -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"\x15\x03\x01\x00\x02\x02\x0a",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n" + CHUNKS,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",  # an unrequested upgrade
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_MAX_BYTES + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000,
    ],
)
async def test_malformed_response_is_unavailable(
    server: Server, client: Client, answer: bytes
) -> None:
    url = await server.start(answering(answer))
    assert await failure_of(get(client, url)) is OriginFailure.UNAVAILABLE


async def test_long_fields_within_the_limit_are_accepted(server: Server, client: Client) -> None:
    value = b"x" * (HEAD_MAX_BYTES - 100)
    url = await server.start(
        answering(b"HTTP/1.1 200 OK\r\nX: " + value + b"\r\nContent-Length: 0\r\n\r\n")
    )
    response = await get(client, url)
    assert response.fields[0] == ("X", value.decode())
    response.close()


# --- upgrades -------------------------------------------------------------------------------


UPGRADE = {"Connection": "Upgrade", "Upgrade": "echo"}
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


async def test_upgrade_passes_bytes_both_ways(server: Server) -> None:
    client = make_client(connections_max=1)
    size_bytes = 4 << 20

    async def script(peer: Peer) -> None:
        assert b"Upgrade: echo\r\n" in await peer.head()
        await peer.send(SWITCHING + b"leading")
        await peer.send(await peer.reader.readexactly(4))
        received = await peer.reader.read()
        assert received == b"z" * size_bytes

    url = await server.start(script, answering(OK))
    response = await client.send("it", "GET", url, UPGRADE)
    assert response.status == 101
    assert ("Upgrade", "echo") in response.fields
    leading, duplex = response.upgrade()
    response.close()
    received = bytearray(leading)
    await duplex.write(b"echo")
    while len(received) < 11:
        received += await duplex.read()
    assert received == b"leadingecho"
    # More than the kernel accepts at once.
    writing = asyncio.create_task(duplex.write(b"z" * size_bytes))
    await asyncio.sleep(0)
    duplex.close()  # the written bytes are sent first
    duplex.close()
    await asyncio.gather(writing, return_exceptions=True)
    assert await read(await get(client, url)) == b"ok"
    await server.ended(1)
    await client.close()


async def test_upgraded_connection_has_no_time_limit(server: Server) -> None:
    client = make_client(read_timeout_s=0.1, total_timeout_s=0.1)

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCHING)
        await asyncio.sleep(0.3)
        await peer.send(b"late")
        await peer.closed_by_client()

    url = await server.start(script)
    _, duplex = (await client.send("it", "GET", url, UPGRADE)).upgrade()
    assert await duplex.read() == b"late"
    duplex.close()
    await client.close()


async def test_upgraded_connection_ends_orderly_or_broken(server: Server, client: Client) -> None:
    async def reset(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCHING)
        await peer.reader.readexactly(1)

    url = await server.start(closing(SWITCHING + b"bye"), reset)
    leading, duplex = (await client.send("it", "GET", url, UPGRADE)).upgrade()
    while piece := await duplex.read():
        leading += piece
    assert leading == b"bye"
    duplex.close()
    _, duplex = (await client.send("it", "GET", url, UPGRADE)).upgrade()
    await duplex.write(b"x")
    reading = asyncio.ensure_future(duplex.read())
    duplex.close()
    assert await failure_of(reading) is OriginFailure.BROKEN
    assert await failure_of(duplex.write(b"x")) is OriginFailure.BROKEN


async def test_refused_upgrade_is_a_response(server: Server, client: Client) -> None:
    url = await server.start(answering(OK, OK))
    response = await client.send("it", "GET", url, UPGRADE)
    with pytest.raises(ValueError, match="not an upgrade"):
        response.upgrade()
    assert await read(response) == b"ok"
    assert await read(await get(client, url)) == b"ok"
    assert server.connections == 1


# --- cancellation ---------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before the head", "after 100", "within the body"])
async def test_cancelled_wait_drops_the_connection(server: Server, when: str) -> None:
    client = make_client(connections_max=1)
    reached = asyncio.Event()
    sent = {
        "before the head": b"",
        "after 100": b"HTTP/1.1 100 Continue\r\n\r\n",
        "within the body": CHUNKED + b"3\r\nabc\r\n",
    }[when]

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(sent)
        if when == "before the head":
            reached.set()
        await peer.closed_by_client()

    async def send_request(url: str) -> None:
        response = await client.send(
            "it", "GET", url, {}, interim=lambda status, fields: reached.set()
        )
        async for _ in response.body():
            reached.set()

    url = await server.start(script, answering(OK))
    task: asyncio.Task[object] = asyncio.create_task(send_request(url))
    await reached.wait()
    await asyncio.sleep(0)
    await cancelled(task)
    assert await read(await get(client, url)) == b"ok"
    await server.ended(1)
    await client.close()


@pytest.mark.parametrize("when", ["waiting for a piece", "full", "waiting for 100"])
async def test_cancelled_upload_drops_the_connection(server: Server, when: str) -> None:
    client = make_client(connections_max=1)
    reached = asyncio.Event()
    left = asyncio.Event()
    go_on = asyncio.Event()

    async def give() -> AsyncGenerator[bytes, None]:
        try:
            if when == "full":
                yield b"x" * (64 << 20)
            yield b"x"
            reached.set()
            await asyncio.Event().wait()
        finally:
            left.set()

    async def script(peer: Peer) -> None:
        await peer.head()
        if when != "waiting for a piece":
            reached.set()
        await go_on.wait()
        await peer.closed_by_client()

    url = await server.start(script, answering(OK))
    headers = {"Expect": "100-continue"} if when == "waiting for 100" else {}
    body = give()
    task: asyncio.Task[object] = asyncio.create_task(
        client.send("it", "PUT", url, headers, body=body)
    )
    await reached.wait()
    await cancelled(task)
    await body.aclose()
    assert left.is_set() == (when != "waiting for 100")
    go_on.set()
    assert await read(await get(client, url)) == b"ok"
    assert not [task for task in asyncio.all_tasks() if "streamedge/origin/" in repr(task)]
    await server.ended(1)
    await client.close()


async def test_request_cancelled_at_any_step_leaks_no_connection_slot(server: Server) -> None:
    """A request is cancelled after 0, 1, 2, … iterations of the loop until it succeeds."""
    client = make_client(connections_max=1)

    async def script(peer: Peer) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await peer.head()
                await peer.send(CHUNKED)
                await peer.send(CHUNKS)

    async def send_request() -> bytes:
        return await read(await get(client, url))

    url = await server.start(*[script] * 500)
    for turns in range(1000):
        task = asyncio.create_task(send_request())
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert client.stats().leased == 0
        assert not client.stats().is_full
    assert task.result() == b"abcdefgh"
    await client.close()


async def test_close_during_a_read_breaks_the_body(server: Server, client: Client) -> None:
    url = await server.start(answering(CHUNKED + b"3\r\nabc\r\n"))
    response = await get(client, url)
    body = response.body()
    assert await anext(body) == b"abc"
    reading = asyncio.ensure_future(anext(body))
    await asyncio.sleep(0)
    response.close()
    assert await failure_of(reading) is OriginFailure.BROKEN


async def test_close_after_the_last_byte_arrived_breaks_an_unread_body(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader was woken for the last bytes, but the response is closed before it runs."""
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(CHUNKED)
        await go_on.wait()
        await peer.send(CHUNKS)
        await peer.closed_by_client()

    data_received = Connection.data_received

    def close_at_the_end(connection: Connection, data: bytes) -> None:
        data_received(connection, data)
        if connection.is_complete:
            response.close()

    monkeypatch.setattr(Connection, "data_received", close_at_the_end)
    url = await server.start(script)
    response = await get(client, url)
    reading = asyncio.ensure_future(anext(response.body()))
    await asyncio.sleep(0)
    go_on.set()
    assert await failure_of(reading) is OriginFailure.BROKEN


# --- TLS ------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


def server_tls(authority: CertificateAuthority, name: str) -> ssl.SSLContext:
    pair = authority.issue(name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


async def test_https_sends_the_host_name_and_reuses_the_connection(
    server: Server, authority: CertificateAuthority
) -> None:
    names: list[str | None] = []
    tls = server_tls(authority, "localhost")
    tls.sni_callback = lambda _, name, __: names.append(name)
    client = make_client(tls=authority.client)
    await server.start(answering(OK, CHUNKED + CHUNKS), tls=tls)
    url = f"https://localhost:{server.port}/"
    assert await read(await get(client, url)) == b"ok"
    assert await read(await get(client, url)) == b"abcdefgh"
    assert names == ["localhost"]
    assert server.connections == 1
    await client.close()


@pytest.mark.parametrize(("host", "is_trusted"), [("127.0.0.1", True), ("localhost", False)])
async def test_https_with_an_invalid_certificate_is_refused(
    server: Server, authority: CertificateAuthority, host: str, is_trusted: bool
) -> None:
    client = make_client(tls=authority.client if is_trusted else system_tls)
    await server.start(tls=server_tls(authority, "localhost"))
    with pytest.raises(OriginError, match="CERTIFICATE_VERIFY_FAILED") as caught:
        await get(client, f"https://{host}:{server.port}/")
    assert caught.value.failure is OriginFailure.REFUSED
    await client.close()


def test_import_makes_no_tls_context() -> None:
    code = (
        "import ssl; ssl.create_default_context = None\n"
        "import streamedge.origin.http_client.client, streamedge.origin.http.exchange"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)
