"""Accepting connections: PROXY headers, trusted proxies, and limits."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from streamedge.delivery.net.accept import PROXY_HEADER_S, Acceptor, AcceptRules, OnClose, Peer
from streamedge.ops.log import Log, open_log
from streamedge.ops.metrics import Counter, Counts
from tests.support.http.proxy_headers import V2_SIGNATURE, proxy_v1, proxy_v2
from tests.support.patience import PATIENCE_S

LOOPBACK = (ip_network("127.0.0.0/8"),)
REFUSAL = b"limit reached\n"


class Echo(asyncio.Protocol):
    """Sends the client's address, then echoes what it receives."""

    transport: asyncio.Transport

    def __init__(self, listener: Listener, peer: Peer, on_close: OnClose) -> None:
        self._listener = listener
        self._peer = peer
        self._on_close = on_close

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._listener.served.append(self)
        transport.write(f"{self._peer}\n".encode())
        if self._listener.is_full:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._listener.received.append(data)
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_close()
        self._listener.served.remove(self)
        self._listener.closed.release()


class Listener:
    """A listener with an ``Acceptor``; records its protocols and the data that they receive."""

    def __init__(self, acceptor: Acceptor, counts: Counts, log: Log, log_file: Path) -> None:
        self.acceptor = acceptor
        self.counts = counts
        self.served: list[Echo] = []
        self.received: list[bytes] = []
        self.closed = asyncio.Semaphore(0)
        self.is_full = False
        self.port = 0
        self._log = log
        self._log_file = log_file

    def lines(self) -> list[dict[str, Any]]:
        self._log.flush()
        return [json.loads(line) for line in self._log_file.read_text().splitlines()]

    def refusals(self) -> int:
        return self.counts.gathered(Counter.ERRORS, "test_proxy_header")


@asynccontextmanager
async def open_listener(
    folder: Path, rules: AcceptRules, *, is_proxied: bool = True
) -> AsyncIterator[Listener]:
    log_file = folder / "log"
    log_file.touch()
    log, counts = open_log(str(log_file), "test"), Counts()
    listener = Listener(Acceptor("test", rules, log, counts), counts, log, log_file)
    factory = listener.acceptor.protocol_factory(
        lambda peer, on_close: Echo(listener, peer, on_close),
        is_proxied=is_proxied,
        reject_response=REFUSAL,
    )
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        server.close()
        listener.acceptor.stop()
        for echo in list(listener.served):
            echo.transport.abort()
        await server.wait_closed()
        log.flush()
        log.close()


