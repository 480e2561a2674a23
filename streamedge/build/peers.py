"""Builds a worker's part in the tiers of its fleet: connections to other edges, and their server.

Nothing of this is imported in a fleet of one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from streamedge.build.parts import ServerParts
from streamedge.cache.objects import Cache
from streamedge.config.schema.config import Config, DirectoryOriginConfig
from streamedge.delivery.hosts import OriginBinding
from streamedge.delivery.peer.handler import PeerService
from streamedge.delivery.peer.server import PeerServer
from streamedge.errors import ConfigError
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts
from streamedge.origin.directory.origin import DirectoryOrigin
from streamedge.origin.http.exchange import READ_TIMEOUT_S
from streamedge.origin.peer.client import PeerClients
from streamedge.origin.peer.tier import Fleet
from streamedge.origin.peer.tls import FleetFiles, FleetTls
from streamedge.origin.peer.view import PeerView
from streamedge.write_back.holders import HeldHere
from streamedge.write_back.queue import WriteQueue


@dataclass(frozen=True, slots=True)
class Peers:
    """The other edges, as a worker knows them: ``fleet`` requests from them."""

    fleet: Fleet
    clients: PeerClients
    tls: FleetTls

    def server(self, config: Config, parts: ServerParts) -> PeerServer:
        """The server of their requests; not started."""
        limits, log, counts = config.limits, parts.log, parts.counts
        service = PeerService(
            self.fleet.view,
            parts.cache,
            parts.bindings,
            log,
            counts,
            ranges_max=limits.ranges,
            held_here=_held_here(parts.write_queue),
        )
        return PeerServer(
            service, self.tls.server, log, counts, connections_max=limits.http_connections
        )

    def replace(
        self, server: PeerServer, config: Config, bindings: Mapping[str, OriginBinding]
    ) -> None:
        """Uses a new config from the next request on."""
        self.fleet.use_tiers(config.fleet.tiers)
        server.service.replace(bindings, ranges_max=config.limits.ranges)


def _held_here(write_queue: WriteQueue | None) -> HeldHere | None:
    if write_queue is None:
        return None
    return HeldHere(write_queue, DirectoryOrigin(write_queue.bodies))


def open_peers(config: Config, view: PeerView, cache: Cache, log: Log, counts: Counts) -> Peers:
    """A worker's connections to other edges.

    Raises ConfigError without certificate files, OSError for files that cannot be used.
    """
    section = config.fleet
    if section.ca is None or section.certificate is None or section.key is None:
        raise ConfigError(("fleet: ca, certificate and key are missing",))
    tls = FleetTls(FleetFiles(section.ca, section.certificate, section.key))
    clients = PeerClients(
        view.name, tls.client, log, counts, read_timeout_s=_read_timeout_s(config)
    )

    def is_passed(key: str) -> bool:
        return cache.hit_for_miss.holds(key, time.time())

    return Peers(Fleet(view, clients, log, counts, is_passed, section.tiers), clients, tls)


def _read_timeout_s(config: Config) -> float:
    """The longest silence in a body that an origin with a tier may have."""
    return max(
        (
            section.read_timeout
            for section in config.origins.values()
            if not isinstance(section, DirectoryOriginConfig) and section.tier
        ),
        default=READ_TIMEOUT_S,
    )
