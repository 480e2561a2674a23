"""A worker process: listeners, cache and servers on one event loop, from fork to drain.

It drains and ends on SIGTERM, or when its supervisor has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import uvloop

from streamedge.access.geo import CountryDatabase, CountryDatabaseChange
from streamedge.build.nearest import nearest_edges
from streamedge.build.origins import bind_origins
from streamedge.build.parts import ServerParts
from streamedge.build.web import web_server
from streamedge.cache.objects import Cache
from streamedge.cache.storage.store import Store
from streamedge.config.schema.config import Config
from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.database import ControlDamagedError, ControlDatabase
from streamedge.control.invalidation_index import InvalidationIndex
from streamedge.control.log import ControlLog
from streamedge.coordination.effective_config import EffectiveConfig
from streamedge.coordination.invalidation_feed import Revoke, apply_invalidations
from streamedge.coordination.shared_state import SharedState
from streamedge.logs.batches import SPOOL_FOLDER, segments_folder
from streamedge.logs.spool import SpoolWriter
from streamedge.ops.background import Services, report_libraries, report_unhandled
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts
from streamedge.ops.threads import DEFAULT_THREADS, Threads
from streamedge.process.descriptors import descriptor_limit, open_descriptors, share_descriptors
from streamedge.process.listeners import WorkerListeners, proxied_listeners
from streamedge.process.traffic import CHECK_INTERVAL_S, FleetWatch, WorkerTraffic
from streamedge.process.upgrade.all_modules import import_all_of_workers
from streamedge.process.worker_end import (
    Drained,
    EndEvents,
    Server,
    drain,
    on_signals,
    retire,
    wait_for_any,
)
from streamedge.process.worker_peers import WorkerPeers, open_worker_peers
from streamedge.write_back.queue import WriteQueue

if TYPE_CHECKING:
    from streamedge.cache.invalidated import AppliedInvalidations
    from streamedge.control.fleet_positions import FleetPositions
    from streamedge.delivery.http.server import WebServer
    from streamedge.delivery.mixed_server import MixedServer
    from streamedge.delivery.rtmp.server import RtmpServer
    from streamedge.process.apply_config import ConfigApplier
    from streamedge.process.certificates import Certificates
    from streamedge.process.worker_writes import WorkerWrites

    ApplyInvalidations = Callable[[], AppliedInvalidations]

HOUSEKEEPING_INTERVAL_S = 1.0
EDGE_NAMES_INTERVAL_S = 1.0  # in which workers notice that edges have joined the fleet
CONTROL_BUSY_TIMEOUT_S = 1.0
CONTROL_PATIENCE_S = 1.0  # for the database at a start, if the API has no resources
CONTROL_POLL_S = 0.25  # there is no notification when the database can be read again
# Thousands of viewers are long-lived objects, so full collections must be rare.
GARBAGE_THRESHOLDS = (20_000, 50, 100)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What the supervisor passes to a worker: its number, its sockets and the shared state.

    ``slot``: its number among all workers that run, with those from before an upgrade.
    """

    number: int
    slot: int
    listeners: WorkerListeners
    certificates: Certificates | None  # None without listeners for TLS
    countries: CountryDatabase
    shared: SharedState
    lifeline: int  # a pipe that becomes readable when the supervisor ends


def run_worker(context: WorkerContext) -> None:
    """Serves viewers until SIGTERM."""
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    log = context.shared.open_log(f"worker-{context.number}")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(context, log))
    finally:
        log.finish()


@dataclass(frozen=True, slots=True)
class _Process:
    """What all parts of a worker use. ``database`` never waits for a lock."""

    context: WorkerContext
    log: Log
    counts: Counts
    effective: EffectiveConfig
    database: ControlDatabase
    services: Services
    end: EndEvents


@dataclass(frozen=True, slots=True)
class _WorkerFleet:
    """The worker's part in its fleet. ``writes``: None in a fleet of one."""

    peers: WorkerPeers
    writes: WorkerWrites | None


async def _serve(context: WorkerContext, log: Log) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(Threads(DEFAULT_THREADS))
    log.write_on(loop)
    context.shared.heartbeats.start_beating(context.number, loop)
    counts = _counts(context)
    report_unhandled(loop, log, counts)
    report_libraries(loop, log)
    end = on_signals(loop, context.lifeline)
    folder = context.shared.config_versions.config.edge.cache
    # The event loop never waits for a lock of the database; threads may.
    database = ControlDatabase(folder, busy_timeout_s=CONTROL_BUSY_TIMEOUT_S)
    loop_database = ControlDatabase(folder, busy_timeout_s=0.0)
    effective = EffectiveConfig(context.shared.config_versions, database, log)
    await read_config(effective, AnnouncedHead(folder), end.stopping)
    if not end.stopping.is_set():
        services = Services(log, counts)
        process = _Process(context, log, counts, effective, loop_database, services, end)
        await _serve_viewers(process)
    loop.remove_reader(context.lifeline)
    database.close()
    loop_database.close()


