"""The control process: the admin address and cache eviction.

``admin/app.py`` has the routes. The process serves no viewers, so scanning a large cache folder
delays none.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from streamedge.admin.access.control import AccessControl
from streamedge.admin.access.same_origin import is_own_host
from streamedge.admin.app import OperatorParts, create_admin_app, operator_routes
from streamedge.admin.cloudfront import cloudfront_routes
from streamedge.admin.jobs.cache_jobs import edge_url, verify_kind, warm_kind
from streamedge.admin.jobs.jobs import Jobs
from streamedge.admin.status import LiveStatus
from streamedge.admin.viewers import LiveViewers
from streamedge.build.log_delivery import AccessLogs
from streamedge.build.origins import origin_identities
from streamedge.cache.storage.eviction import Evictor
from streamedge.cache.storage.folder import WORKERS_MAX
from streamedge.cache.storage.inspection import CacheInspector
from streamedge.config.schema.config import Config
from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.database import ControlDatabase
from streamedge.control.log import ControlLog
from streamedge.coordination.config_watch import ConfigWatch
from streamedge.coordination.effective_config import EffectiveConfig
from streamedge.coordination.invalidation_feed import InvalidationFeed
from streamedge.coordination.shared_state import SharedState
from streamedge.coordination.upgrade_status import UpgradeState
from streamedge.coordination.wakeups import ChangeEvent
from streamedge.delivery.hosts import host_name
from streamedge.media.containers.process import HelperLimits
from streamedge.media.posters import Posters
from streamedge.ops.background import Services, report_libraries, report_unhandled
from streamedge.ops.log import Log
from streamedge.ops.metrics import Counter, Counts, Gauge
from streamedge.ops.rate_limited import RateLimitedEvent
from streamedge.ops.threads import DEFAULT_THREADS, Threads
from streamedge.process.operators.monitoring import Monitoring
from streamedge.write_back.queue import WriteQueue

if TYPE_CHECKING:
    from streamedge.process.certificates import AdminCertificate
    from streamedge.process.fleet.parts import FleetParts

EVICTION_INTERVAL_S = 0.25  # while the cache grows
IDLE_EVICTION_INTERVAL_S = 0.5  # while it does not grow
EVICTION_RETRY_S = 5.0  # after a failed look at the cache folder
FAILURES_INTERVAL_S = 60.0  # between log lines about the same failure
METRICS_INTERVAL_S = 1.0
CERTIFICATE_INTERVAL_S = 1.0  # between looks at the files of the admin address's certificate


def run_control(shared: SharedState, listener: socket.socket, lifeline: int) -> None:
    """Serves the admin address until SIGTERM."""
    # Connections inherit it; asyncio sets it only on sockets that have a protocol number. Without
    # it the second write of a response waits 40 ms for the client's delayed ACK.
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    log = shared.open_log("control")
    try:
        asyncio.run(_serve(shared, listener, lifeline, log))
    finally:
        log.finish()


@dataclass(frozen=True, slots=True)
class _Process:
    """What the parts of this process use.

    Threads use ``database``, and may wait for its locks; the event loop uses ``loop_database``.
    """

    shared: SharedState
    log: Log
    counts: Counts
    database: ControlDatabase
    loop_database: ControlDatabase
    effective: EffectiveConfig
    change_event: ChangeEvent
    services: Services


def _start_process(shared: SharedState, log: Log) -> _Process:
    """Starts the heartbeats, the log and the metrics of this process."""
    loop = asyncio.get_running_loop()
    log.write_on(loop)
    shared.heartbeats.start_beating(shared.wakeups.control, loop)
    counts = Counts()
    report_unhandled(loop, log, counts)
    report_libraries(loop, log)
    counts.publish_in(shared.metrics.part(shared.wakeups.control))
    counts.add(Counter.WORKER_STARTS, "control")
    folder = shared.config_versions.config.edge.cache
    loop_database = ControlDatabase(folder, busy_timeout_s=0.0, checkpoints=False)
    return _Process(
        shared,
        log,
        counts,
        ControlDatabase(folder),
        loop_database,
        EffectiveConfig(shared.config_versions, loop_database, log),
        ChangeEvent(),
        Services(log, counts),
    )


async def _serve(shared: SharedState, listener: socket.socket, lifeline: int, log: Log) -> None:
    continues = _is_upgrading(shared)  # with the first heartbeat the upgrade goes on
    process = _start_process(shared, log)
    effective, services = process.effective, process.services
    watch = ConfigWatch(effective, AnnouncedHead(effective.config.edge.cache), log)
    watch.refresh()
    config = effective.config
    access_logs = AccessLogs(effective, log, process.counts)
    at_wakeup = [watch.refresh, process.change_event.notify, access_logs.notice]

    def on_wakeup() -> None:
        for call in at_wakeup:
            call()

    shared.wakeups.subscribe(shared.wakeups.control, on_wakeup)
    services.start("eviction", lambda: _evict(effective, log, process.counts))
    _start_metrics(services, log, process.counts)
    services.start("access_logs", access_logs.run)
    write_queue = _open_write_queue(shared, config)
    invalidation_feed = InvalidationFeed(
        config.edge.cache, shared.wakeups, shared.worker_status, process.change_event
    )
    fleet = _start_fleet(process, invalidation_feed, continues=continues)
    if fleet is not None:
        at_wakeup.append(fleet.notice)
    viewers = LiveViewers(shared.viewer_rows, shared.previous_viewer_rows)
    viewers.subscribe()
    monitoring = Monitoring(shared, lambda: effective.config, fleet, viewers, log)
    monitoring.start(services)
    parts = _operator_parts(process, config, invalidation_feed, fleet, monitoring.status, viewers)
    certificate = _certificate(config, log, services)
    is_unix = listener.family == socket.AF_UNIX
    app = create_admin_app(
        config.edge.name,
        shared,
        AccessControl(lambda: effective.config.admin, log, is_unix=is_unix),
        write_queue,
        [*operator_routes(parts), *_api_routes(process, config, invalidation_feed, fleet)],
        partial(_is_own_host, config.listen.admin, certificate),
        monitoring.metrics,
    )
    await _serve_app(app, certificate, listener, lifeline, monitoring.status)
    shared.wakeups.unsubscribe(shared.wakeups.control)
    viewers.close()
    watch.close()
    await parts.jobs.close()
    await parts.posters.close()
    await _stop_services(services, access_logs)
    process.counts.flush()
    if fleet is not None:
        await fleet.close(is_replaced=_is_upgrading(shared))
    if write_queue is not None:
        write_queue.close()
    process.database.close()
    process.loop_database.close()


def _operator_parts(
    process: _Process,
    config: Config,
    invalidation_feed: InvalidationFeed,
    fleet: FleetParts | None,
    status: LiveStatus,
    viewers: LiveViewers,
) -> OperatorParts:
    """What the operators' calls use; makes the jobs and the posters of the page."""
    effective, log = process.effective, process.log
    jobs = {
        "verify": verify_kind(config.edge.cache, log),
        "warm": warm_kind(lambda: edge_url(config)),
    }
    return OperatorParts(
        config=config,
        shared=process.shared,
        effective=effective,
        origin_identities=lambda: origin_identities(effective.config),
        control_log=ControlLog(
            process.database,
            items_kept=config.limits.invalidations,
            edge=_edge_in_fleet(config, fleet),
        ),
        invalidation_feed=invalidation_feed,
        change_event=process.change_event,
        status=status,
        viewers=viewers,
        posters=_posters(config, log),
        jobs=Jobs(jobs, log),
        fleet=fleet,
        completion=None if fleet is None else fleet.completion,
        log=log,
    )


