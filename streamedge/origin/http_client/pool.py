"""The connections to origins: how many, made how, and which are kept for the next request.

Owns the limit, the making (names, addresses, TLS) and the idle connections. What is said on a
connection is ``connection``'s business; what a failure is called, ``client``'s.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiohappyeyeballs import AddrInfoType, start_connection

from streamedge.origin.http_client.connection import Connection

KEPT_WITHOUT_BODY = 4  # one connection of so many is for requests without a streamed body
IDLE_CONNECTION_S = 15.0  # below the usual 60 s of servers, so that few die under a new request
NEXT_ADDRESS_S = 0.25  # before another address is tried beside (RFC 8305 §5)

_CLOSED = "no connection: this side is closed"


class NoConnectionError(Exception):
    """There is no connection; the message says why, and the cause is kept."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where connections lead: ``host`` is a name or an address without brackets."""

    is_tls: bool
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class _Idle:
    connection: Connection
    since_s: float


class Pool:
    """At most ``connections_max`` connections in use at a time; ``tls`` makes the context of all
    that need one, in a thread, at the first need.

    A connection from ``lease`` comes back by ``give_back``, whatever has become of it.
    """

    def __init__(self, connections_max: int, tls: Callable[[], ssl.SSLContext]) -> None:
        self._slots = asyncio.Semaphore(connections_max)
        # A body comes as fast as a stranger sends it: those may not take all connections.
        kept = max(1, connections_max // KEPT_WITHOUT_BODY)
        self._body_slots = asyncio.Semaphore(max(1, connections_max - kept))
        self._with_body: set[Connection] = set()
        self._make_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._making_tls = asyncio.Lock()
        self._leased: dict[Connection, Place] = {}
        self._idle: dict[Place, list[_Idle]] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._is_retired = False
        self._is_closed = False

    async def lease(
        self, place: Place, until_s: float, *, only_new: bool = False, streams_body: bool = False
    ) -> tuple[Connection, bool]:
        """A connection to ``place``, by the loop's time ``until_s``, and whether it was used
        before: the one that was used last, which is the likeliest to live, unless ``only_new``.

        ``streams_body``: the request's body comes piece by piece. Raises NoConnectionError.
        """
        try:
            async with asyncio.timeout_at(until_s):
                await self._acquire(streams_body)
                try:
                    if self._is_closed:
                        raise NoConnectionError(_CLOSED)
                    connection = None if only_new else self._take_idle(place)
                    is_reused = connection is not None
                    if connection is None:
                        connection = await self._connect(place)
                except BaseException:
                    self._release(streams_body)
                    raise
        except TimeoutError as exc:
            raise NoConnectionError("no connection within the time for it") from exc
        except (OSError, UnicodeError) as exc:  # UnicodeError: no host name at all
            raise NoConnectionError(f"no connection: {exc}") from exc
        self._leased[connection] = place
        if streams_body:
            self._with_body.add(connection)
        if self._is_closed:
            self.give_back(connection)
            raise NoConnectionError(_CLOSED)
        return connection, is_reused

    def give_back(self, connection: Connection) -> None:
        """Keeps ``connection`` for another request if it can carry one, or drops it; once."""
        place = self._leased.pop(connection, None)
        if place is None:
            return
        self._release(connection in self._with_body)
        self._with_body.discard(connection)
        if self._is_closed or self._is_retired or not connection.recycle():
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        self._idle.setdefault(place, []).append(_Idle(connection, loop.time()))
        if self._sweep_timer is None:
            self._sweep_timer = loop.call_later(IDLE_CONNECTION_S, self._sweep)

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

    def _release(self, streams_body: bool) -> None:
        self._slots.release()
        if streams_body:
            self._body_slots.release()

    def retire(self) -> None:
        """Keeps no connection any more that nobody uses: nothing new is to come."""
        self._is_retired = True
        self._drop_idle()

    def close(self) -> None:
        """Drops all connections, also those in use, and makes no more."""
        self._is_closed = True
        for connection in list(self._leased):
            connection.abort()
        self._drop_idle()

    def _drop_idle(self) -> None:
        self._drop_idle_since(float("inf"))
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None

    def _take_idle(self, place: Place) -> Connection | None:
        idle = self._idle.get(place, [])
        while idle:
            connection = idle.pop().connection
            if connection.is_quiet():
                return connection
            connection.abort()
        return None

    async def _connect(self, place: Place) -> Connection:
        loop = asyncio.get_running_loop()
        context = await self._tls_context() if place.is_tls else None
        connected = await start_connection(
            await _addresses(place), happy_eyeballs_delay=NEXT_ADDRESS_S, interleave=1
        )
        _, connection = await loop.create_connection(
            Connection,
            sock=connected,
            ssl=context,
            # The dot of a full name is no part of what a certificate names (RFC 6066 §3).
            server_hostname=place.host.rstrip(".") if place.is_tls else None,
        )
        return connection

    async def _tls_context(self) -> ssl.SSLContext:
        async with self._making_tls:
            if self._tls is None:
                self._tls = await asyncio.to_thread(self._make_tls)
            return self._tls

    def _sweep(self) -> None:
        """Drops what has been idle for too long, and comes again for the rest."""
        loop = asyncio.get_running_loop()
        self._sweep_timer = None
        self._drop_idle_since(loop.time() - IDLE_CONNECTION_S)
        if self._idle:
            oldest_s = min(idle[0].since_s for idle in self._idle.values())
            self._sweep_timer = loop.call_at(oldest_s + IDLE_CONNECTION_S, self._sweep)

    def _drop_idle_since(self, time_s: float) -> None:
        """Drops what nobody has used after ``time_s``."""
        for place, idle in list(self._idle.items()):
            while idle and idle[0].since_s <= time_s:
                idle.pop(0).connection.abort()
            if not idle:
                del self._idle[place]


async def _addresses(place: Place) -> Sequence[AddrInfoType]:
    """Where ``place`` is. Only a name is looked up, which takes a thread; raises OSError."""
    try:
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=numeric)
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        return await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
