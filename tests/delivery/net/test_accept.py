"""From accept to the protocol that serves: PROXY headers, whom they are believed from, and room."""

from __future__ import annotations

import asyncio
import errno
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
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counter, Counts
from tests.support.proxy_headers import V2_SIGNATURE, proxy_v1, proxy_v2

PATIENCE_S = 20.0
HERE = (ip_network("127.0.0.0/8"),)
REFUSAL = b"no room\n"


class Echo(asyncio.Protocol):
    """Serves by saying who it serves, then what it hears."""

    def __init__(self, acceptor: Door, peer: Peer, left: OnClose) -> None:
        self._door = acceptor
        self._peer = peer
        self._left = left

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._door.served.append(self)
        transport.write(f"{self._peer}\n".encode())
        if self._door.is_full:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._door.heard.append(data)
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._left()
        self._door.served.remove(self)
        self._door.gone.release()


class Door:
    """A listener behind ``Acceptor``, and what came through."""

    def __init__(self, acceptor: Acceptor, counts: Counts, log_file: Path) -> None:
        self.acceptor = acceptor
        self.counts = counts
        self.served: list[Echo] = []
        self.heard: list[bytes] = []
        self.gone = asyncio.Semaphore(0)
        self.is_full = False
        self.port = 0
        self._log_file = log_file

    def lines(self) -> list[dict[str, Any]]:
        self.acceptor._refused_header._log.flush()
        return [json.loads(line) for line in self._log_file.read_text().splitlines()]

    def refusals(self) -> int:
        return self.counts.gathered(Counter.ERRORS, "test_proxy_header")


@asynccontextmanager
async def listening(
    folder: Path, rules: AcceptRules, *, is_proxied: bool = True
) -> AsyncIterator[Door]:
    log_file = folder / "log"
    log_file.touch()
    log, counts = open_log(str(log_file), "test"), Counts()
    acceptor = Door(Acceptor("test", rules, log, counts), counts, log_file)
    factory = acceptor.acceptor.protocol_factory(
        lambda peer, left: Echo(acceptor, peer, left),
        is_proxied=is_proxied,
        reject_response=REFUSAL,
    )
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    acceptor.port = server.sockets[0].getsockname()[1]
    try:
        yield acceptor
    finally:
        server.close()
        acceptor.acceptor.stop()
        for echo in list(acceptor.served):
            echo._transport.abort()
        await server.wait_closed()
        log.flush()
        log.close()


