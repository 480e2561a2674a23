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
from streamedge.build.web import web_server
from streamedge.cache.objects import Cache
from streamedge.cache.storage.store import Store
from streamedge.config.schema.config import Config
from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.database import ControlDamagedError, ControlDatabase
from streamedge.control.invalidation_index import InvalidationIndex
from streamedge.control.log import ControlLog
from streamedge.coordination.effective_config import EffectiveConfig
from streamedge.coordination.fleet_status import FleetStatus
from streamedge.coordination.invalidation_feed import apply_invalidations
from streamedge.coordination.shared_state import SharedState
from streamedge.logs.batches import SPOOL_FOLDER, segments_folder
from streamedge.logs.spool import SpoolWriter
from streamedge.ops.background import Services, report_libraries, report_unhandled
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts
from streamedge.process.descriptors import descriptor_limit, open_descriptors, share_descriptors
from streamedge.process.listeners import WorkerListeners, proxied_listeners
from streamedge.process.traffic import CHECK_INTERVAL_S, FleetWatch, WorkerTraffic
from streamedge.process.upgrade.all_modules import import_all_of_workers
from streamedge.process.worker_end import Server, drain, on_signals, retire, wait_for_any
from streamedge.process.worker_peers import WorkerPeers, open_worker_peers
from streamedge.write_back.queue import WriteQueue

if TYPE_CHECKING:
    from streamedge.cache.invalidated import AppliedInvalidations
    from streamedge.control.fleet_positions import FleetPositions
    from streamedge.coordination.shared_writes import SharedWrites
    from streamedge.delivery.http.server import WebServer
    from streamedge.delivery.mixed_server import MixedServer
    from streamedge.delivery.rtmp.server import RtmpServer
    from streamedge.process.apply_config import ConfigApplier
    from streamedge.process.certificates import Certificates
    from streamedge.process.worker_writes import WorkerWrites

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


async def _serve(context: WorkerContext, log: Log) -> None:
    loop = asyncio.get_running_loop()
    log.write_on(loop)
    context.shared.heartbeats.start_beating(context.number, loop)
    counts = _counts(context)
    report_unhandled(loop, log, counts)
    report_libraries(loop, log)
    stopping, aborting, retiring = on_signals(loop, context.lifeline)
    folder = context.shared.config_versions.config.edge.cache
    # The event loop never waits for a lock of the database; threads may.
    database = ControlDatabase(folder, busy_timeout_s=CONTROL_BUSY_TIMEOUT_S)
    loop_database = ControlDatabase(folder, busy_timeout_s=0.0)
    effective = EffectiveConfig(context.shared.config_versions, database, log)
    await read_config(effective, AnnouncedHead(folder), stopping)
    if not stopping.is_set():
        await _serve_viewers(
            context, log, counts, effective, loop_database, stopping, aborting, retiring
        )
    loop.remove_reader(context.lifeline)
    database.close()
    loop_database.close()


async def _serve_viewers(
    context: WorkerContext,
    log: Log,
    counts: Counts,
    effective: EffectiveConfig,
    database: ControlDatabase,
    stopping: asyncio.Event,
    aborting: asyncio.Event,
    retiring: asyncio.Event,
) -> None:
    shared, config = context.shared, effective.config
    services = Services(log, counts)
    budget = share_descriptors(config, descriptor_limit(), open_descriptors())
    end = budget.connections_end if budget.is_short else 0
    cache = _cache(config, context.slot, database, log, counts, budget.open_extents)
    write_queue = _open_write_queue(config, context) if shared.has_write_queue else None
    peers = open_worker_peers(config, shared, database, cache, log, counts)
    writes = _open_writes(context, cache, database, peers, write_queue, log, counts)
    bindings = bind_origins(
        config,
        log,
        counts,
        write_queue,
        fleet=peers.fleet,
        fleet_writes=None if writes is None else writes.fleet_writes,
    )
    nearest = nearest_edges(config, shared, context.countries)
    spool = _open_spool(config, context.slot, log, counts)
    web = web_server(
        config, bindings, cache, log, counts, write_queue, context.countries, end, nearest, spool
    )
    traffic = _follow_fleet(services, shared.fleet, effective, cache, web)
    proxied = proxied_listeners(config.listen, context.listeners)
    certificates, front = context.certificates, None
    if certificates is not None:
        # The supervisor may have read them long ago.
        await certificates.reload_and_log(log)
        front = certificates.front
    await web.start(context.listeners.http, context.listeners.https, front, proxied)
    await asyncio.to_thread(_import_media_modules)
    from streamedge.build.rtmp import rtmp_server  # noqa: PLC0415
    from streamedge.process.apply_config import ConfigApplier, WorkerComponents, watch_config  # noqa: PLC0415

    rtmp = rtmp_server(
        config,
        bindings,
        cache,
        log,
        counts,
        context.countries,
        end,
        nearest,
        context.listeners.tunnel,
        spool,
    )
    traffic.subscribe(rtmp.direct)
    mixed = await _start_media(context, config, web, rtmp, log, counts, end)
    components = WorkerComponents(
        web,
        rtmp,
        cache,
        write_queue,
        certificates,
        context.countries,
        log,
        counts,
        peers,
        writes,
        mixed,
    )
    await peers.start(
        config, bindings, cache, context.listeners.fleet, services, log, counts, write_queue
    )
    applier = ConfigApplier(config, bindings, components)
    apply_new = peers.refreshing(
        partial(apply_invalidations, cache.invalidation_checker, (web.revoke, rtmp.revoke))
    )
    if writes is not None:
        apply_new = partial(_apply_and_check, apply_new, writes.shared_writes)
    services.start(
        "config", lambda: watch_config(applier, effective, shared, context.number, apply_new)
    )
    _start_services(services, context, applier)
    _announce_up(context, cache.store, log)
    _start_housekeeping(services, context, cache.store, log, counts)
    servers = (web, rtmp, mixed, peers)
    await wait_for_any(stopping, retiring)
    is_replaced = not stopping.is_set()
    await services.stop("config")
    if is_replaced:
        # A worker of the new program sends the queued writes from now on.
        await services.stop("replicator", "abandoned_writes")
        log.event("worker_retiring", pid=os.getpid())
        shared.wakeups.subscribe(context.number, apply_new)
        await retire(servers, applier.config.edge.drain, stopping)
    await _stop_serving(
        context, traffic, servers, None if is_replaced else writes, apply_new, aborting, log
    )
    await services.stop()
    await _close(cache, applier, peers, writes, write_queue, spool)
    counts.flush()
    log.event("worker_down")


