"""A worker's part in the tiers of its fleet: its connections to other edges, and their server.

In a fleet of one there is none, and nothing of it is imported.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from streamedge.build.parts import ServerParts
from streamedge.cache.invalidated import AppliedInvalidations
from streamedge.cache.objects import Cache
from streamedge.cache.storage.changes import ChangeCounter
from streamedge.config.schema.config import Config
from streamedge.control.database import ControlDatabase
from streamedge.control.invalidation_index import InvalidationIndex
from streamedge.coordination.shared_state import SharedState
from streamedge.delivery.hosts import OriginBinding
from streamedge.ops.background import Services
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counts

if TYPE_CHECKING:
    from streamedge.build.peers import Peers
    from streamedge.delivery.peer.server import PeerServer
    from streamedge.origin.peer.tier import Fleet
    from streamedge.origin.peer.view import PeerView

CERTIFICATES_INTERVAL_S = 30.0


class WorkerPeers:
    """``peers``: None in a fleet of one; then nothing here does anything."""

    def __init__(self, peers: Peers | None = None) -> None:
        self._peers = peers
        self._server: PeerServer | None = None

    @property
    def fleet(self) -> Fleet | None:
        """What the tiers of origins use."""
        return None if self._peers is None else self._peers.fleet

    async def start(
        self,
        config: Config,
        parts: ServerParts,
        listeners: Sequence[socket.socket],
        services: Services,
    ) -> None:
        """Starts to serve other edges."""
        peers = self._peers
        if peers is None:
            return

        self._server = peers.server(config, parts)
        await self._server.start(listeners)
        reload = partial(self.reload_certificate, parts.log)
        services.start_periodic("fleet_certificate", CERTIFICATES_INTERVAL_S, reload)

    async def reload_certificate(self, log: Log) -> None:
        """Uses the fleet's certificate files if they have changed; logs that, or why not.

        Also connections that are open end, so what the files no longer trust has none.
        """
        peers, server = self._peers, self._server
        if peers is None or server is None:
            return
        try:
            if not await asyncio.to_thread(peers.tls.reload_if_changed):
                return
        except OSError as exc:
            log.event("fleet_certificate_refused", reason=str(exc))
            return
        peers.clients.use(peers.tls.client)
        server.use(peers.tls.server)
        log.event("fleet_certificate_loaded")

    def refreshing(
        self, apply_new: Callable[[], AppliedInvalidations]
    ) -> Callable[[], AppliedInvalidations]:
        """``apply_new``, which also reads again what this worker knows of its fleet."""
        peers = self._peers
        if peers is None:
            return apply_new

        view = peers.fleet.view

        def apply_and_refresh() -> AppliedInvalidations:
            applied = apply_new()
            view.refresh()
            return applied

        view.apply_by(apply_and_refresh)
        return apply_and_refresh

    def replace(self, config: Config, bindings: Mapping[str, OriginBinding]) -> None:
        """Uses a new config from the next request on."""
        if self._peers is not None and self._server is not None:
            self._peers.replace(self._server, config, bindings)

    @property
    def is_busy(self) -> bool:
        """Whether another edge has a connection to this worker."""
        return self._server is not None and self._server.is_busy

    def retire(self) -> None:
        """Lets another process accept connections of other edges."""
        if self._server is not None:
            self._server.retire()

    async def drain(self, timeout_s: float) -> None:
        """Stops accepting, and waits ``timeout_s`` for responses to other edges."""
        if self._server is not None:
            await self._server.drain(timeout_s)

    async def close(self) -> None:
        """Drops the connections to other edges."""
        if self._peers is not None:
            await self._peers.clients.close()


def open_worker_peers(
    config: Config,
    shared: SharedState,
    database: ControlDatabase,
    cache: Cache,
    log: Log,
    counts: Counts,
) -> WorkerPeers:
    """The worker's part; that of a fleet of one without an engine, or without a certificate."""
    index = cache.invalidation_checker.index
    if not config.fleet.engine or config.fleet.certificate is None or index is None:
        return WorkerPeers()
    view = peer_view(config, shared, database, index, cache.store.changes)
    from streamedge.build.peers import open_peers  # noqa: PLC0415  # in a fleet only

    return WorkerPeers(open_peers(config, view, cache, log, counts))


def peer_view(
    config: Config,
    shared: SharedState,
    database: ControlDatabase,
    index: InvalidationIndex,
    changes: ChangeCounter,
) -> PeerView:
    """What this worker knows of its fleet."""
    from streamedge.coordination.peer_view import WorkerFleetView  # noqa: PLC0415  # in a fleet only

    if shared.fleet is None:
        raise ValueError("the processes share no state of a fleet")
    return WorkerFleetView(config.edge.name, shared.fleet, index, database, changes)