def _api_routes(
    process: _Process,
    config: Config,
    invalidation_feed: InvalidationFeed,
    fleet: FleetParts | None,
) -> list[Route]:
    """CloudFront's API; in a fleet its changes are those of the fleet."""
    effective = process.effective
    return cloudfront_routes(
        process.database,
        lambda: effective.from_file,
        invalidation_feed,
        process.log,
        None if fleet is None else fleet.changes,
        _edge_in_fleet(config, fleet),
        None if fleet is None else fleet.completion.is_completed,
    )


def _edge_in_fleet(config: Config, fleet: FleetParts | None) -> str:
    """The edge's name in entries of the control log; "" in a fleet of one."""
    return "" if fleet is None else config.edge.name


async def _stop_services(services: Services, access_logs: AccessLogs) -> None:
    """Delivers the access logs first: it may take long, and the fleet hears this edge meanwhile."""
    await services.stop("access_logs")
    await access_logs.close()
    await services.stop()


async def _serve_app(
    app: Starlette,
    certificate: AdminCertificate | None,
    listener: socket.socket,
    lifeline: int,
    status: LiveStatus,
) -> None:
    """Serves the admin address until SIGTERM, or until the supervisor has gone."""
    loop = asyncio.get_running_loop()
    server = _server(app, certificate)
    _stop_on_signal(loop, lifeline, server, status)
    await server.serve(sockets=[listener])


