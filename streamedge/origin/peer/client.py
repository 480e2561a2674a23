"""Sends requests to the other edges of the fleet, over connections that are kept.

Each edge has a pool of connections and a circuit breaker. An edge that works on a request without
an answer sends interim responses (102), so one that is silent has failed, however slow the origin
is.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from enum import Enum
from typing import NamedTuple

from streamedge.errors import OriginError
from streamedge.fleet.members import Member
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts, pair
from streamedge.ops.rate_limited import RateLimitedEvent
from streamedge.origin import Duplex, Fields
from streamedge.origin.answers import fold_fields
from streamedge.origin.group.breaker import Breaker, BreakerEvent, BreakerState
from streamedge.origin.http_client.client import Client, Response
from streamedge.origin.peer.protocol import (
    PEER_FIELD,
    PEER_PATH,
    REFUSED_FIELD,
    REQUEST_FIELD,
    PeerAnswer,
    PeerHeader,
    decode_answer,
    encode_peer,
    without_own_fields,
)

CONNECT_TIMEOUT_S = 1.0
SILENCE_MAX_S = 2.0
"""The longest time without a response or an interim one; edges send one every PROGRESS_S."""
PROGRESS_S = 0.5
PROGRESS_STATUS = 102
CONNECTIONS_MAX = 256  # to each edge

# What the other edge adds for its viewers.
_DROPPED_FIELDS = frozenset({"cache-status", "server-timing", "x-cache"})


class PeerRole(Enum):
    """What an edge is in a request between two; a label of its metrics."""

    CHILD = "child"  # it sends the request
    PARENT = "parent"  # it answers


class PeerResult(Enum):
    """How a request to another edge ended; a label of its metrics."""

    ANSWERED = "answered"
    STALE = "stale"  # an answer that may not be stored
    ORIGIN_FAILED = "origin_failed"  # an answer: the origin has failed
    REFUSED = "refused"  # not its object, behind, joining, lost …
    FAILED = "failed"  # no connection, silent, or not a response of an edge
    CUT = "cut"  # the body was cut off


def peer_label(role: PeerRole, result: PeerResult) -> str:
    """The label of the metrics of requests between edges."""
    return pair(role.value, result.value)


class PeerRefusal(NamedTuple):
    """The other edge does not answer; ``reason`` is its own word for it, or this edge's."""

    reason: str