async def _serve_viewers(process: _Process) -> None:
    config, services = process.effective.config, process.services
    parts, fleet = _open_parts(process, config)
    web = web_server(config, parts)
    traffic = _follow_fleet(process, parts.cache, web)
    await _start_web(process, config, web)
    await asyncio.to_thread(_import_media_modules)
    rtmp, mixed = await _start_media(process, config, parts, web, traffic)
    await fleet.peers.start(config, parts, process.context.listeners.fleet, services)
    applier = _config_applier(process, config, parts, fleet, (web, rtmp, mixed))
    apply_new = _invalidation_reader(parts.cache, fleet, (web.revoke, rtmp.revoke))
    _start_services(process, applier, apply_new)
    _announce_up(process, parts.cache.store)
    _start_housekeeping(process, parts.cache.store)
    servers = (web, rtmp, mixed, fleet.peers)
    is_replaced = await _wait_for_end(process, applier, servers, apply_new)
    await _stop_serving(process, traffic, servers, None if is_replaced else fleet.writes, apply_new)
    await services.stop()
    await _close(parts, fleet, applier)
    process.counts.flush()
    process.log.event("worker_down")


def _open_parts(process: _Process, config: Config) -> tuple[ServerParts, _WorkerFleet]:
    """Opens what responses are made of: the cache, the queue of writes, origins and the fleet."""
    context, log, counts = process.context, process.log, process.counts
    shared = context.shared
    budget = share_descriptors(config, descriptor_limit(), open_descriptors())
    cache = _cache(process, config, budget.open_extents)
    write_queue = _open_write_queue(config, context) if shared.has_write_queue else None
    peers = open_worker_peers(config, shared, process.database, cache, log, counts)
    writes = _open_writes(process, cache, peers, write_queue)
    bindings = bind_origins(
        config,
        log,
        counts,
        write_queue,
        fleet=peers.fleet,
        fleet_writes=None if writes is None else writes.fleet_writes,
    )
    parts = ServerParts(
        bindings,
        cache,
        log,
        counts,
        context.countries,
        write_queue,
        nearest_edges(config, shared, context.countries),
        _open_spool(process, config),
        budget.connections_end if budget.is_short else 0,
    )
    return parts, _WorkerFleet(peers, writes)


async def _start_web(process: _Process, config: Config, web: WebServer) -> None:
    context, front = process.context, None
    if context.certificates is not None:
        # The supervisor may have read them long ago.
        await context.certificates.reload_and_log(process.log)
        front = context.certificates.front
    listeners = context.listeners
    await web.start(
        listeners.http, listeners.https, front, proxied_listeners(config.listen, listeners)
    )


async def _start_media(
    process: _Process,
    config: Config,
    parts: ServerParts,
    web: WebServer,
    traffic: WorkerTraffic,
) -> tuple[RtmpServer, MixedServer]:
    """Starts the listeners of RTMP, and those that it shares with HTTP."""
    from streamedge.build.mixed import mixed_server  # noqa: PLC0415
    from streamedge.build.rtmp import rtmp_server  # noqa: PLC0415

    listeners, certificates = process.context.listeners, process.context.certificates
    proxied = proxied_listeners(config.listen, listeners)
    front = None if certificates is None else certificates.front_without_tickets
    rtmp = rtmp_server(config, parts, listeners.tunnel)
    traffic.subscribe(rtmp.set_traffic)
    mixed = mixed_server(config, web, rtmp, front, parts)
    await rtmp.start(listeners.rtmp, proxied)
    await mixed.start(listeners.mixed, listeners.rtmps, proxied)
    return rtmp, mixed


def _config_applier(
    process: _Process,
    config: Config,
    parts: ServerParts,
    fleet: _WorkerFleet,
    servers: tuple[WebServer, RtmpServer, MixedServer],
) -> ConfigApplier:
    """The owner of the running config and of its origins."""
    from streamedge.process.apply_config import ConfigApplier, WorkerComponents  # noqa: PLC0415

    context = process.context
    web, rtmp, mixed = servers
    components = WorkerComponents(
        web,
        rtmp,
        parts.cache,
        parts.write_queue,
        context.certificates,
        context.countries,
        process.log,
        process.counts,
        fleet.peers,
        fleet.writes,
        mixed,
    )
    return ConfigApplier(config, parts.bindings, components)


def _invalidation_reader(
    cache: Cache, fleet: _WorkerFleet, revokes: Sequence[Revoke]
) -> ApplyInvalidations:
    """What the worker does at a wake-up: it applies what the control log has new."""
    apply_new = fleet.peers.refreshing(
        partial(apply_invalidations, cache.invalidation_checker, revokes)
    )
    writes = fleet.writes
    return apply_new if writes is None else partial(_apply_and_check, apply_new, writes)


