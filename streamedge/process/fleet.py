"""This edge's part in a fleet: the service of the shared log, made from the config.

Only the control process of an edge with ``fleet.engine`` imports this module.
"""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path

from streamedge.cache.storage.changes import ChangeCounter
from streamedge.config.schema.config import Config
from streamedge.control.database import ControlDatabase, copy_database
from streamedge.control.replica import Replica
from streamedge.coordination.invalidation_feed import InvalidationFeed
from streamedge.fleet.members import Member
from streamedge.ops.log import Log
from streamedge.shared_log.opening import open_engine
from streamedge.shared_log.resource_changes import FleetChanges
from streamedge.shared_log.service import FleetService


class FleetParts:
    """The service, what the API needs of it, and their connection to the database."""

    def __init__(self, config: Config, invalidation_feed: InvalidationFeed, log: Log) -> None:
        folder = config.edge.cache
        self._database = ControlDatabase(folder)
        replica = Replica(
            self._database,
            config.edge.name,
            ChangeCounter(folder).announce,
            items_kept=config.limits.invalidations,
        )
        engine = open_engine(
            config.fleet.engine,
            config.fleet.prefix,
            client_name=f"streamedge-{config.edge.name}",
        )
        self.service = FleetService(
            engine,
            replica,
            member_from_config(config),
            invalidation_feed.publish,
            lambda: str(copy_aside(folder)),
            log,
        )
        self.changes = FleetChanges(self.service, asyncio.get_running_loop())

    async def close(self) -> None:
        await self.service.engine.close()
        self._database.close()


def member_from_config(config: Config) -> Member:
    """This edge as the config describes it."""
    return Member(
        name=config.edge.name,
        location=config.edge.location,
        addresses=config.edge.addresses,
        peer_address=_peer_address(config),
        weight=config.edge.weight,
    )


def _peer_address(config: Config) -> str:
    """Where other edges reach the fleet listener; "" without one.

    A listener on all addresses is reached by the first address of ``edge.addresses``.
    """
    if config.listen.fleet is None:
        return ""
    host, port = config.listen.fleet
    if _is_unspecified(host) and config.edge.addresses:
        host = config.edge.addresses[0]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def copy_aside(folder: Path) -> Path:
    """Copies the control database before a fleet's documents replace this edge's own."""
    return copy_database(folder, "before-fleet")
