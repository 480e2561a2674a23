"""This edge's part in a fleet: the service of the shared log, made from the config.

Only the control process of an edge with ``fleet.engine`` imports this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from streamedge.cache.storage.changes import ChangeCounter
from streamedge.config.schema.config import Config
from streamedge.control.database import ControlDatabase, ControlError, copy_database
from streamedge.control.fleet_view import few_waiting_entries
from streamedge.control.replica import Replica
from streamedge.coordination.effective_config import EffectiveConfig
from streamedge.coordination.fleet_status import FleetStatus
from streamedge.coordination.invalidation_feed import InvalidationFeed
from streamedge.coordination.live_edges import SharedLiveEdges
from streamedge.coordination.wakeups import ChangeEvent
from streamedge.fleet.members import Member, Role
from streamedge.fleet.nearest import LiveEdges, live_edges
from streamedge.fleet.states import takes_viewers
from streamedge.ops.background import Services
from streamedge.ops.log import Log
from streamedge.ops.metrics import MetricSource
from streamedge.process.fleet.metrics import fleet_metrics
from streamedge.shared_log.applied_batches import AppliedBatches
from streamedge.shared_log.completion import Completion, CompletionWatch
from streamedge.shared_log.opening import open_engine
from streamedge.shared_log.presence import CHECK_INTERVAL_S, OwnEdge, PresenceReporter
from streamedge.shared_log.resource_changes import FleetChanges
from streamedge.shared_log.service import FleetService, LocalEdge

EXPIRY_WARNED_DAYS = 30


@dataclass(frozen=True, slots=True)
class FleetContext:
    """What this edge's part in a fleet uses of the control process.

    ``database`` is the API's, too: threads of one process then wait for each other by a lock, and
    not by SQLite's polling. ``load`` returns the open connections of viewers. ``change_event``
    belongs to this process, ``loop_database`` to its event loop.
    """

    effective: EffectiveConfig
    database: ControlDatabase
    loop_database: ControlDatabase
    invalidation_feed: InvalidationFeed
    status: FleetStatus
    live_edges: SharedLiveEdges
    change_event: ChangeEvent
    load: Callable[[], int]
    log: Log


class FleetParts:
    """The service, the presence, and what the API needs of them.

    ``continues``: see ``PresenceReporter``.
    """

    def __init__(self, context: FleetContext, *, continues: bool = False) -> None:
        config = context.effective.config
        folder = config.edge.cache
        feed, loop_database = context.invalidation_feed, context.loop_database
        self._context = context
        self._published = LiveEdges()
        replica = Replica(
            context.database,
            config.edge.name,
            ChangeCounter(folder).announce,
            items_kept=config.limits.invalidations,
            loop_database=loop_database,
        )
        with contextlib.suppress(ControlError):  # without the database no copy is used
            replica.announce_pending()
        self._checkpoint_database = ControlDatabase(folder)
        engine = open_engine(
            config.fleet.engine,
            config.fleet.prefix,
            client_name=f"streamedge-{config.edge.name}",
        )
        local = LocalEdge(
            feed.announce,
            lambda: str(copy_aside(folder)),
            lambda: few_waiting_entries(loop_database),
            feed.wake_workers,
            feed.await_workers,
            self._checkpoint_database.checkpoint,
        )
        self.service = FleetService(engine, replica, member_from_config(config), local, context.log)
        feed.after_publishing(self.service.note_own_rows)
        self.changes = FleetChanges(self.service, asyncio.get_running_loop())
        self._batches = AppliedBatches(self.service, feed.have_applied)
        own_edge = OwnEdge(
            config.edge.name,
            self._batches.applied,
            context.load,
            self._drains,
            is_new=replica.state() is None,
        )
        self.presence = PresenceReporter(
            own_edge,
            engine,
            config.fleet.lease,
            context.status,
            context.log,
            context.change_event,
            continues=continues,
        )
        self.completion = CompletionWatch(self.service, self.presence, self._observe_completion)
        self.last_completion = Completion({}, is_completed=False)
        self.metrics: MetricSource = lambda: fleet_metrics(
            self.service, self.presence, self.last_completion
        )

    def _observe_completion(self, completion: Completion) -> None:
        self.last_completion = completion

    def start(self, services: Services) -> None:
        """Starts the tasks of the service and of the presence."""
        self.service.start(services)
        services.start("fleet_presence", self.presence.report)
        services.start("fleet_presences", self.presence.watch)
        services.start_periodic("fleet_state", CHECK_INTERVAL_S, self._check)
        services.start("fleet_batches", lambda: self._batches.follow(self._report_applied))

    async def _check(self) -> None:
        await self.presence.check()
        presences = self.presence.attendance.presences.values()
        up = [presence.name for presence in presences if takes_viewers(presence.state)]
        live = live_edges(self.service.view.members.values(), up)
        if live != self._published:
            self._context.live_edges.publish(live)
            self._published = live

    def notice(self) -> None:
        """There may be new entries to publish, or workers have applied rows. Never blocks."""
        self.service.notify_unpublished()
        self._report_applied()

    def _report_applied(self) -> None:
        if self._batches.have_workers_advanced():
            self.presence.report_soon()

    def owners(self, url: str, members: Mapping[str, Member]) -> dict[str, Any]:
        """Who owns the object of a URL. Blocks; raises OwnerError."""
        from streamedge.process.fleet.owners import find_owners  # noqa: PLC0415  # slow, for operators only

        return find_owners(self._context.effective.config, self._context.log, url, members)

    def zone_parts(self) -> dict[str, Any]:
        """What the DNS zone is made of: aliases, members, and the port of the traffic check."""
        config = self._context.effective.config
        members = self.service.view.members.values()
        return {
            "aliases": sorted(
                {
                    alias
                    for section in config.distributions
                    if section.enabled
                    for alias in section.aliases
                }
            ),
            "members": [one.body() for one in members if one.role is not Role.REMOVED],
            "port": next((port for _, port in (*config.listen.http, *config.listen.mixed)), 0),
        }

    def problems(self) -> list[str]:
        """Problems of this edge's config and files, as sentences. Blocks."""
        config = self._context.effective.config
        members = self.service.view.members
        unknown = sorted(
            {name for names in config.fleet.tiers.values() for name in names} - members.keys()
        )
        problems = [
            f"fleet.tiers names {name}, which has never been in this fleet: start it, or correct"
            " the name"
            for name in unknown
        ]
        now = datetime.now(UTC)
        for path in (config.fleet.certificate, config.fleet.ca):
            if path is not None:
                problems += expiry_problems(path, now)
        return problems

    def _drains(self) -> bool:
        member = self.service.view.members.get(self.service.member.name)
        return member is not None and member.role is not Role.SERVING

    async def close(self, *, is_replaced: bool) -> None:
        """``is_replaced``: another process keeps the presence."""
        if not is_replaced:
            await self.presence.withdraw()
        await self.service.engine.close()
        self._checkpoint_database.close()


def expiry_problems(path: Path, now: datetime) -> list[str]:
    """Whether the certificates in a PEM file have expired or do so within EXPIRY_WARNED_DAYS."""
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as exc:
        return [f"{path} cannot be read: {exc}"]
    problems = []
    for certificate in certificates:
        end = certificate.not_valid_after_utc
        if end < now + timedelta(days=EXPIRY_WARNED_DAYS):
            verb = "expired" if end < now else "expires"
            problems.append(
                f"a certificate in {path} {verb} on {end:%Y-%m-%d}: replace it, for example with"
                " streamedge fleet certificate"
            )
    return problems


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
