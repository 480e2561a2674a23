"""Caches of several edges in one process, which request from each other over real connections.

Each edge has one worker's cache and the server of its peers; the origin is scripted. Tests decide
what each edge knows of the fleet.
"""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from streamedge.cache.objects import Cache
from streamedge.cache.origin_requests import CacheRequest, object_request
from streamedge.cache.responses import ResponseCache
from streamedge.cache.rfc9111.freshness import TtlRules
from streamedge.cache.storage.records import Asset
from streamedge.cache.storage.store import Store, prepare_folder
from streamedge.delivery.hosts import Distribution, OriginBinding
from streamedge.delivery.peer.handler import PeerService
from streamedge.delivery.peer.server import PeerServer
from streamedge.fleet.ownership import ranks
from streamedge.keys import join_key
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counter, Counts, pair
from streamedge.origin.http.origin import HttpOrigin
from streamedge.origin.objects import ObjectUpstream
from streamedge.origin.peer.client import SILENCE_MAX_S, PeerClients
from streamedge.origin.peer.tier import Fleet, Tier
from streamedge.origin.peer.tls import FleetFiles, FleetTls
from streamedge.spans import Span
from tests.support.certificate_authority import CertificateAuthority
from tests.support.fleet.static_view import StaticView, members
from tests.support.origins.scripted_origin import ScriptedOrigin

IDENTITY = "http://origin.test"


@dataclass
class PeerEdge:
    """One edge."""

    name: str
    view: StaticView
    cache: Cache
    counts: Counts
    tls: FleetTls
    clients: PeerClients
    fleet: Fleet
    server: PeerServer
    binding: OriginBinding

    def asset(self, name: str, rules: TtlRules | None = None) -> Asset:
        """An object of the origin, as RTMP opens it."""
        return Distribution("E", ("*",), self.binding, rules or TtlRules()).asset(name)

    async def read(self, name: str, span: Span, rules: TtlRules | None = None) -> bytes:
        """Bytes of an object, as a viewer of this edge reads them."""
        reader = await self.cache.open(self.asset(name, rules), span)
        try:
            return await reader.read(span)
        finally:
            reader.close()

    def lookup(self, name: str, span: Span, rules: TtlRules | None = None) -> CacheRequest:
        """A request to this edge's cache."""
        return object_request(self.asset(name, rules), span)

    @property
    def responses(self) -> ResponseCache:
        return ResponseCache(self.cache)

    def sent(self, result: str) -> int:
        """How many of its requests to other edges ended so."""
        return self.counts.gathered(Counter.PEER_REQUESTS, pair("child", result))

    def bypasses(self, reason: str) -> int:
        return self.counts.gathered(Counter.ORIGIN_BYPASSES, reason)


class PeerFleet:
    """The edges by name; the first ``parents`` are the tier "eu". ``authority``: the fleet's CA."""

    def __init__(
        self,
        origin: ScriptedOrigin,
        edges: dict[str, PeerEdge],
        tier: Sequence[str],
        authority: CertificateAuthority,
    ) -> None:
        self.authority = authority
        self.origin = origin
        self.edges = edges
        self.tier = tier

    def __getitem__(self, name: str) -> PeerEdge:
        return self.edges[name]

    def object_of(self, *owners: str) -> str:
        """The name of an object whose extents 0, 1 … these members own, in this order."""
        all_members = next(iter(self.edges.values())).view.members
        tier = [all_members[name] for name in self.tier]
        for number in range(10_000):
            key = join_key(IDENTITY, name := f"film-{number}")
            if all(
                ranks(key, extent, tier)[0].name == owner for extent, owner in enumerate(owners)
            ):
                return name
        raise LookupError(str(owners))


@asynccontextmanager
async def run_peer_fleet(
    folder: Path,
    names: Sequence[str] = ("fra-1", "ams-1", "lon-1"),
    *,
    parents: int = 2,
    retries: int = 1,
    silence_max_s: float = SILENCE_MAX_S,
) -> AsyncIterator[PeerFleet]:
    """Runs the edges over a scripted origin."""
    authority = CertificateAuthority(folder)
    listeners = {name: _listener() for name in names}
    addresses = {
        name: f"127.0.0.1:{listener.getsockname()[1]}" for name, listener in listeners.items()
    }
    all_members = members([[name, address] for name, address in addresses.items()])
    async with ScriptedOrigin() as origin:
        edges: dict[str, PeerEdge] = {}
        for name in names:
            pair = authority.issue(name)
            tls = FleetTls(FleetFiles(authority.root, pair.certificate, pair.key))
            view = StaticView(name, dict(all_members))
            edges[name] = _edge(
                folder / name, view, tls, origin.url, names[:parents], retries, silence_max_s
            )
            await edges[name].server.start([listeners[name]])
        try:
            yield PeerFleet(origin, edges, names[:parents], authority)
        finally:
            for edge in edges.values():
                await edge.server.drain(0.0)
                await edge.cache.close()
                await edge.clients.close()
                await edge.binding.origin.close()


def _edge(
    root: Path,
    view: StaticView,
    tls: FleetTls,
    url: str,
    tier: Sequence[str],
    retries: int,
    silence_max_s: float,
) -> PeerEdge:
    prepare_folder(root)
    log, counts = open_log(str(root.with_suffix(".log")), "worker-0"), Counts()
    cache = Cache(Store(root, 0, log), log, counts, open_extents=64, retries=retries)
    clients = PeerClients(
        view.name, tls.client, log, counts, read_timeout_s=10.0, silence_max_s=silence_max_s
    )

    def is_passed(key: str) -> bool:
        return cache.hit_for_miss.holds(key, time.time())

    fleet = Fleet(view, clients, log, counts, is_passed, {"eu": tier})
    origin = HttpOrigin(url)
    binding = OriginBinding(
        "main", IDENTITY, origin, ObjectUpstream(origin), tier=Tier(fleet, "eu")
    )
    service = PeerService(view, cache, {"main": binding}, log, counts, ranges_max=8)
    server = PeerServer(service, tls.server, log, counts, connections_max=256)
    return PeerEdge(view.name, view, cache, counts, tls, clients, fleet, server, binding)


def _listener() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener
