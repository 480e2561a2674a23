"""Accepts connections: reads the PROXY header, enforces limits, hands over to the protocol.

On a listener with PROXY headers, a connection belongs to this module until its header has been
read. Then the protocol gets the transport, the bytes behind the header, and the ``Peer``: the
client address that counts from here on. On other listeners the protocol gets it at once.

A header is accepted only from the proxies that the config names. On a listener with PROXY headers
a connection that begins otherwise is closed. A refusal is counted, and logged at most once a
second, because any client can cause it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from streamedge.access.client_address import IpNetwork, canonical, is_trusted
from streamedge.callbacks import do_nothing
from streamedge.delivery.net.proxy_protocol import ProxyHeaderError, parse_proxy_header
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts
from streamedge.ops.rate_limited import RateLimitedEvent

PROXY_HEADER_S = 5.0  # timeout of a header; a proxy sends it at once


class Peer(NamedTuple):
    """The client of a connection: the socket's peer, or the source in its PROXY header."""

    address: str
    port: int

    def __str__(self) -> str:
        """``192.0.2.1:4000`` or ``[2001:db8::1]:4000`` (RFC 5952 section 6)."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


OnClose = Callable[[], None]
"""A protocol calls it when its connection is lost."""

Connect = Callable[[Peer, OnClose], asyncio.Protocol]
"""Creates the protocol that serves a peer."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where connections of one protocol go: ``connect`` serves them, ``acceptor`` counts them."""

    acceptor: Acceptor
    connect: Connect
    reject_response: bytes = b""


@dataclass(frozen=True, slots=True)
class AcceptRules:
    """Which PROXY headers are accepted, and how many connections may be open.

    ``waiting_max``: connections whose header has not come yet. ``per_address_max``: open
    connections of one address that is no proxy's; 0 is no limit. ``descriptors_end``: a connection
    whose descriptor has this number or a higher one is refused, so that files can still be opened;
    0 is no limit.
    """

    proxies: Sequence[IpNetwork] = ()
    waiting_max: int = 1024
    per_address_max: int = 0
    descriptors_end: int = 0


class Acceptor:
    """The state that all listeners of a server share; ``name`` is used in logs and metrics."""

    def __init__(self, name: str, rules: AcceptRules, log: Log, counts: Counts) -> None:
        self.rules = rules
        self.waiting: set[PendingConnection] = set()
        self._open: dict[str, int] = {}  # connections by address
        self._counts = counts
        self._proxy_kind = f"{name}_proxy_header"
        self._crowd_kind = f"{name}_connections_per_address"
        self._refused_header = RateLimitedEvent(log, "proxy_header_refused")
        self._refused_crowd = RateLimitedEvent(log, "connections_per_address_refused")
        self._full_kind = f"{name}_descriptors"
        self._refused_full = RateLimitedEvent(log, "connections_refused")
        self._name = name

    def protocol_factory(
        self,
        connect: Connect,
        *,
        is_proxied: bool,
        reject_response: bytes = b"",
    ) -> Callable[[], asyncio.Protocol]:
        """The protocol factory of a listener; sends ``reject_response`` at a limit."""
        loop = asyncio.get_running_loop()
        if is_proxied:
            return partial(PendingConnection, self, loop, connect, reject_response)
        protocol = DirectConnections(self, loop, connect, reject_response)
        return lambda: protocol

    def stats(self) -> dict[str, int]:
        """Open connections by client address; empty without a limit per address."""
        return dict(self._open)

    def sweep(self, now_s: float) -> None:
        """Closes connections whose header takes too long."""
        for pending in list(self.waiting):
            if now_s - pending.began_s > PROXY_HEADER_S:
                pending.refuse("the PROXY header took too long")

    def stop(self) -> None:
        """Closes connections whose header has not come."""
        for pending in list(self.waiting):
            pending.refuse("the edge is stopping")

    def acquire_slot(self, peer: Peer, now_s: float) -> OnClose | None:
        """Counts a connection until the returned function is called; None at the limit."""
        limit = self.rules.per_address_max
        if not limit or is_trusted(peer.address, self.rules.proxies):
            return do_nothing  # a proxy's connections are those of many viewers
        address = peer.address
        count = self._open.get(address, 0)
        if count >= limit:
            self._counts.add(Counter.ERRORS, self._crowd_kind)
            self._refused_crowd.emit(now_s, protocol=self._name, client=str(peer), limit=limit)
            return None
        self._open[address] = count + 1
        return partial(self._release_slot, address)

    def admit(
        self, transport: asyncio.Transport, now_s: float, reject_response: bytes
    ) -> Peer | None:
        """The peer of a new connection; None where it is refused."""
        peername = transport.get_extra_info("peername")
        if peername is None:
            transport.abort()  # the client has closed it already
            return None
        peer = Peer(canonical(peername[0]), peername[1])
        end = self.rules.descriptors_end
        if end and transport.get_extra_info("socket").fileno() >= end:
            self.refuse_full(peer, now_s)
            _reject(transport, reject_response)
            return None
        return peer

    def hand_over(
        self,
        transport: asyncio.Transport,
        peer: Peer,
        now_s: float,
        connect: Connect,
        reject_response: bytes,
    ) -> asyncio.Protocol | None:
        """Starts the connection's protocol, unless its address is at the limit."""
        on_close = self.acquire_slot(peer, now_s)
        if on_close is None:
            _reject(transport, reject_response)
            return None
        protocol = connect(peer, on_close)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return protocol

    def refuse_full(self, peer: Peer, now_s: float) -> None:
        """Counts a connection for which there are no descriptors."""
        self._counts.add(Counter.ERRORS, self._full_kind)
        self._refused_full.emit(
            now_s,
            protocol=self._name,
            client=str(peer),
            reason="too few descriptors are left: raise RLIMIT_NOFILE",
        )

    def refused(self, peer: Peer, reason: str, now_s: float) -> None:
        """Counts a connection that was closed for its PROXY header."""
        self._counts.add(Counter.ERRORS, self._proxy_kind)
        self._refused_header.emit(now_s, protocol=self._name, client=str(peer), reason=reason)

    def _release_slot(self, address: str) -> None:
        if self._open[address] > 1:
            self._open[address] -= 1
        else:
            del self._open[address]