class Caller:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.name = "{}:{}".format(*writer.get_extra_info("sockname"))

    async def line(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            return (await self.reader.readline()).decode().strip()

    async def ended(self) -> bytes:
        """All that comes until the end, polite or not."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@asynccontextmanager
async def calling(acceptor: Door, said: bytes = b"") -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", acceptor.port)
    try:
        writer.write(said)
        yield Caller(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
async def proxied(tmp_path: Path) -> AsyncIterator[Door]:
    async with listening(tmp_path, AcceptRules(HERE, waiting_max=2)) as acceptor:
        yield acceptor


async def test_peer_is_the_socket_address_without_a_proxy_header(tmp_path: Path) -> None:
    async with (
        listening(tmp_path, AcceptRules(HERE), is_proxied=False) as acceptor,
        calling(acceptor, b"PROXY UNKNOWN\r\n") as caller,
    ):
        assert await caller.line() == caller.name
        assert await caller.line() == "PROXY UNKNOWN", "a header is bytes like others here"


@pytest.mark.parametrize("header", [proxy_v1("192.0.2.1", 4711), proxy_v2("192.0.2.1", 4711)])
async def test_peer_is_the_source_of_the_proxy_header(proxied: Door, header: bytes) -> None:
    async with calling(proxied, header + b"hello\n") as caller:
        assert await caller.line() == "192.0.2.1:4711"
        assert await caller.line() == "hello"
        caller.writer.write(b"again\n")
        assert await caller.line() == "again"
    assert not proxied.acceptor.waiting


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", V2_SIGNATURE + b"\x20\x00\x00\x00"])
async def test_proxy_header_without_an_address_leaves_the_socket_address(
    proxied: Door, header: bytes
) -> None:
    async with calling(proxied, header) as caller:
        assert await caller.line() == caller.name


@pytest.mark.parametrize("header", [proxy_v1("2001:db8::1", 1), proxy_v2("2001:db8::1", 1)])
async def test_a_header_may_come_byte_by_byte(proxied: Door, header: bytes) -> None:
    heard: list[bytes] = []
    (factory,) = [proxied.acceptor.protocol_factory(lambda *_: Hearing(heard), is_proxied=True)]
    transport = Fake(("127.0.0.1", 4711))
    arrival = factory()
    arrival.connection_made(transport)
    for number in range(len(header)):
        assert transport.protocol is None
        arrival.data_received(header[number : number + 1])
    assert isinstance(transport.protocol, Hearing)
    assert heard == [], "nothing has come behind it"
    transport.protocol.data_received(b"hello")
    assert heard == [b"hello"]


async def test_invalid_proxy_header_closes_the_connection_and_is_logged(proxied: Door) -> None:
    async with calling(proxied, b"GET / HTTP/1.1\r\n\r\n") as caller:
        assert await caller.ended() == b""
        (line,) = proxied.lines()
        assert line["event"] == "proxy_header_refused"
        assert line["protocol"] == "test"
        assert line["client"] == caller.name
        assert line["reason"] == "no PROXY header"
    assert not proxied.served
    assert proxied.refusals() == 1


async def test_lines_are_few_and_the_count_is_whole(proxied: Door) -> None:
    for _again in range(20):
        async with calling(proxied, b"\x03") as caller:
            await caller.ended()
    said = proxied.lines()
    assert proxied.refusals() == 20
    # The next line has the number of suppressed ones.
    now_s = asyncio.get_running_loop().time()
    proxied.acceptor.refused(Peer("192.0.2.1", 1), "again", now_s + 10.0)
    last = proxied.lines()[-1]
    assert len(said) + sum(line.get("suppressed", 0) for line in [*said, last]) == 20
    assert len(said) < 20


async def test_proxy_header_is_accepted_from_a_listed_proxy_only(tmp_path: Path) -> None:
    rules = AcceptRules((ip_network("10.0.0.0/8"),))
    async with (
        listening(tmp_path, rules) as acceptor,
        calling(acceptor, proxy_v1("10.0.0.1", 4711)) as caller,
    ):
        assert await caller.ended() == b""
        assert [line["reason"] for line in acceptor.lines()] == [
            "the address is not in listen.proxies"
        ]
        assert not acceptor.served


async def test_a_header_must_come_in_time(proxied: Door) -> None:
    async with calling(proxied, b"PROXY ") as caller:
        await until_waiting(proxied, 1)
        (arrival,) = proxied.acceptor.waiting
        proxied.acceptor.sweep(arrival.began_s + PROXY_HEADER_S)
        assert proxied.acceptor.waiting == {arrival}
        proxied.acceptor.sweep(arrival.began_s + PROXY_HEADER_S + 0.1)
        assert await caller.ended() == b""
        assert [line["reason"] for line in proxied.lines()] == ["the PROXY header took too long"]


async def test_those_that_wait_are_bounded_and_stopped(proxied: Door) -> None:
    async with calling(proxied) as first, calling(proxied) as second:
        await until_waiting(proxied, 2)
        async with calling(proxied) as third:
            assert await third.ended() == b""
        assert [line["reason"] for line in proxied.lines()] == [
            "too many connections wait for a PROXY header"
        ]
        proxied.acceptor.stop()
        assert await first.ended() == await second.ended() == b""
        assert not proxied.acceptor.waiting


@pytest.mark.parametrize(("said", "count"), [(b"", 0), (b"PROXY", 1)])
async def test_client_that_leaves_in_its_proxy_header_is_logged(
    proxied: Door, said: bytes, count: int
) -> None:
    async with calling(proxied, said) as caller:
        await until_waiting(proxied, 1)
        (arrival,) = proxied.acceptor.waiting
        await until(lambda: arrival._received == said)
        caller.writer.close()
        await caller.ended()
        await until_waiting(proxied, 0)
    assert proxied.refusals() == count


async def test_nothing_is_handed_to_a_protocol_that_has_closed(proxied: Door) -> None:
    proxied.is_full = True
    async with calling(proxied, proxy_v1("192.0.2.1", 4711) + b"hello") as caller:
        await caller.ended()
        assert proxied.heard == []


async def test_connections_of_an_address_are_bounded(tmp_path: Path) -> None:
    rules = AcceptRules(HERE, per_address_max=2)
    async with listening(tmp_path, rules) as acceptor:
        one, other = proxy_v1("192.0.2.1", 1), proxy_v1("192.0.2.2", 1)
        async with (
            calling(acceptor, one) as first,
            calling(acceptor, proxy_v2("192.0.2.1", 9)) as second,
        ):
            await first.line()
            await second.line()
            async with calling(acceptor, one) as third, calling(acceptor, one) as fourth:
                assert await third.ended() == REFUSAL
                assert await fourth.ended() == REFUSAL
            async with calling(acceptor, other) as another:
                assert await another.line() == "192.0.2.2:1"
            (line,) = acceptor.lines()
            assert line["event"] == "connections_per_address_refused"
            assert line["client"] == "192.0.2.1:1"
            assert line["limit"] == 2
            assert acceptor.counts.gathered(Counter.ERRORS, "test_connections_per_address") == 2
            second.writer.close()
            await acceptor.gone.acquire()  # the other address's
            await acceptor.gone.acquire()
            async with calling(acceptor, one) as again:
                assert await again.line() == "192.0.2.1:1"
        await acceptor.gone.acquire()
        await acceptor.gone.acquire()
        assert acceptor.acceptor._open == {}


async def test_a_proxys_own_connections_are_not_bounded(tmp_path: Path) -> None:
    async with listening(tmp_path, AcceptRules(HERE, per_address_max=1)) as acceptor:
        for header in (proxy_v1("127.0.0.9", 1), b"PROXY UNKNOWN\r\n"):
            async with calling(acceptor, header) as first, calling(acceptor, header) as second:
                assert await first.line()
                assert await second.line()
        assert acceptor.lines() == []


async def test_a_connection_that_was_gone_before_it_was_looked_at(proxied: Door) -> None:
    transport = Fake(None)
    arrival = proxied.acceptor.protocol_factory(lambda *_: Hearing([]), is_proxied=False)()
    arrival.connection_made(transport)
    assert transport.aborted
    assert transport.protocol is None
    arrival.connection_lost(None)
    assert proxied.refusals() == 0


async def until_waiting(acceptor: Door, count: int) -> None:
    await until(lambda: len(acceptor.acceptor.waiting) == count)


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until ``condition`` holds."""
    async with asyncio.timeout(PATIENCE_S):
        for _turn in itertools.count():
            if condition():
                return
            await asyncio.sleep(0)


class Hearing(asyncio.Protocol):
    """Keeps what it hears."""

    def __init__(self, heard: list[bytes]) -> None:
        self._heard = heard

    def data_received(self, data: bytes) -> None:
        self._heard.append(data)


class Fake(asyncio.Transport):
    """A transport of nothing, whose peer is as told."""

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
async def test_connection_that_would_take_the_files_descriptors_is_refused(
    tmp_path: Path, is_proxied: bool
) -> None:
    free = os.dup(0)  # the number that the next descriptor gets
    os.close(free)
    rules = AcceptRules(HERE, descriptors_end=free + 20)
    async with (
        listening(tmp_path, rules, is_proxied=is_proxied) as acceptor,
        AsyncExitStack() as stack,
    ):
        callers = [await stack.enter_async_context(calling(acceptor)) for _ in range(20)]
        assert await callers[-1].ended() == REFUSAL
        refused = acceptor.counts.gathered(Counter.ERRORS, "test_descriptors")
        assert refused > 0
        (line,) = [line for line in acceptor.lines() if line["event"] == "connections_refused"]
        assert "RLIMIT_NOFILE" in line["reason"]


async def test_connection_that_cannot_have_a_second_descriptor_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    rules = AcceptRules(HERE, descriptors_end=1 << 30)
    async with listening(tmp_path, rules, is_proxied=False) as acceptor:
        async with calling(acceptor) as caller:
            assert await caller.line() == caller.name
        monkeypatch.setattr(os, "dup", refuse)
        async with calling(acceptor) as caller:
            assert await caller.ended() == REFUSAL
