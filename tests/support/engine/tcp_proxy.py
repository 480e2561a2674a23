"""A TCP proxy in front of a server: it delays, cuts the link without a word, and drops an answer.

It runs in a thread of its own, so tests with and without an event loop control it alike.

    with run_proxy(server.port) as proxy:
        proxy.delay(0.040)
        engine = open_engine(f"redis://127.0.0.1:{proxy.port}/0", "fleet")
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

READ_BYTES = 1 << 16
T = TypeVar("T")


class TcpProxy:
    """Forwards connections to a port of the loopback address. Use ``run_proxy``."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        """Where the proxy listens."""
        self._target_port = target_port
        self._delay_s = 0.0
        self._fault: bytes | None = None
        self._pairs: set[_Pair] = set()
        self._loop = asyncio.new_event_loop()
        self._open: asyncio.Event | None = None  # forwarding; not set while the link is cut
        self._dropped = threading.Event()

    def delay(self, delay_s: float) -> None:
        """Delays all bytes from now on, each way."""
        self._delay_s = delay_s

    def cut(self) -> None:
        """Forwards nothing any more, without closing connections; new ones get no answer."""
        self._run(lambda event: event.clear())

    def restore(self) -> None:
        """Ends a cut; what was sent meanwhile arrives now."""
        self._run(lambda event: event.set())

    def close_connections(self) -> None:
        """Closes all connections; new ones are forwarded."""
        self._run(lambda _event: self._close_pairs())

    def switch(self, target_port: int) -> None:
        """Forwards new connections to another server, and closes the old ones: a failover."""
        self._target_port = target_port
        self.close_connections()

    def drop_answer(self, request: bytes) -> None:
        """Closes the connection, instead of forwarding it, when the answer to the next request with
        these bytes comes: the server has executed it."""
        self._dropped.clear()
        self._fault = request

    def wait_for_drop(self, timeout_s: float) -> bool:
        """Waits until an answer was dropped."""
        return self._dropped.wait(timeout_s)

    def run(self, started: threading.Event) -> None:
        """Runs the proxy until ``stop``; sets ``started`` when it listens."""
        self._loop.run_until_complete(self._serve(started))
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _serve(self, started: threading.Event) -> None:
        self._open, self._stopped = asyncio.Event(), asyncio.Event()
        self._open.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stopped.wait()
        server.close()
        self._close_pairs()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _close_pairs(self) -> None:
        for pair in list(self._pairs):
            pair.close()

    def _run(self, change: Callable[[asyncio.Event], object]) -> None:
        """Runs ``change`` in the proxy's thread, and waits for it."""

        async def changed() -> None:
            assert self._open is not None
            change(self._open)

        asyncio.run_coroutine_threadsafe(changed(), self._loop).result()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._open is not None
        await self._open.wait()
        try:
            server = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, server[1])
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._forward(reader, server[1], pair, from_client=True),
                self._forward(server[0], writer, pair, from_client=False),
            )
        finally:
            pair.close()
            self._pairs.discard(pair)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: _Pair,
        *,
        from_client: bool,
    ) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.create_task(self._send(pieces, writer))
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                if from_client and self._fault is not None and self._fault in data:
                    self._fault = None
                    pair.drops_answer = True
                elif not from_client and pair.drops_answer:
                    self._dropped.set()
                    pair.close()
                    break
                pieces.put_nowait((self._loop.time() + self._delay_s, data))
        pieces.put_nowait((self._loop.time() + self._delay_s, b""))
        await sending

    async def _send(
        self, pieces: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        assert self._open is not None
        with contextlib.suppress(OSError):
            while True:
                due_s, data = await pieces.get()
                wait_s = due_s - self._loop.time()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                await self._open.wait()
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()


class _Pair:
    """The two connections of one client."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._writers = (client, server)
        self.drops_answer = False

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@contextmanager
def run_proxy(target_port: int) -> Iterator[TcpProxy]:
    """A proxy until the block ends."""
    proxy = TcpProxy(target_port)
    started = threading.Event()
    thread = threading.Thread(target=proxy.run, args=[started])
    thread.start()
    started.wait()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join()