def _stop_on_signal(
    loop: asyncio.AbstractEventLoop, lifeline: int, server: uvicorn.Server, status: LiveStatus
) -> None:
    """Ends ``server`` at SIGTERM, or when the supervisor has ended."""

    def stop() -> None:
        loop.remove_reader(lifeline)
        status.close()
        server.should_exit = True

    # The supervisor ends this process after its workers. ``serve`` would end it at a SIGINT, which
    # a terminal sends to all processes of the edge. At its end it raises the SIGTERM again that it
    # received; then ``stop`` is called again, which does nothing.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # Its threads inherit that: they are started now.
    loop.set_default_executor(Threads(DEFAULT_THREADS))
    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_reader(lifeline, stop)


def _start_metrics(services: Services, log: Log, counts: Counts) -> None:
    async def flush_metrics() -> None:
        counts.add(Counter.LOG_LINES_DROPPED, "control", log.take_dropped())
        counts.flush()

    services.start_periodic("metrics", METRICS_INTERVAL_S, flush_metrics)


def _server(app: Starlette, certificate: AdminCertificate | None) -> uvicorn.Server:
    """The HTTP server of the admin address; over TLS with a certificate."""
    context = None if certificate is None else certificate.context
    return uvicorn.Server(
        uvicorn.Config(
            app,
            ssl_context_factory=None if context is None else lambda *_default: context,
            # An address or a scheme that a client claims must not make it local.
            proxy_headers=False,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            date_header=False,
            timeout_graceful_shutdown=5,
        )
    )


def _is_own_host(
    admin: tuple[str, int] | Path, certificate: AdminCertificate | None, host: str
) -> bool:
    """Whether a request's Host is a name of the admin address."""
    own = {host_name(admin[0])} if isinstance(admin, tuple) else set()
    names = () if certificate is None else certificate.names
    return is_own_host(host, {"localhost", *own}, names)


def _certificate(config: Config, log: Log, services: Services) -> AdminCertificate | None:
    """The certificate of the admin address, reloaded when its files change; None: plain HTTP."""
    if config.admin.certificate is None or config.admin.key is None:
        return None
    from streamedge.process.certificates import AdminCertificate  # noqa: PLC0415

    certificate = AdminCertificate(config.admin.certificate, config.admin.key)
    services.start_periodic(
        "admin_certificate",
        CERTIFICATE_INTERVAL_S,
        lambda: certificate.reload_changed(log),
    )
    return certificate