class DirectConnections(asyncio.Protocol):
    """The first protocol of all connections of a listener without PROXY headers.

    It keeps nothing of a connection; it stays the protocol of those that are refused.
    """

    def __init__(
        self,
        acceptor: Acceptor,
        loop: asyncio.AbstractEventLoop,
        connect: Connect,
        reject_response: bytes,
    ) -> None:
        self._acceptor = acceptor
        self._loop = loop
        self._connect = connect
        self._reject_response = reject_response

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        now_s = self._loop.time()
        peer = self._acceptor.admit(transport, now_s, self._reject_response)
        if peer is not None:
            self._acceptor.hand_over(transport, peer, now_s, self._connect, self._reject_response)


class PendingConnection(asyncio.Protocol):
    """One connection until its PROXY header has come."""

    def __init__(
        self,
        acceptor: Acceptor,
        loop: asyncio.AbstractEventLoop,
        connect: Connect,
        reject_response: bytes,
    ) -> None:
        self._acceptor = acceptor
        self._loop = loop
        self._connect = connect
        self._reject_response = reject_response
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # from the beginning
        self._peer: Peer = None  # type: ignore[assignment]  # as well
        self._received = b""
        self.began_s = loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        peer = self._acceptor.admit(transport, self.began_s, self._reject_response)
        if peer is None:
            return
        self._peer = peer
        rules, waiting = self._acceptor.rules, self._acceptor.waiting
        if not is_trusted(peer.address, rules.proxies):
            self.refuse("the address is not in listen.proxies")
        elif len(waiting) >= rules.waiting_max:
            self.refuse("too many connections wait for a PROXY header")
        else:
            waiting.add(self)

    def data_received(self, data: bytes) -> None:
        if self not in self._acceptor.waiting:
            return  # refused; bytes in flight still arrive
        self._received += data
        try:
            header = parse_proxy_header(self._received)
        except ProxyHeaderError as exc:
            self.refuse(str(exc))
            return
        if header is None:
            return
        self._acceptor.waiting.discard(self)
        peer = self._peer if header.source is None else Peer(*header.source)
        rest, self._received = self._received[header.size_bytes :], b""
        protocol = self._acceptor.hand_over(
            self._transport, peer, self._loop.time(), self._connect, self._reject_response
        )
        if protocol is not None and rest and not self._transport.is_closing():
            protocol.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._acceptor.waiting:
            self._acceptor.waiting.discard(self)
            if self._received or exc is not None:  # port checks send nothing
                self._acceptor.refused(self._peer, "the client left", self._loop.time())

    @property
    def received_bytes(self) -> int:
        """How much of a PROXY header has arrived."""
        return len(self._received)

    def refuse(self, reason: str) -> None:
        """Closes a connection without an acceptable PROXY header."""
        self._acceptor.waiting.discard(self)
        self._acceptor.refused(self._peer, reason, self._loop.time())
        self._transport.abort()


def _reject(transport: asyncio.Transport, response: bytes) -> None:
    if response:
        transport.write(response)
    transport.close()
