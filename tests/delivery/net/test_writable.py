"""streamedge/delivery/net/writable.py, on asyncio's and on uvloop's event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from streamedge.delivery.net.writable import watch_of
from tests.support.patience import PATIENCE_S

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [
    asyncio.new_event_loop,
    uvloop.new_event_loop,
]


def run(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], work: Coroutine[Any, Any, None]
) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(work)


class SlowPeer:
    """A transport whose socket is full."""

    async def open(self) -> None:
        near, self.far = socket.socketpair()
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        self.descriptor = self.transport.get_extra_info("socket").fileno()
        self.calls = 0
        self.called = asyncio.Event()
        with suppress(BlockingIOError):
            while True:
                near.send(bytes(65536), socket.MSG_DONTWAIT)

    def writable(self) -> None:
        self.calls += 1
        self.called.set()

    def read(self) -> None:
        self.far.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self.far.recv(1 << 20)

    def close(self) -> None:
        self.transport.abort()
        self.far.close()


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_only_the_peer_that_reads_is_called(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def work() -> None:
        peers = [SlowPeer() for _ in range(3)]
        watch = watch_of(asyncio.get_running_loop())
        assert watch_of(asyncio.get_running_loop()) is watch
        for peer in peers:
            await peer.open()
            watch.add(peer.descriptor, peer.writable)
        peers[1].read()
        async with asyncio.timeout(PATIENCE_S):
            await peers[1].called.wait()
        assert [bool(peer.calls) for peer in peers] == [False, True, False]
        watch.remove(peers[1].descriptor)
        calls = peers[1].calls
        peers[2].far.close()  # a lost connection is reported too
        async with asyncio.timeout(PATIENCE_S):
            await peers[2].called.wait()
        assert peers[1].calls == calls
        watch.remove(peers[0].descriptor)
        watch.remove(peers[2].descriptor)
        for peer in peers:
            peer.close()

    run(loop_factory, work())


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_socket_that_another_call_removes_is_not_called(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def work() -> None:
        peers = [SlowPeer() for _ in range(2)]
        watch = watch_of(asyncio.get_running_loop())

        def remove_both() -> None:
            for peer in peers:
                peer.calls += 1
                watch.remove(peer.descriptor)
                peer.called.set()

        for peer in peers:
            await peer.open()
            watch.add(peer.descriptor, remove_both)
        for peer in peers:
            peer.read()
        async with asyncio.timeout(PATIENCE_S):
            await peers[0].called.wait()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [peer.calls for peer in peers] == [1, 1]
        for peer in peers:
            peer.close()

    run(loop_factory, work())
