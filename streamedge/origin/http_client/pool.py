"""The connection pool of one origin: its limit, connecting (DNS, TLS), and idle connections.

``connection`` speaks HTTP; ``client`` classifies failures.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiohappyeyeballs import AddrInfoType, start_connection

from streamedge.origin.http_client.connection import Connection
from streamedge.origin.http_client.request import Endpoint

RESERVED_FRACTION = 4  # one connection in four is reserved for requests without a streamed body
IDLE_CONNECTION_S = 15.0  # below the usual 60 s of servers: then few are closed by the peer
NEXT_ADDRESS_S = 0.25  # before the next address is tried in parallel (RFC 8305 §5)

_CLOSED = "no connection: the pool is closed"


class NoConnectionError(Exception):
    """No connection; the message has the reason, ``__cause__`` is the error."""


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The connections of a pool: ``leased`` to requests, and ``idle``. ``is_full``: a further
    request waits.
    """

    leased: int
    idle: int
    is_full: bool


class Slots:
    """A fair semaphore whose free slots can also be taken without a coroutine."""

    __slots__ = ("_free", "_waiting")

    def __init__(self, count: int) -> None:
        self._free = count  # above 0 only while nothing waits
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def are_taken(self) -> bool:
        """Whether a further request waits."""
        return not self._free

    def take(self) -> bool:
        """Takes a slot if one is free; whether it did."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def acquire(self) -> None:
        """Waits for a slot, behind all that wait already."""
        if self.take():
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.release()  # it was given the slot in the iteration in which it was cancelled
            raise

    def release(self) -> None:
        """Gives a slot to the longest waiting request, or frees it."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1