def _posters(config: Config, log: Log) -> Posters:
    """The posters of the cache map; one is made at a time."""
    limits = config.limits

    def report(name: str, reason: str, detail: str) -> None:
        log.event("media_helper_failed", name=name, reason=reason, detail=detail)

    helper_limits = HelperLimits(1, limits.media_helper_memory, limits.media_helper_time)
    return Posters(config.edge.cache, helper_limits, report)


def _open_write_queue(shared: SharedState, config: Config) -> WriteQueue | None:
    """The queue; None where no behavior writes back."""
    if not shared.has_write_queue:
        return None
    return WriteQueue(
        config.edge.cache, WORKERS_MAX, config.limits.write_queue, shared.wakeups.replicator
    )


def _start_fleet(
    process: _Process, invalidation_feed: InvalidationFeed, *, continues: bool
) -> FleetParts | None:
    """Starts this edge's part in its fleet; None in a fleet of one, which imports none of it."""
    shared = process.shared
    if shared.fleet is None or shared.live_edges is None:
        return None
    from streamedge.process.fleet.parts import FleetContext, FleetParts  # noqa: PLC0415

    def load() -> int:
        return shared.metrics.gauge(Gauge.HTTP_CONNECTIONS) + shared.metrics.gauge(
            Gauge.RTMP_CONNECTIONS
        )

    context = FleetContext(
        process.effective,
        process.database,
        process.loop_database,
        invalidation_feed,
        shared.fleet,
        shared.live_edges,
        process.change_event,
        load,
        process.log,
    )
    fleet = FleetParts(context, continues=continues)
    fleet.start(process.services)
    return fleet


def _is_upgrading(shared: SharedState) -> bool:
    """Whether a control process is being replaced, and the edge does not stop."""
    is_stopping = shared.fleet is not None and shared.fleet.is_stopping
    return shared.upgrade.read().state is UpgradeState.STARTING and not is_stopping


async def _evict(effective: EffectiveConfig, log: Log, counts: Counts) -> None:
    """Keeps the cache within its size limit, until cancelled."""
    evictor: Evictor | None = None
    limit_bytes = 0
    not_removed = RateLimitedEvent(log, "cache_files_not_removed", interval_s=FAILURES_INTERVAL_S)
    failed = RateLimitedEvent(log, "eviction_failed", interval_s=FAILURES_INTERVAL_S)
    while True:
        try:
            edge = effective.config.edge
            if evictor is None or edge.cache_size != limit_bytes:
                limit_bytes = counts.gauges[Gauge.CACHE_LIMIT_BYTES] = edge.cache_size
                if evictor is not None:
                    evictor.close()
                evictor = Evictor(
                    edge.cache,
                    limit_bytes,
                    exempt_paths=CacheInspector(edge.cache).pinned_paths,
                )
            removed = await asyncio.to_thread(evictor.evict) if evictor.is_due() else []
        except (OSError, ValueError) as exc:
            failed.emit(time.monotonic(), error=str(exc))
            if evictor is not None:
                evictor.close()
            evictor = None
            await asyncio.sleep(EVICTION_RETRY_S)
            continue
        for file in removed:
            counts.add(Counter.EVICTIONS, file.kind)
            counts.add(Counter.EVICTED_BYTES, file.kind, file.size_bytes)
        failures = evictor.failures
        counts.gauges[Gauge.UNREMOVABLE_FILES] = len(failures)
        if failures:
            path, reason = next(iter(failures.items()))
            not_removed.emit(time.monotonic(), files=len(failures), path=path, reason=reason)
        if removed:
            log.event("evicted", files=len(removed), bytes=sum(file.size_bytes for file in removed))
        used_bytes = evictor.used_bytes
        is_idle = not removed and counts.gauges.get(Gauge.CACHE_BYTES) == used_bytes
        counts.gauges[Gauge.CACHE_BYTES] = used_bytes
        await asyncio.sleep(IDLE_EVICTION_INTERVAL_S if is_idle else EVICTION_INTERVAL_S)
