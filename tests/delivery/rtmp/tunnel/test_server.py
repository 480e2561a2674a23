"""Tunnels over real connections, with a protocol behind them that echoes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.access.client_address import IpNetwork
from streamedge.delivery.net.accept import OnClose, Peer
from streamedge.delivery.net.writers import writer_to
from streamedge.delivery.rtmp.timers import CoalescedTimers
from streamedge.delivery.rtmp.tunnel.connection import (
    BODY_BYTES_MAX,
    HEAD_S,
    IDLE_S,
    TunnelConnection,
    TunnelLink,
)
from streamedge.delivery.rtmp.tunnel.peers import SLOTS_MAX, TunnelAddresses, bind_tunnel_peers
from streamedge.delivery.rtmp.tunnel.server import TunnelServer
from streamedge.delivery.rtmp.tunnel.session import (
    MEMORY_BYTES_MAX,
    REPEATED_BYTES_MAX,
    SILENCE_S,
    WAIT_S,
    Tunnel,
    TunnelTransport,
    TunnelWriter,
)
from streamedge.ops.shared_words import SharedWords
from tests.support.event_loop import until
from tests.support.garbage import count_of, no_garbage_collection
from tests.support.rtmp.tunnel_client import HttpConnection, open_connection, open_unix_connection


class Echo(asyncio.Protocol):
    """Sends back what it receives, and keeps it."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.received = bytearray()
        self.lost: list[Exception | None] = []
        self.echoes = True
        self.transport: TunnelTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TunnelTransport)
        self.transport = transport
        self.writer = writer_to(transport, asyncio.get_running_loop())

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.echoes:
            self.writer.send(data, more=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Tunnels:
    """Some workers in one event loop; ``ports`` are theirs."""

    def __init__(self) -> None:
        self.servers: list[TunnelServer] = []
        self.ports: list[int] = []
        self.sessions: list[Echo] = []
        self.forwarded_ends = 0
        self.addresses = TunnelAddresses()


@asynccontextmanager
async def tunnels(
    workers: int = 1, *, sessions_max: int = 8, proxies: Sequence[IpNetwork] = ()
) -> AsyncIterator[Tunnels]:
    running = Tunnels()

    def connect(peer: Peer, _on_close: OnClose) -> Echo:
        running.sessions.append(Echo(peer))
        return running.sessions[-1]

    def count_forwarded_end() -> None:
        running.forwarded_ends += 1

    loop = asyncio.get_running_loop()
    accepting = []
    for peers in bind_tunnel_peers(range(workers), running.addresses):
        server = TunnelServer(
            connect,
            proxies,
            peers,
            CoalescedTimers(loop),
            sessions_max=sessions_max,
            on_forwarded_end=count_forwarded_end,
        )
        await server.start()
        http = await loop.create_server(
            lambda server=server: server.connect(Peer("192.0.2.1", 1), lambda: None),  # type: ignore[misc]
            "127.0.0.1",
            0,
        )
        accepting.append(http)
        running.servers.append(server)
        running.ports.append(http.sockets[0].getsockname()[1])
    try:
        yield running
    finally:
        for server, http in zip(running.servers, accepting, strict=True):
            http.close()
            server.stop()
        running.addresses.close()
        await asyncio.sleep(0)


async def test_send_gets_what_the_session_sends_at_once() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        assert await client.request(f"/send/{session}/0", b"abc") == (200, b"\1abc")
        assert await client.request(f"/close/{session}/1") == (200, b"\1")
        assert running.sessions[0].lost == [None]
        assert await client.request(f"/idle/{session}/2") == (404, b"\0")


async def test_idle_is_held_until_there_is_data() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        client.send(f"/idle/{session}/0")
        await until(lambda: "held" in repr(running.servers[0]))
        running.sessions[0].writer.send(b"later", more=False)
        assert await client.receive() == (200, b"\1later")


async def test_idle_without_data_gets_a_poll_byte() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        began_s = asyncio.get_running_loop().time()
        assert await client.request(f"/idle/{session}/0") == (200, b"\1")
        assert asyncio.get_running_loop().time() - began_s >= 0.4


async def test_send_behind_a_held_idle_is_not_held() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        client.send(f"/idle/{session}/0")
        client.send(f"/send/{session}/1", b"now")
        assert await client.receive() == (200, b"\1")
        assert await client.receive() == (200, b"\1now")


@given(
    order=st.permutations(list(range(1, 9))),
    repeats=st.lists(st.integers(1, 8), max_size=4),
    connections=st.lists(st.integers(0, 2), min_size=12, max_size=12),
)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_requests_over_any_connections_in_any_order_deliver_each_byte_once(
    order: list[int], repeats: list[int], connections: list[int]
) -> None:
    async def run() -> None:
        async with (
            tunnels(2) as running,
            open_connection(running.ports[0]) as first,
            open_connection(running.ports[1]) as second,
            open_connection(running.ports[1]) as third,
        ):
            clients: list[HttpConnection] = [first, second, third]
            session = await first.open()
            await first.request(f"/send/{session}/0", b"\0\0\0")
            for arrival, number in enumerate([*order, *repeats]):
                target = f"/send/{session}/{number}"
                clients[connections[arrival]].send(target, bytes((number,)) * 3)
            expected = b"".join(bytes((number,)) * 3 for number in range(9))
            await until(lambda: len(running.sessions[0].received) >= len(expected))
            assert running.sessions[0].received == expected

    asyncio.run(run())


async def test_requests_reach_the_worker_that_has_the_session() -> None:
    async with tunnels(3) as running, open_connection(running.ports[2]) as elsewhere:
        async with open_connection(running.ports[0]) as client:
            session = await client.open()
            assert session.startswith("00")
            assert await elsewhere.request(f"/send/{session}/0", b"abc") == (200, b"\1abc")
            assert await client.request(f"/send/{session}/1", b"def") == (200, b"\1def")
            large = bytes(200_000)
            assert await elsewhere.request(f"/send/{session}/2", large) == (200, b"\1" + large)
        assert await elsewhere.request(f"/close/{session}/3") == (200, b"\1")
        foreign = f"09{session[2:]}"
        assert await elsewhere.request(f"/idle/{foreign}/0") == (404, b"\0")


@pytest.mark.parametrize("end", ["close", "elsewhere", "connection", "worker", "silence"])
async def test_session_of_another_worker_is_in_use_until_its_end(end: str) -> None:
    async with tunnels(2) as running, open_connection(running.ports[0]) as opening:
        owner, forwarder = running.servers
        session = await opening.open()
        async with open_connection(running.ports[1]) as client:
            unknown = f"00{'0' * 32}"
            assert await client.request(f"/idle/{unknown}/0") == (404, b"\0")
            assert not forwarder.forwards_sessions
            assert await client.request(f"/send/{session}/0", b"abc") == (200, b"\1abc")
            assert forwarder.forwards_sessions
            assert not owner.forwards_sessions
            ends = running.forwarded_ends
            if end == "close":
                assert await client.request(f"/close/{session}/1") == (200, b"\1")
            elif end == "elsewhere":
                assert await opening.request(f"/close/{session}/1") == (200, b"\1")
                assert forwarder.forwards_sessions
                assert await client.request(f"/idle/{session}/2") == (404, b"\0")
            elif end == "connection":
                client.close()
            elif end == "worker":
                owner.stop()
            else:
                now_s = asyncio.get_running_loop().time()
                forwarder.sweep(now_s + SILENCE_S - 1)
                assert forwarder.forwards_sessions
                forwarder.sweep(now_s + SILENCE_S + 1)
            await until(lambda: not forwarder.forwards_sessions)
            assert running.forwarded_ends > ends


async def test_other_workers_reach_sessions_but_open_none_and_go_no_further() -> None:
    async with tunnels(2) as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        async with open_unix_connection(running.addresses.of(0)) as own:
            assert await own.request(f"/send/{session}/0", b"abc") == (200, b"\1abc")
            assert await own.request("/open/1") == (404, b"\0")
        async with open_unix_connection(running.addresses.of(1)) as other:
            assert await other.request(f"/send/{session}/1", b"abc") == (404, b"\0")
        assert running.servers[0].stats()[0] == 1


async def test_worker_from_before_an_upgrade_reaches_sessions_of_later_ones() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as early:
        adopted = TunnelAddresses(SharedWords.adopt(os.dup(running.addresses.descriptor)))
        (peers,) = bind_tunnel_peers([3], adopted)
        loop = asyncio.get_running_loop()
        later = TunnelServer(
            lambda peer, _on_close: Echo(peer),
            (),
            peers,
            CoalescedTimers(loop),
            sessions_max=8,
            on_forwarded_end=lambda: None,
        )
        await later.start()
        http = await loop.create_server(
            lambda: later.connect(Peer("192.0.2.1", 1), lambda: None), "127.0.0.1", 0
        )
        running.servers[0].retire()
        async with open_connection(http.sockets[0].getsockname()[1]) as client:
            session = await client.open()
        assert session.startswith("03")
        assert await early.request(f"/send/{session}/0", b"abc") == (200, b"\1abc")
        assert not early.says_close  # it is no proxy's
        assert running.servers[0].has_clients
        http.close()
        later.stop()
        adopted.close()


async def test_connection_of_a_proxy_ends_behind_its_next_response_at_retirement() -> None:
    async with tunnels(proxies=[ip_network("192.0.2.1")]) as running:
        async with (
            open_connection(running.ports[0]) as proxy,
            open_connection(running.ports[0]) as direct,
        ):
            fields = "X-Forwarded-For: 198.51.100.7\r\n"
            session = await direct.open()
            assert await proxy.request(f"/send/{session}/0", b"a", fields=fields) == (200, b"\1a")
            assert not proxy.says_close
            running.servers[0].retire()
            assert await proxy.request(f"/send/{session}/1", b"b", fields=fields) == (200, b"\1b")
            assert proxy.says_close
            assert await proxy.is_closed()
            assert await direct.request(f"/send/{session}/2", b"c") == (200, b"\1c")
            assert not direct.says_close
        await until(lambda: not running.servers[0].has_clients)


@given(st.dictionaries(st.integers(0, SLOTS_MAX - 1), st.integers(0, (1 << 20) - 1)))
def test_addresses_are_read_as_the_kernel_has_made_them(digits: dict[int, int]) -> None:
    addresses = TunnelAddresses()
    for slot, number in digits.items():
        addresses.note(slot, b"\0%05x" % number)
    for slot in range(SLOTS_MAX):
        assert addresses.of(slot) == (b"\0%05x" % digits[slot] if slot in digits else b"")
    addresses.close()


async def test_processes_of_other_users_reach_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    async with tunnels(2) as running, open_connection(running.ports[1]) as elsewhere:
        async with open_connection(running.ports[0]) as client:
            session = await client.open()
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        async with open_unix_connection(running.addresses.of(0)) as foreign:
            foreign.send(f"/send/{session}/0", b"abc")
            assert await foreign.is_closed()
        # Nor does a worker send requests to a socket of another user.
        assert await elsewhere.request(f"/send/{session}/0", b"abc") == (404, b"\0")
        assert not running.sessions[0].received


async def test_lost_connection_of_a_long_response_leaves_no_hole() -> None:
    data = os.urandom(REPEATED_BYTES_MAX)
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        async with open_connection(running.ports[0]) as lost:
            lost.send(f"/send/{session}/0", data)
            await until(lambda: len(running.sessions[0].received) == len(data))
        assert await client.request(f"/send/{session}/0", data) == (404, b"\0")
        assert isinstance(running.sessions[0].lost[0], ConnectionResetError)


async def test_repeated_held_idle_takes_its_place() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        async with open_connection(running.ports[0]) as first:
            first.send(f"/idle/{session}/0")
            await until(lambda: "held" in repr(running.servers[0]))
            client.send(f"/idle/{session}/0")
            assert await first.receive() == (404, b"\0")
        running.sessions[0].writer.send(b"media", more=False)
        assert await client.receive() == (200, b"\1media")


async def test_half_closed_connection_gets_its_responses() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        client.send(f"/send/{session}/0", b"abc")
        client.send(f"/idle/{session}/1")
        client.send_end()
        assert await client.receive() == (200, b"\1abc")
        running.sessions[0].writer.send(b"media", more=False)
        assert await client.receive() == (200, b"\1media")
        assert await client.is_closed()


@pytest.mark.parametrize("target", ["/fcs/ident2", "/send/00/1", "/idle/" + "0" * 34 + "/0", "/x"])
async def test_unknown_requests_get_404_and_the_connection_stays(target: str) -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        assert await client.request(target) == (404, b"\0")
        assert await client.open()


async def test_repeated_request_gets_its_response_again() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        for _ in range(2):
            assert await client.request(f"/send/{session}/0", b"abc") == (200, b"\1abc")
        assert running.sessions[0].received == b"abc"


async def test_requests_that_wait_for_a_lost_one_get_404() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        client.send(f"/send/{session}/3", b"abc")
        await until(lambda: "1 waiting" in repr(running.servers[0]))
        now_s = asyncio.get_running_loop().time()
        running.servers[0].sweep(now_s + WAIT_S + 1)
        assert await client.receive() == (404, b"\0")
        assert not running.sessions[0].received


async def test_silent_session_ends() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        await client.open()
        now_s = asyncio.get_running_loop().time()
        running.servers[0].sweep(now_s + SILENCE_S - 1)
        assert not running.sessions[0].lost
        running.servers[0].sweep(now_s + SILENCE_S + 1)
        (cause,) = running.sessions[0].lost
        assert isinstance(cause, TimeoutError)
        assert running.servers[0].stats()[0] == 0


async def test_slow_and_idle_connections_are_closed() -> None:
    async with tunnels() as running:
        for data, state, after_s in (
            (b"POST /open/1 HTTP/1.1\r\nHo", "receiving b'/open/1'", HEAD_S),
            (b"", "idle", IDLE_S),
        ):
            async with open_connection(running.ports[0]) as client:
                client.send_raw(data)
                await until(lambda: f"[TunnelConnection({state}" in repr(running.servers[0]))  # noqa: B023
                running.servers[0].sweep(asyncio.get_running_loop().time() + after_s + 1)
                assert await client.is_closed()


async def test_sessions_are_limited() -> None:
    async with tunnels(sessions_max=1) as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        assert await client.request("/open/1") == (404, b"\0")
        running.servers[0].sessions_max = 2
        second = await client.open()
        running.servers[0].sessions_max = 1  # those that are open go on
        assert await client.request(f"/send/{second}/0", b"abc") == (200, b"\1abc")
        assert await client.request(f"/close/{second}/1") == (200, b"\1")
        assert await client.request(f"/close/{session}/0") == (200, b"\1")
        await client.open()


@pytest.mark.parametrize(
    ("fields", "proxies", "address"),
    [
        ("X-Forwarded-For: 198.51.100.7\r\n", ["192.0.2.0/24"], "198.51.100.7"),
        ("X-Forwarded-For: 198.51.100.7\r\n", [], "192.0.2.1"),
        (
            "x-forwarded-for: 203.0.113.1\r\nX-Forwarded-For: 198.51.100.7, 192.0.2.9\r\n",
            ["192.0.2.0/24"],
            "198.51.100.7",
        ),
        ("X-Forwarded-For: unknown\r\n", ["192.0.2.0/24"], "192.0.2.1"),
        ("", ["192.0.2.0/24"], "192.0.2.1"),
    ],
)
async def test_client_is_that_of_a_trusted_proxy(
    fields: str, proxies: list[str], address: str
) -> None:
    networks = [ip_network(proxy) for proxy in proxies]
    async with (
        tunnels(proxies=networks) as running,
        open_connection(running.ports[0]) as client,
    ):
        status, _session = await client.request("/open/1", fields=fields)
        assert status == 200
        assert running.sessions[0].peer.address == address
        # A field of a request counts for that request alone.
        await client.open()
        assert running.sessions[1].peer.address == "192.0.2.1"


async def test_stop_sends_the_last_bytes_and_ends_the_sessions() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        client.send(f"/idle/{session}/0")
        await until(lambda: "held" in repr(running.servers[0]))
        running.sessions[0].writer.send(b"bye", more=False)
        running.servers[0].stop()
        assert await client.receive() == (200, b"\1bye")
        assert await client.is_closed()
        assert running.sessions[0].lost == [None]
        await until(lambda: running.servers[0].stats() == (0, 0))


async def test_body_that_is_too_long_closes_the_connection() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        client.send(f"/send/{session}/0", bytes(BODY_BYTES_MAX + 1))
        assert await client.is_closed()
        assert not running.sessions[0].received


async def test_session_that_sends_much_waits_for_requests() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        writer, writable = running.sessions[0].writer, list[int]()
        assert writer.send(bytes(2 * MEMORY_BYTES_MAX), more=False) == MEMORY_BYTES_MAX
        with pytest.raises(BlockingIOError):
            writer.send(b"a", more=False)
        writer.watch(lambda: writable.append(1))
        status, body = await client.request(f"/idle/{session}/0")
        assert (status, len(body)) == (200, 1 + MEMORY_BYTES_MAX)
        await until(lambda: writable == [1])
        assert writer.send(b"a", more=False) == 1


async def test_session_that_closes_sends_its_last_bytes_first() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        running.sessions[0].writer.send(b"bye", more=False)
        running.sessions[0].transport.close()
        assert await client.request(f"/idle/{session}/0") == (200, b"\1bye")
        await until(lambda: running.sessions[0].lost == [None])
        assert await client.request(f"/idle/{session}/1") == (404, b"\0")


async def test_send_waits_while_the_session_reads_nothing() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        running.sessions[0].echoes = False
        running.sessions[0].transport.pause_reading()
        client.send(f"/send/{session}/0", b"abc")
        await until(lambda: running.sessions[0].received == b"abc")
        running.sessions[0].transport.resume_reading()
        assert await client.receive() == (200, b"\1")


@given(st.lists(st.binary(max_size=80), max_size=6))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_end_the_connection_or_get_responses(pieces: list[bytes]) -> None:
    async def run() -> None:
        async with tunnels() as running, open_connection(running.ports[0]) as client:
            client.send_raw(b"POST /idle")
            for piece in pieces:
                client.send_raw(piece)
                await asyncio.sleep(0)
            client.close()
            await until(lambda: running.servers[0].stats() == (0, 0))

    asyncio.run(run())


@pytest.mark.parametrize("is_forwarded", [False, True], ids=["here", "forwarded"])
async def test_lost_connection_is_freed_without_garbage_collection(is_forwarded: bool) -> None:
    kinds = (TunnelConnection, TunnelLink, Tunnel, TunnelTransport, TunnelWriter)
    with no_garbage_collection():
        before = {kind: count_of(kind) for kind in kinds}
        async with tunnels(2) as running:
            async with open_connection(running.ports[0]) as opening:
                session = await opening.open()
                async with open_connection(running.ports[is_forwarded]) as client:
                    assert (await client.request(f"/send/{session}/0", b"abc"))[1] == b"\1abc"
                    assert await client.request(f"/close/{session}/1") == (200, b"\1")
                running.sessions.clear()
            await until(lambda: {kind: count_of(kind) for kind in kinds} == before)


@pytest.mark.parametrize("end", ["close", "abort", "silence", "stop"])
async def test_ended_session_is_freed_without_garbage_collection(end: str) -> None:
    kinds = (Tunnel, TunnelTransport, TunnelWriter)
    with no_garbage_collection():
        before = {kind: count_of(kind) for kind in kinds}
        async with tunnels() as running, open_connection(running.ports[0]) as client:
            session = await client.open()
            assert await client.request(f"/send/{session}/0", b"abc") == (200, b"\1abc")
            (echo,) = running.sessions
            echo.writer.watch(lambda: None)
            if end == "close":
                echo.transport.close()
            elif end == "abort":
                echo.transport.abort()
            elif end == "silence":
                now_s = asyncio.get_running_loop().time()
                running.servers[0].sweep(now_s + SILENCE_S + 1)
            else:
                running.servers[0].stop()
            lost = echo.lost
            await until(lambda: bool(lost))
            running.sessions.clear()
            del echo
            await until(lambda: {kind: count_of(kind) for kind in kinds} == before)


async def test_transport_of_an_ended_session_does_nothing() -> None:
    async with tunnels() as running, open_connection(running.ports[0]) as client:
        session = await client.open()
        assert await client.request(f"/close/{session}/0") == (200, b"\1")
        (echo,) = running.sessions
        transport = echo.transport
        assert transport.is_closing()
        for call in (transport.close, transport.abort, transport.resume_reading):
            call()
        calls = list[int]()
        transport.set_protocol(echo)
        transport.when_writable(lambda: calls.append(1))
        transport.buffer_is_empty()
        with pytest.raises(ConnectionResetError):
            transport.writer()
        with pytest.raises(ConnectionResetError):
            echo.writer.send(b"late", more=False)
        assert calls == []
        assert echo.lost == [None]