class Pool:
    """At most ``connections_max`` connections in use at a time; ``tls`` makes the one TLS
    context, in a thread, when it is first needed. ``server_name``: the name that the server's
    certificate must have; "": the host's.

    A connection from ``lease`` must be returned by ``release``, in any state.
    """

    def __init__(
        self, connections_max: int, tls: Callable[[], ssl.SSLContext], server_name: str = ""
    ) -> None:
        self._slots = Slots(connections_max)
        # A streamed body is as slow as its viewer, so requests with one may not use all
        # connections.
        reserved = max(1, connections_max // RESERVED_FRACTION)
        self._body_slots = Slots(max(1, connections_max - reserved))
        self._streaming: set[Connection] = set()
        self._make_tls = tls
        self._server_name = server_name
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = asyncio.Lock()
        self._leased: dict[Connection, Endpoint] = {}
        self._idle: dict[Endpoint, list[Connection]] = {}  # the longest idle first
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._is_retired = False
        self._is_closed = False

    async def lease(
        self,
        endpoint: Endpoint,
        until_s: float,
        *,
        only_new: bool = False,
        streams_body: bool = False,
    ) -> tuple[Connection, bool]:
        """A connection to ``endpoint``, before the loop's time ``until_s``, and whether it was used
        before. The most recently used one is reused, because it is most likely still open, unless
        ``only_new``. ``streams_body``: the request has a streamed body. Raises NoConnectionError.
        """
        if not only_new:
            idle = self.lease_idle(endpoint, streams_body=streams_body)
            if idle is not None:
                return idle, True
        try:
            async with asyncio.timeout_at(until_s):
                await self._acquire(streams_body)
                try:
                    if self._is_closed:
                        raise NoConnectionError(_CLOSED)
                    connection = None if only_new else self._idle_connection(endpoint)
                    is_reused = connection is not None
                    if connection is None:
                        connection = await self._connect(endpoint)
                except BaseException:
                    self._release_slots(streams_body)
                    raise
        except TimeoutError as exc:
            raise NoConnectionError("no connection within the connect timeout") from exc
        except (OSError, UnicodeError) as exc:  # UnicodeError: an invalid host name
            raise NoConnectionError(f"no connection: {exc}") from exc
        self._lend(connection, endpoint, streams_body)
        if self._is_closed:
            self.release(connection)
            raise NoConnectionError(_CLOSED)
        return connection, is_reused

    def lease_idle(self, endpoint: Endpoint, *, streams_body: bool = False) -> Connection | None:
        """As ``lease``, without waiting: an idle connection; None if there is none, or no slot."""
        if self._slots.are_taken or (streams_body and self._body_slots.are_taken):
            return None
        connection = self._idle_connection(endpoint)
        if connection is not None:
            self._slots.take()
            if streams_body:
                self._body_slots.take()
            self._lend(connection, endpoint, streams_body)
        return connection

    def release(self, connection: Connection) -> None:
        """Returns ``connection``: keeps it for another request if it is reusable, else drops it."""
        endpoint = self._leased.pop(connection, None)
        if endpoint is None:
            return
        self._release_slots(connection in self._streaming)
        self._streaming.discard(connection)
        if self._is_closed or self._is_retired or not connection.recycle():
            connection.abort()
            return
        connection.begin_idle()
        self._idle.setdefault(endpoint, []).append(connection)
        if self._sweep_timer is None:
            loop = asyncio.get_running_loop()
            self._sweep_timer = loop.call_later(IDLE_CONNECTION_S, self._sweep)

    def _lend(self, connection: Connection, endpoint: Endpoint, streams_body: bool) -> None:
        self._leased[connection] = endpoint
        if streams_body:
            self._streaming.add(connection)

    async def _acquire(self, streams_body: bool) -> None:
        if not streams_body:
            await self._slots.acquire()
            return
        await self._body_slots.acquire()
        try:
            await self._slots.acquire()
        except BaseException:
            self._body_slots.release()
            raise

    def _release_slots(self, streams_body: bool) -> None:
        self._slots.release()
        if streams_body:
            self._body_slots.release()

    def stats(self) -> PoolStats:
        """The connections now."""
        return PoolStats(
            leased=len(self._leased),
            idle=sum(map(len, self._idle.values())),
            is_full=self._slots.are_taken,
        )

    def retire(self) -> None:
        """Drops idle connections, now and from now on; no new requests are expected."""
        self._is_retired = True
        self._drop_idle()

    def close(self) -> None:
        """Drops all connections, also those in use, and opens no more."""
        self._is_closed = True
        for connection in list(self._leased):
            connection.abort()
        self._drop_idle()

    def _drop_idle(self) -> None:
        self._drop_idle_since(float("inf"))
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None

    def _idle_connection(self, endpoint: Endpoint) -> Connection | None:
        idle = self._idle.get(endpoint)
        while idle:
            connection = idle.pop()
            if connection.is_quiet():
                return connection
            connection.abort()
        return None

    async def _connect(self, endpoint: Endpoint) -> Connection:
        loop = asyncio.get_running_loop()
        context = await self._tls_context() if endpoint.is_tls else None
        server_name = self._server_name or endpoint.host.rstrip(".")
        sock = await start_connection(
            await _addresses(endpoint), happy_eyeballs_delay=NEXT_ADDRESS_S, interleave=1
        )
        try:
            _, connection = await loop.create_connection(
                Connection,
                sock=sock,
                ssl=context,
                # Certificates have names without a trailing dot (RFC 6066 §3).
                server_hostname=server_name if endpoint.is_tls else None,
            )
        except BaseException:
            if not isinstance(loop, asyncio.BaseEventLoop):
                # uvloop has closed the descriptor already; the socket object would do so once more,
                # and by then the number may be that of another file.
                sock.detach()
            raise
        return connection

    async def _tls_context(self) -> ssl.SSLContext:
        async with self._tls_lock:
            if self._tls is None:
                self._tls = await asyncio.to_thread(self._make_tls)
            return self._tls

    def _sweep(self) -> None:
        """Drops connections that were idle for too long, and schedules the next sweep."""
        loop = asyncio.get_running_loop()
        self._sweep_timer = None
        self._drop_idle_since(loop.time() - IDLE_CONNECTION_S)
        if self._idle:
            oldest_s = min(idle[0].idle_since_s for idle in self._idle.values())
            self._sweep_timer = loop.call_at(oldest_s + IDLE_CONNECTION_S, self._sweep)

    def _drop_idle_since(self, time_s: float) -> None:
        """Drops connections that were not used after ``time_s``."""
        for endpoint, idle in list(self._idle.items()):
            while idle and idle[0].idle_since_s <= time_s:
                idle.pop(0).abort()
            if not idle:
                del self._idle[endpoint]


async def _addresses(endpoint: Endpoint) -> Sequence[AddrInfoType]:
    """The addresses of ``endpoint``. Only a name is resolved, in a thread. Raises OSError."""
    try:
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=numeric
        )
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        return await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