class Client:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.name = "{}:{}".format(*writer.get_extra_info("sockname"))

    async def line(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            return (await self.reader.readline()).decode().strip()

    async def read_to_end(self) -> bytes:
        """All data until the end of the connection, or b"" after a reset."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@asynccontextmanager
async def connecting(listener: Listener, data: bytes = b"") -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    try:
        writer.write(data)
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
async def proxied(tmp_path: Path) -> AsyncIterator[Listener]:
    async with open_listener(tmp_path, AcceptRules(LOOPBACK, waiting_max=2)) as listener:
        yield listener


async def test_peer_is_the_socket_address_without_a_proxy_header(tmp_path: Path) -> None:
    async with (
        open_listener(tmp_path, AcceptRules(LOOPBACK), is_proxied=False) as listener,
        connecting(listener, b"PROXY UNKNOWN\r\n") as client,
    ):
        assert await client.line() == client.name
        assert await client.line() == "PROXY UNKNOWN"


@pytest.mark.parametrize("header", [proxy_v1("192.0.2.1", 4711), proxy_v2("192.0.2.1", 4711)])
async def test_peer_is_the_source_of_the_proxy_header(proxied: Listener, header: bytes) -> None:
    async with connecting(proxied, header + b"hello\n") as client:
        assert await client.line() == "192.0.2.1:4711"
        assert await client.line() == "hello"
        client.writer.write(b"again\n")
        assert await client.line() == "again"
    assert not proxied.acceptor.waiting


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", V2_SIGNATURE + b"\x20\x00\x00\x00"])
async def test_proxy_header_without_an_address_leaves_the_socket_address(
    proxied: Listener, header: bytes
) -> None:
    async with connecting(proxied, header) as client:
        assert await client.line() == client.name


@pytest.mark.parametrize("header", [proxy_v1("2001:db8::1", 1), proxy_v2("2001:db8::1", 1)])
async def test_proxy_header_arrives_byte_by_byte(proxied: Listener, header: bytes) -> None:
    received: list[bytes] = []
    (factory,) = [
        proxied.acceptor.protocol_factory(lambda *_: RecordingProtocol(received), is_proxied=True)
    ]
    transport = FakeTransport(("127.0.0.1", 4711))
    pending = factory()
    pending.connection_made(transport)
    for number in range(len(header)):
        assert transport.protocol is None
        pending.data_received(header[number : number + 1])
    assert isinstance(transport.protocol, RecordingProtocol)
    assert received == []
    transport.protocol.data_received(b"hello")
    assert received == [b"hello"]


async def test_invalid_proxy_header_closes_the_connection_and_is_logged(proxied: Listener) -> None:
    async with connecting(proxied, b"GET / HTTP/1.1\r\n\r\n") as client:
        assert await client.read_to_end() == b""
        (line,) = proxied.lines()
        assert line["event"] == "proxy_header_refused"
        assert line["protocol"] == "test"
        assert line["client"] == client.name
        assert line["reason"] == "no PROXY header"
    assert not proxied.served
    assert proxied.refusals() == 1


async def test_refusals_are_all_counted_and_few_are_logged(proxied: Listener) -> None:
    for _again in range(20):
        async with connecting(proxied, b"\x03") as client:
            await client.read_to_end()
    lines = proxied.lines()
    assert proxied.refusals() == 20
    # The next line has the number of suppressed ones.
    now_s = asyncio.get_running_loop().time()
    proxied.acceptor.refused(Peer("192.0.2.1", 1), "again", now_s + 10.0)
    last = proxied.lines()[-1]
    assert len(lines) + sum(line.get("suppressed", 0) for line in [*lines, last]) == 20
    assert len(lines) < 20


async def test_proxy_header_is_accepted_from_a_listed_proxy_only(tmp_path: Path) -> None:
    rules = AcceptRules((ip_network("10.0.0.0/8"),))
    async with (
        open_listener(tmp_path, rules) as listener,
        connecting(listener, proxy_v1("10.0.0.1", 4711)) as client,
    ):
        assert await client.read_to_end() == b""
        assert [line["reason"] for line in listener.lines()] == [
            "the address is not in listen.proxies"
        ]
        assert not listener.served


async def test_connection_without_its_proxy_header_times_out(proxied: Listener) -> None:
    async with connecting(proxied, b"PROXY ") as client:
        await until_waiting(proxied, 1)
        (pending,) = proxied.acceptor.waiting
        proxied.acceptor.sweep(pending.began_s + PROXY_HEADER_S)
        assert proxied.acceptor.waiting == {pending}
        proxied.acceptor.sweep(pending.began_s + PROXY_HEADER_S + 0.1)
        assert await client.read_to_end() == b""
        assert [line["reason"] for line in proxied.lines()] == ["the PROXY header took too long"]


async def test_pending_connections_are_limited_and_closed_at_stop(proxied: Listener) -> None:
    async with connecting(proxied) as first, connecting(proxied) as second:
        await until_waiting(proxied, 2)
        async with connecting(proxied) as third:
            assert await third.read_to_end() == b""
        assert [line["reason"] for line in proxied.lines()] == [
            "too many connections wait for a PROXY header"
        ]
        proxied.acceptor.stop()
        assert await first.read_to_end() == await second.read_to_end() == b""
        assert not proxied.acceptor.waiting


@pytest.mark.parametrize(("data", "count"), [(b"", 0), (b"PROXY", 1)])
async def test_client_that_leaves_in_its_proxy_header_is_logged(
    proxied: Listener, data: bytes, count: int
) -> None:
    async with connecting(proxied, data) as client:
        await until_waiting(proxied, 1)
        (pending,) = proxied.acceptor.waiting
        await until(lambda: pending.received_bytes == len(data))
        client.writer.close()
        await client.read_to_end()
        await until_waiting(proxied, 0)
    assert proxied.refusals() == count


async def test_protocol_that_has_closed_receives_no_data(proxied: Listener) -> None:
    proxied.is_full = True
    async with connecting(proxied, proxy_v1("192.0.2.1", 4711) + b"hello") as client:
        await client.read_to_end()
        assert proxied.received == []


async def test_connections_of_an_address_are_limited(tmp_path: Path) -> None:
    rules = AcceptRules(LOOPBACK, per_address_max=2)
    async with open_listener(tmp_path, rules) as listener:
        one, other = proxy_v1("192.0.2.1", 1), proxy_v1("192.0.2.2", 1)
        async with (
            connecting(listener, one) as first,
            connecting(listener, proxy_v2("192.0.2.1", 9)) as second,
        ):
            await first.line()
            await second.line()
            async with connecting(listener, one) as third, connecting(listener, one) as fourth:
                assert await third.read_to_end() == REFUSAL
                assert await fourth.read_to_end() == REFUSAL
            async with connecting(listener, other) as another:
                assert await another.line() == "192.0.2.2:1"
            (line,) = listener.lines()
            assert line["event"] == "connections_per_address_refused"
            assert line["client"] == "192.0.2.1:1"
            assert line["limit"] == 2
            assert listener.counts.gathered(Counter.ERRORS, "test_connections_per_address") == 2
            second.writer.close()
            await listener.closed.acquire()  # the other address's
            await listener.closed.acquire()
            async with connecting(listener, one) as again:
                assert await again.line() == "192.0.2.1:1"
        await listener.closed.acquire()
        await listener.closed.acquire()
        assert listener.acceptor.stats() == {}


async def test_connections_of_a_proxy_itself_are_not_limited(tmp_path: Path) -> None:
    async with open_listener(tmp_path, AcceptRules(LOOPBACK, per_address_max=1)) as listener:
        for header in (proxy_v1("127.0.0.9", 1), b"PROXY UNKNOWN\r\n"):
            async with (
                connecting(listener, header) as first,
                connecting(listener, header) as second,
            ):
                assert await first.line()
                assert await second.line()
        assert listener.lines() == []


async def test_connection_that_closed_before_accept_is_aborted(proxied: Listener) -> None:
    transport = FakeTransport(None)
    pending = proxied.acceptor.protocol_factory(
        lambda *_: RecordingProtocol([]), is_proxied=False
    )()
    pending.connection_made(transport)
    assert transport.aborted
    assert transport.protocol is None
    pending.connection_lost(None)
    assert proxied.refusals() == 0


async def until_waiting(listener: Listener, count: int) -> None:
    await until(lambda: len(listener.acceptor.waiting) == count)


async def until(condition: Callable[[], bool]) -> None:
    """Runs the event loop until ``condition`` holds."""
    async with asyncio.timeout(PATIENCE_S):
        for _turn in itertools.count():
            if condition():
                return
            await asyncio.sleep(0)


class RecordingProtocol(asyncio.Protocol):
    """Records what it receives."""

    def __init__(self, received: list[bytes]) -> None:
        self._heard = received

    def data_received(self, data: bytes) -> None:
        self._heard.append(data)


class FakeTransport(asyncio.Transport):
    """A transport without a socket, with the given peer."""

    def __init__(self, peer: tuple[str, int] | None) -> None:
        super().__init__({"peername": peer})
        self.protocol: asyncio.BaseProtocol | None = None
        self.aborted = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize("is_proxied", [False, True])
async def test_connection_is_refused_when_few_descriptors_are_left(
    tmp_path: Path, is_proxied: bool
) -> None:
    free = os.dup(0)  # the number that the next descriptor gets
    os.close(free)
    rules = AcceptRules(LOOPBACK, descriptors_end=free + 20)
    async with (
        open_listener(tmp_path, rules, is_proxied=is_proxied) as listener,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(connecting(listener)) for _ in range(20)]
        assert await clients[-1].read_to_end() == REFUSAL
        refused = listener.counts.gathered(Counter.ERRORS, "test_descriptors")
        assert refused > 0
        (line,) = [line for line in listener.lines() if line["event"] == "connections_refused"]
        assert "RLIMIT_NOFILE" in line["reason"]


def test_text_of_a_peer_has_ipv6_in_brackets() -> None:
    assert str(Peer("192.0.2.1", 4000)) == "192.0.2.1:4000"
    assert str(Peer("2001:db8::1", 4000)) == "[2001:db8::1]:4000"