def _apply_and_check(apply_new: ApplyInvalidations, writes: WorkerWrites) -> AppliedInvalidations:
    applied = apply_new()
    writes.shared_writes.check()
    return applied


def _start_services(
    process: _Process, applier: ConfigApplier, apply_new: ApplyInvalidations
) -> None:
    """Starts the rest: new configs, reports of viewers, queued writes."""
    from streamedge.process.apply_config import watch_config  # noqa: PLC0415
    from streamedge.process.operators.viewer_reports import ViewerReporter  # noqa: PLC0415

    context, services, components = process.context, process.services, applier.components
    services.start(
        "config",
        lambda: watch_config(applier, process.effective, context.shared, context.number, apply_new),
    )
    reporter = ViewerReporter(
        context.shared.viewer_rows,
        context.number,
        components.web,
        components.rtmp,
        context.countries.country,
    )
    services.start("viewers", reporter.run)
    services.start("replicator", applier.replicate)
    services.start("abandoned_writes", applier.end_abandoned_writes)


async def _wait_for_end(
    process: _Process,
    applier: ConfigApplier,
    servers: Sequence[Server],
    apply_new: ApplyInvalidations,
) -> bool:
    """Waits for the order to end; returns whether workers of a new program take over.

    In that case the viewers have left, or ``edge.drain`` has passed.
    """
    end, services = process.end, process.services
    await wait_for_any(end.stopping, end.retiring)
    is_replaced = not end.stopping.is_set()
    await services.stop("config")
    if is_replaced:
        # A worker of the new program sends the queued writes from now on.
        await services.stop("replicator", "abandoned_writes")
        process.log.event("worker_retiring", pid=os.getpid())
        process.context.shared.wakeups.subscribe(process.context.number, apply_new)
        await retire(servers, applier.config.edge.drain, end.stopping)
    return is_replaced


async def _close(parts: ServerParts, fleet: _WorkerFleet, applier: ConfigApplier) -> None:
    """Closes what requests used, when none is left."""
    if parts.spool is not None:
        await parts.spool.close()
    if fleet.writes is not None:
        await fleet.writes.close()
    await parts.cache.close()
    for binding in applier.bindings.values():
        await binding.origin.close()
    await fleet.peers.close()
    if parts.write_queue is not None:
        parts.write_queue.close()


def _follow_fleet(process: _Process, cache: Cache, web: WebServer) -> WorkerTraffic:
    """What the worker does with viewers; in a fleet it follows the state of the edge."""
    traffic = WorkerTraffic()
    traffic.subscribe(web.handler.set_traffic)
    status, effective, services = process.context.shared.fleet, process.effective, process.services
    if status is not None:
        watch = FleetWatch(
            status,
            cache.invalidation_checker,
            lambda: effective.config.fleet.when_lost,
            traffic,
        )
        watch.apply()
        web.handler.batch.before_hits = watch.check_lease
        services.start_periodic("fleet", CHECK_INTERVAL_S, watch.check)
        services.start_periodic("edge_names", EDGE_NAMES_INTERVAL_S, web.handler.follow_edge_names)
    return traffic


def _counts(context: WorkerContext) -> Counts:
    counts = Counts()
    counts.publish_in(context.shared.metrics.part(context.number))
    counts.add(Counter.WORKER_STARTS, "worker")
    # They are 0 from the start, so that Prometheus sees the first one as an increase.
    for kind in ("cache_full", "unhandled_exception", "rtmp_internal"):
        counts.tally(Counter.ERRORS, kind)
    counts.tally(Counter.LATE_SENDS, "rtmp")
    return counts


def _cache(process: _Process, config: Config, open_extents: int) -> Cache:
    database, log = process.database, process.log
    cache = Cache(
        Store(config.edge.cache, process.context.slot, log),
        log,
        process.counts,
        open_extents=open_extents,
        retries=config.limits.origin_retries,
        quick_abort_bytes=config.limits.quick_abort,
        records_bytes=config.limits.records,
        invalidation_index=InvalidationIndex(
            ControlLog(database),
            log,
            items_kept=config.limits.invalidations,
            fleet=_fleet_positions(database) if config.fleet.engine else None,
        ),
    )
    cache.invalidation_checker.apply_new()
    return cache


def _fleet_positions(database: ControlDatabase) -> FleetPositions:
    from streamedge.control.fleet_positions import FleetPositions, read_placements  # noqa: PLC0415  # in a fleet only

    return FleetPositions(partial(read_placements, database))