def _start_services(services: Services, context: WorkerContext, applier: ConfigApplier) -> None:
    """Starts what the worker does besides serving: reports of viewers, and queued writes."""
    from streamedge.process.operators.viewer_reports import ViewerReporter  # noqa: PLC0415

    components = applier.components
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


async def _start_media(
    context: WorkerContext,
    config: Config,
    web: WebServer,
    rtmp: RtmpServer,
    log: Log,
    counts: Counts,
    descriptors_end: int,
) -> MixedServer:
    """Starts the listeners of RTMP, and those that it shares with HTTP."""
    from streamedge.build.mixed import mixed_server  # noqa: PLC0415

    proxied = proxied_listeners(config.listen, context.listeners)
    certificates = context.certificates
    front = None if certificates is None else certificates.front_without_tickets
    mixed = mixed_server(config, web, rtmp, front, log, counts, descriptors_end)
    await rtmp.start(context.listeners.rtmp, proxied)
    await mixed.start(context.listeners.mixed, context.listeners.rtmps, proxied)
    return mixed


async def _close(
    cache: Cache,
    applier: ConfigApplier,
    peers: WorkerPeers,
    writes: WorkerWrites | None,
    write_queue: WriteQueue | None,
    spool: SpoolWriter,
) -> None:
    """Closes what requests used, when none is left."""
    await spool.close()
    if writes is not None:
        await writes.close()
    await cache.close()
    for binding in applier.bindings.values():
        await binding.origin.close()
    await peers.close()
    if write_queue is not None:
        write_queue.close()


def _follow_fleet(
    services: Services,
    status: FleetStatus | None,
    effective: EffectiveConfig,
    cache: Cache,
    web: WebServer,
) -> WorkerTraffic:
    """What the worker does with viewers; in a fleet it follows the state of the edge."""
    traffic = WorkerTraffic()
    traffic.subscribe(web.handler.direct)
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


def _cache(
    config: Config,
    slot: int,
    database: ControlDatabase,
    log: Log,
    counts: Counts,
    open_extents: int,
) -> Cache:
    cache = Cache(
        Store(config.edge.cache, slot, log),
        log,
        counts,
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
    context: WorkerContext,
    cache: Cache,
    database: ControlDatabase,
    peers: WorkerPeers,
    write_queue: WriteQueue | None,
    log: Log,
    counts: Counts,
) -> WorkerWrites | None:
    """The worker's part in the writes of its fleet; None in a fleet of one."""
    if not context.shared.config_versions.config.fleet.engine:
        return None
    from streamedge.process.worker_writes import WorkerWrites  # noqa: PLC0415  # in a fleet only

    return WorkerWrites(context.shared, cache, database, peers.fleet, write_queue, log, counts)


def _apply_and_check(
    apply_new: Callable[[], AppliedInvalidations], shared_writes: SharedWrites
) -> AppliedInvalidations:
    applied = apply_new()
    shared_writes.check()
    return applied


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


def _open_spool(config: Config, slot: int, log: Log, counts: Counts) -> SpoolWriter:
    folder = segments_folder(config.edge.cache / SPOOL_FOLDER)
    return SpoolWriter(folder, f"worker-{slot}", log, counts)


def _announce_up(context: WorkerContext, store: Store, log: Log) -> None:
    """Notes that this worker serves viewers."""
    note_folder(context, store)
    context.shared.worker_status.mark_up(context.number)
    context.shared.wakeups.notify_at(context.shared.wakeups.control)
    log.event("worker_up", pid=os.getpid())


def _open_write_queue(config: Config, context: WorkerContext) -> WriteQueue:
    return WriteQueue(
        config.edge.cache,
        context.slot,
        config.limits.write_queue,
        context.shared.wakeups.replicator,
    )


async def _stop_serving(
    context: WorkerContext,
    traffic: WorkerTraffic,
    servers: Sequence[Server],
    writes: WorkerWrites | None,
    apply_new: Callable[[], object],
    aborting: asyncio.Event,
    log: Log,
) -> None:
    """Drains the servers, and ``writes`` if the edge ends."""
    shared = context.shared
    shared.worker_status.mark_down(context.number)
    shared.wakeups.notify_at(shared.wakeups.control)
    shared.wakeups.subscribe(context.number, apply_new)
    log.event("worker_draining")
    await drain(traffic, servers if writes is None else (*servers, writes), aborting)
    shared.wakeups.unsubscribe(context.number)


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


def _start_housekeeping(
    services: Services, context: WorkerContext, store: Store, log: Log, counts: Counts
) -> None:
    """Starts periodic work: metrics, changed certificates, a new country database."""
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