class PeerResponse:
    """An ``OriginResponse`` that another edge has sent.

    ``answer``: what it says beside the object. ``as_of``: the local log position that the response
    is as new as.
    """

    def __init__(
        self,
        response: Response,
        answer: PeerAnswer,
        as_of: int,
        received: Callable[[int], None],
        cut_off: Callable[[], None],
    ) -> None:
        self.status = response.status
        self.fields: Fields = [
            field
            for field in without_own_fields(response.fields)
            if field[0].lower() not in _DROPPED_FIELDS
        ]
        self.size_bytes = response.size_bytes
        self.answer = answer
        self.as_of = as_of
        self._response = response
        self._received = received
        self._cut_off = cut_off

    @property
    def trailers(self) -> Fields:
        return self._response.trailers

    async def body(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.body():
                self._received(len(piece))
                yield piece
        except OriginError:
            self._cut_off()
            raise

    async def buffered(self, within_s: float) -> bytes | None:
        """As ``BufferedBody.buffered``."""
        body = await self._response.buffered(within_s)
        if body is not None:
            self._received(len(body))
        return body

    def take_received_body(self) -> bytes | None:
        body = self._response.take_received_body()
        if body is not None:
            self._received(len(body))
        return body

    def upgrade(self) -> tuple[bytes, Duplex]:
        raise AssertionError("no upgrade goes through another edge")

    def close(self) -> None:
        self._response.close()


class _Peer:
    """An edge at one address: its connections and its breaker."""

    def __init__(self, address: str, client: Client) -> None:
        self.address = address
        self.client = client
        self.breaker = Breaker()


class PeerClients:
    """A worker's connections to other edges, by their names.

    ``tls``: this edge's context as a client. ``read_timeout_s``: the longest silence in a body;
    ``silence_max_s``: before it.
    """

    def __init__(
        self,
        name: str,
        tls: ssl.SSLContext,
        log: Log,
        counts: Counts,
        *,
        read_timeout_s: float,
        connections_max: int = CONNECTIONS_MAX,
        silence_max_s: float = SILENCE_MAX_S,
    ) -> None:
        self._name = name
        self._tls = tls
        self._log = log
        self._counts = counts
        self._read_timeout_s = read_timeout_s
        self._connections_max = connections_max
        self._silence_max_s = silence_max_s
        self._failed = RateLimitedEvent(log, "peer_failed")
        self._peers: dict[str, _Peer] = {}

    def admits(self, member: Member) -> bool:
        """Whether a request may be sent to an edge now."""
        peer = self._peers.get(member.name)
        if peer is None or peer.address != member.peer_address:
            return True
        return peer.breaker.admits(_now_s())

    async def send(
        self,
        member: Member,
        method: str,
        header: PeerHeader,
        request: str,
        conditions: Fields,
        local_position: Callable[[int], int],
        *,
        silence_max_s: float | None = None,
        interim: Callable[[int, Fields], None] | None = None,
    ) -> PeerResponse | PeerRefusal:
        """Sends a request; ``conditions`` are its range and conditions. Never raises OriginError.

        ``interim`` gets the origin's 1xx responses.

        A failure of the origin that the other edge reports is in the response's ``answer``.
        """
        peer = self._peer(member)
        patience_s = silence_max_s or self._silence_max_s
        subject = f"edge {member.name}"
        fields = [
            (PEER_FIELD, encode_peer(header)),
            (REQUEST_FIELD, request),
            ("te", "trailers"),
            *conditions,
        ]
        self._record(member.name, peer, BreakerEvent.SENT)
        event = BreakerEvent.ABANDONED
        try:
            url = f"https://{member.peer_address}{PEER_PATH}"
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(patience_s) as silence:

                def on_interim(status: int, fields: Fields) -> None:
                    silence.reschedule(loop.time() + patience_s)
                    if interim is not None and status != PROGRESS_STATUS:
                        interim(status, fields)

                response = await peer.client.send(
                    subject,
                    method,
                    url,
                    fields,
                    interim=on_interim,
                )
            event = BreakerEvent.ANSWERED
            folded = fold_fields(response.fields)
            answer = decode_answer(folded)
        except (OriginError, TimeoutError, ValueError) as exc:
            event = BreakerEvent.FAILED
            self._count(PeerResult.FAILED)
            reason = str(exc) or f"{subject}: silent for {patience_s} s"
            self._failed.emit(_now_s(), edge=member.name, reason=reason)
            return PeerRefusal(reason)
        finally:
            self._record(member.name, peer, event)
        if answer is None:
            response.close()
            self._count(PeerResult.REFUSED)
            return PeerRefusal(folded.get(REFUSED_FIELD, f"status {response.status}"))
        result = PeerResult.STALE if answer.is_stale else PeerResult.ANSWERED
        if answer.failure is not None:
            result = PeerResult.ORIGIN_FAILED
        self._count(result)
        bytes_label = peer_label(PeerRole.CHILD, result)
        return PeerResponse(
            response,
            answer,
            local_position(answer.as_of),
            lambda size: self._counts.add(Counter.PEER_BYTES, bytes_label, size),
            lambda: self._cut_off(member.name, peer),
        )

    def use(self, tls: ssl.SSLContext) -> None:
        """Uses another context. No connection from before gets another request."""
        self._tls = tls
        for name, peer in self._peers.items():
            peer.client.retire()
            peer.client = self._client(name)

    async def close(self) -> None:
        """Drops all connections."""
        for peer in self._peers.values():
            await peer.client.close()

    def _peer(self, member: Member) -> _Peer:
        peer = self._peers.get(member.name)
        if peer is None or peer.address != member.peer_address:
            if peer is not None:
                peer.client.retire()
            peer = _Peer(member.peer_address, self._client(member.name))
            self._peers[member.name] = peer
        return peer

    def _client(self, name: str) -> Client:
        return Client(
            connect_timeout_s=CONNECT_TIMEOUT_S,
            read_timeout_s=self._read_timeout_s,
            connections_max=self._connections_max,
            tls=lambda: self._tls,
            server_name=name,
        )

    def _cut_off(self, name: str, peer: _Peer) -> None:
        self._count(PeerResult.CUT)
        self._record(name, peer, BreakerEvent.FAILED)

    def _count(self, result: PeerResult) -> None:
        self._counts.add(Counter.PEER_REQUESTS, peer_label(PeerRole.CHILD, result))

    def _record(self, name: str, peer: _Peer, event: BreakerEvent) -> None:
        before = peer.breaker.state
        peer.breaker = peer.breaker.after(event, _now_s())
        after = peer.breaker.state
        if before is BreakerState.CLOSED and after is BreakerState.OPEN:
            self._log.event("peer_down", edge=name)
        elif before is not BreakerState.CLOSED and after is BreakerState.CLOSED:
            self._log.event("peer_up", edge=name)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