def _open_writes(
    process: _Process, cache: Cache, peers: WorkerPeers, write_queue: WriteQueue | None
) -> WorkerWrites | None:
    """The worker's part in the writes of its fleet; None in a fleet of one."""
    shared = process.context.shared
    if not shared.config_versions.config.fleet.engine:
        return None
    from streamedge.process.worker_writes import WorkerWrites  # noqa: PLC0415  # in a fleet only

    return WorkerWrites(
        shared, cache, process.database, peers.fleet, write_queue, process.log, process.counts
    )


async def read_config(
    effective: EffectiveConfig, head: AnnouncedHead, stopping: asyncio.Event
) -> None:
    """Reads the config before the worker serves; waits for the control database if it must.

    If the API has resources, the worker does not serve without the database: another distribution
    would answer for their hosts. Otherwise it starts after CONTROL_PATIENCE_S and uses no cached
    data until the database can be read. It does not wait for a damaged database.
    """
    until_s = time.monotonic() + CONTROL_PATIENCE_S
    while not stopping.is_set():
        await asyncio.to_thread(effective.refresh)
        if effective.fault is None or isinstance(effective.fault, ControlDamagedError):
            return
        if time.monotonic() >= until_s and not head.has_resources:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONTROL_POLL_S):
                await stopping.wait()


def _open_spool(process: _Process, config: Config) -> SpoolWriter:
    folder = segments_folder(config.edge.cache / SPOOL_FOLDER)
    return SpoolWriter(folder, f"worker-{process.context.slot}", process.log, process.counts)


def _announce_up(process: _Process, store: Store) -> None:
    """Notes that this worker serves viewers."""
    context = process.context
    note_folder(context, store)
    context.shared.worker_status.mark_up(context.number)
    context.shared.wakeups.notify_at(context.shared.wakeups.control)
    process.log.event("worker_up", pid=os.getpid())


def _open_write_queue(config: Config, context: WorkerContext) -> WriteQueue:
    return WriteQueue(
        config.edge.cache,
        context.slot,
        config.limits.write_queue,
        context.shared.wakeups.replicator,
    )


async def _stop_serving(
    process: _Process,
    traffic: WorkerTraffic,
    servers: Sequence[Server],
    writes: WorkerWrites | None,
    apply_new: ApplyInvalidations,
) -> None:
    """Drains the servers, and ``writes`` if the edge ends."""
    shared, number = process.context.shared, process.context.number
    shared.worker_status.mark_down(number)
    shared.wakeups.notify_at(shared.wakeups.control)
    shared.wakeups.subscribe(number, apply_new)
    process.log.event("worker_draining")
    drained: list[Drained] = [*servers] if writes is None else [*servers, writes]
    await drain(traffic, drained, process.end.aborting)
    shared.wakeups.unsubscribe(number)


def _import_media_modules() -> None:
    """Imports modules that HTTP hits do not need; takes 250 ms while hits are already served."""
    import_module("streamedge.process.apply_config")


async def _import_all(log: Log) -> None:
    """Imports what is missing, so that none is read from the files of another version later."""
    began_s = time.monotonic()
    await asyncio.to_thread(import_all_of_workers)
    log.event("modules_imported", seconds=round(time.monotonic() - began_s, 3))


def note_folder(context: WorkerContext, store: Store) -> None:
    """Notes for ``/healthz`` and alerts whether this worker lacks the cache folder."""
    is_optional = context.shared.config_versions.config.edge.cache_optional
    context.shared.heartbeats.note_folder(
        context.number, lacks=not (store.is_usable or is_optional)
    )


def _start_housekeeping(process: _Process, store: Store) -> None:
    """Starts periodic work: metrics, changed certificates, a new country database."""
    context, services = process.context, process.services
    log, counts = process.log, process.counts
    certificates, countries = context.certificates, context.countries

    async def flush_metrics() -> None:
        counts.add(Counter.LOG_LINES_DROPPED, "worker", log.take_dropped())
        counts.flush()
        note_folder(context, store)

    async def reload_changed_countries() -> None:
        if countries.database is None:
            return
        # Reading a database takes 100 ms; in a thread it delays no viewer.
        change = await asyncio.to_thread(countries.reload_if_changed)
        if change is not None:
            log_countries_change(change, log)

    services.start("imports", lambda: _import_all(log))
    services.start_periodic("metrics", HOUSEKEEPING_INTERVAL_S, flush_metrics)
    if certificates is not None:
        loaded = certificates

        async def reload_certificates() -> None:
            await loaded.reload_and_log(log)

        services.start_periodic("certificates", HOUSEKEEPING_INTERVAL_S, reload_certificates)
    services.start_periodic("countries", HOUSEKEEPING_INTERVAL_S, reload_changed_countries)


def log_countries_change(change: CountryDatabaseChange, log: Log) -> None:
    """Logs that a new country database was loaded, or why it was refused."""
    if change.refused is not None:
        log.event("countries_refused", reason=change.refused)
    else:
        log.event("countries_loaded", database=change.database, built=change.built)
