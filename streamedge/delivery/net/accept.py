"""From accept to the protocol that serves the viewer: who has come, and whether there is room.

Owns the connection until its PROXY header has been read, where its listener has one, and the
number of connections that each address has open. Then the protocol that the door leads to gets the
transport, what has come behind the header, and the ``Peer``: the address that counts from here on.

A header is believed only from the proxies that the config names; on a listener with PROXY headers
a connection that begins otherwise is closed. What is refused leaves a number, and a line at most
once a second: anybody can cause it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from streamedge.access.client_address import IpNetwork, canonical, is_trusted
from streamedge.delivery.net.proxy_protocol import ProxyHeaderError, parse_proxy_header
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts
from streamedge.ops.rate_limited import RateLimitedEvent

PROXY_HEADER_S = 5.0  # for a header to come; a proxy sends it at once


class Peer(NamedTuple):
    """The other end of a connection as it counts here: a proxy's word for it, if one was asked."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


Left = Callable[[], None]
"""To be called by a protocol when its connection is lost."""

Connect = Callable[[Peer, Left], asyncio.Protocol]
"""Makes the protocol that serves a peer."""


@dataclass(frozen=True, slots=True)
class AcceptRules:
    """Whose PROXY headers are believed, and how many connections there may be.

    ``waiting_max``: connections whose header has not come yet. ``per_address_max``: open ones of
    one address, unless it is a proxy's; 0 is no limit. ``descriptors_end``: a connection whose
    descriptor has this number or a higher one is refused, so that files can still be opened; 0 is
    no limit.
    """

    proxies: Sequence[IpNetwork] = ()
    waiting_max: int = 1024
    per_address_max: int = 0
    descriptors_end: int = 0


class Acceptor:
    """What all listeners of a server share; ``name`` is the server's, in log lines and metrics."""

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

    def door(
        self,
        connect: Connect,
        *,
        is_proxied: bool,
        refusal: bytes = b"",
    ) -> Callable[[], PendingConnection]:
        """The protocol factory of a listener. ``refusal`` is said to who finds no room."""
        loop = asyncio.get_running_loop()
        return partial(PendingConnection, self, loop, connect, refusal, is_proxied=is_proxied)

    def sweep(self, now_s: float) -> None:
        """Closes those whose header takes too long."""
        for arrival in list(self.waiting):
            if now_s - arrival.began_s > PROXY_HEADER_S:
                arrival.refuse("it took too long")

    def stop(self) -> None:
        """Closes those whose header has not come."""
        for arrival in list(self.waiting):
            arrival.refuse("the edge is stopping")

    def enter(self, peer: Peer, now_s: float) -> Left | None:
        """Counts a connection until what it returns is called; None: this address has enough."""
        most = self.rules.per_address_max
        if not most or is_trusted(peer.address, self.rules.proxies):
            return _nothing  # a proxy's connections are those of many viewers
        address = peer.address
        count = self._open.get(address, 0)
        if count >= most:
            self._counts.add(Counter.ERRORS, self._crowd_kind)
            self._refused_crowd.emit(now_s, protocol=self._name, client=str(peer), limit=most)
            return None
        self._open[address] = count + 1
        return partial(self._leave, address)

    def has_descriptors(self, transport: asyncio.BaseTransport) -> bool:
        """Whether a connection leaves enough descriptors, and can have a second one itself."""
        end = self.rules.descriptors_end
        if not end:
            return True
        descriptor = transport.get_extra_info("socket").fileno()
        if descriptor >= end:
            return False
        try:
            os.close(os.dup(descriptor))  # a crowd that was accepted in one turn may have the rest
        except OSError:
            return False
        return True

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

    def _leave(self, address: str) -> None:
        if self._open[address] > 1:
            self._open[address] -= 1
        else:
            del self._open[address]


class PendingConnection(asyncio.Protocol):
    """One connection, until the protocol that serves it takes over."""

    def __init__(
        self,
        arrivals: Acceptor,
        loop: asyncio.AbstractEventLoop,
        connect: Connect,
        refusal: bytes,
        *,
        is_proxied: bool,
    ) -> None:
        self._arrivals = arrivals
        self._loop = loop
        self._connect = connect
        self._refusal = refusal
        self._is_proxied = is_proxied
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # from the beginning
        self._peer: Peer = None  # type: ignore[assignment]  # as well
        self._received = b""
        self.began_s = loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        said = transport.get_extra_info("peername")
        if said is None:
            transport.abort()  # it was gone before it was looked at
            return
        self._peer = Peer(canonical(said[0]), said[1])
        rules, waiting = self._arrivals.rules, self._arrivals.waiting
        if not self._arrivals.has_descriptors(transport):
            self._arrivals.refuse_full(self._peer, self._loop.time())
            self._refuse_politely()
        elif not self._is_proxied:
            self._hand_over(self._peer)
        elif not is_trusted(self._peer.address, rules.proxies):
            self.refuse("it comes from no proxy of listen.proxies")
        elif len(waiting) >= rules.waiting_max:
            self.refuse("too many headers are waited for")
        else:
            waiting.add(self)

    def data_received(self, data: bytes) -> None:
        if self not in self._arrivals.waiting:
            return  # refused; what was under way still comes
        self._received += data
        try:
            header = parse_proxy_header(self._received)
        except ProxyHeaderError as exc:
            self.refuse(str(exc))
            return
        if header is None:
            return
        self._arrivals.waiting.discard(self)
        peer = self._peer if header.source is None else Peer(*header.source)
        rest, self._received = self._received[header.size_bytes :], b""
        protocol = self._hand_over(peer)
        if protocol is not None and rest and not self._transport.is_closing():
            protocol.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._arrivals.waiting:
            self._arrivals.waiting.discard(self)
            if self._received or exc is not None:  # port checks come and go without a word
                self._arrivals.refused(self._peer, "the client left", self._loop.time())

    def refuse(self, reason: str) -> None:
        """Closes the connection for want of a header that may be believed."""
        self._arrivals.waiting.discard(self)
        self._arrivals.refused(self._peer, reason, self._loop.time())
        self._transport.abort()

    def _refuse_politely(self) -> None:
        if self._refusal:
            self._transport.write(self._refusal)
        self._transport.close()

    def _hand_over(self, peer: Peer) -> asyncio.Protocol | None:
        """Lets the connection's own protocol begin, if there is room for its address."""
        left = self._arrivals.enter(peer, self._loop.time())
        if left is None:
            self._refuse_politely()
            return None
        protocol = self._connect(peer, left)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        return protocol


def _nothing() -> None:
    """What leaves when nobody counts."""
