"""The control process: the admin address, and the cache's size.

Owns /healthz and /metrics, and evicts; /writes is ``writes_admin``'s. It serves no viewer, so that
scanning a large cache folder delays nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamedge.cache.eviction import Evictor
from streamedge.cache.store import WORKERS_MAX
from streamedge.config.schema import Config
from streamedge.edge.composition import writes_back
from streamedge.edge.roster import Roster
from streamedge.edge.writes_admin import ERRORS, writes_routes
from streamedge.ops.log import Log, open_log
from streamedge.ops.metrics import Counter, Counts, Gauge, exposition
from streamedge.writing.journal import Journal

EVICTION_INTERVAL_S = 0.25  # while the cache grows
REST_INTERVAL_S = 1.0  # while it does not


def run_control(
    config: Config, listener: socket.socket, roster: Roster, metrics_folder: Path, lifeline: int
) -> None:
    """Serves the admin address until told to stop."""
    log = open_log(str(config.edge.log), "control")
    asyncio.run(_serve(config, listener, roster, metrics_folder, lifeline, log))
    log.flush()


async def _serve(
    config: Config,
    listener: socket.socket,
    roster: Roster,
    metrics_folder: Path,
    lifeline: int,
    log: Log,
) -> None:
    log.write_on(asyncio.get_running_loop())
    counts = Counts()
    counts.publish_in(metrics_folder)
    counts.add(Counter.WORKER_STARTS, "control")
    evicting = asyncio.create_task(_evict(config, log, counts))
    journal = None
    if writes_back(config):
        journal = Journal(config.edge.cache, WORKERS_MAX, config.limits.write_queue)
    server = _AdminServer(
        uvicorn.Config(
            create_admin_app(config.edge.name, roster, metrics_folder, journal),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            date_header=False,
            timeout_graceful_shutdown=5,
        )
    )

    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(lifeline)
        server.stopping.set()

    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_reader(lifeline, stop)
    await server.serve(sockets=[listener])
    evicting.cancel()
    await asyncio.gather(evicting, return_exceptions=True)
    if journal is not None:
        journal.close()


class _AdminServer(uvicorn.Server):
    """uvicorn's server, but for two habits: it would raise signals anew once it has ended well,
    and would wake ten times a second to see whether to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        await self.stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def create_admin_app(
    edge_name: str, roster: Roster, metrics_folder: Path, journal: Journal | None = None
) -> Starlette:
    """The admin address's application; ``journal`` is None where no behavior writes back."""

    def healthz(_request: Request) -> Response:
        up = roster.all_up
        said = {"edge": edge_name, "ready": up, "workers": roster.workers_up}
        return JSONResponse(said, 200 if up else 503)

    def metrics(_request: Request) -> Response:
        return Response(exposition(metrics_folder), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/metrics", metrics),
            *writes_routes(journal),
        ],
        exception_handlers=ERRORS,
    )


async def _evict(config: Config, log: Log, counts: Counts) -> None:
    """Holds the cache within its size, for as long as the process lives."""
    counts.gauges[Gauge.CACHE_LIMIT_BYTES] = config.edge.cache_size
    evictor: Evictor | None = None
    while True:
        try:
            if evictor is None:
                evictor = Evictor(config.edge.cache, config.edge.cache_size)
            removed = await asyncio.to_thread(evictor.evict) if evictor.is_due() else []
        except (OSError, ValueError) as exc:
            if evictor is not None:
                log.event("eviction_failed", error=str(exc))
            evictor = None
            await asyncio.sleep(5.0)
            continue
        for file in removed:
            counts.add(Counter.EVICTIONS, file.kind)
            counts.add(Counter.EVICTED_BYTES, file.kind, file.size_bytes)
        if removed:
            log.event("evicted", files=len(removed), bytes=sum(file.size_bytes for file in removed))
        used_bytes = evictor.used_bytes
        rests = not removed and counts.gauges.get(Gauge.CACHE_BYTES) == used_bytes
        if not rests:
            counts.gauges[Gauge.CACHE_BYTES] = used_bytes
            counts.flush()
        await asyncio.sleep(REST_INTERVAL_S if rests else EVICTION_INTERVAL_S)
