"""A worker process: listeners, cache and servers on one event loop, from fork to drain.

Owns the process's life. It ends when it is told to (SIGTERM) or when its supervisor is gone.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from streamedge.cache.cache import Cache
from streamedge.cache.store import Store
from streamedge.config.schema import Config
from streamedge.delivery.distributions import OriginBinding
from streamedge.edge.composition import bind_origins, web_server, writes_back
from streamedge.edge.listeners import WorkerListeners
from streamedge.edge.roster import Roster
from streamedge.ops.log import Log, open_log
from streamedge.ops.metrics import Counter, Counts
from streamedge.writing.ahead import WrittenAhead
from streamedge.writing.journal import Journal
from streamedge.writing.replicator import Replicator

if TYPE_CHECKING:
    from streamedge.edge.certificates import Certificates

HOUSEKEEPING_INTERVAL_S = 1.0
DRAIN_S = 30.0
# Thousands of viewers are long-lived objects: looking through all of them must stay rare.
GARBAGE_THRESHOLDS = (20_000, 50, 100)


@dataclass(frozen=True, slots=True)
class Post:
    """What the supervisor gives a worker: its number, its sockets and what all share."""

    number: int
    config: Config
    listeners: WorkerListeners
    certificates: Certificates | None  # None where nothing is served over TLS
    roster: Roster
    metrics_folder: Path
    lifeline: int  # readable once the supervisor is gone


def run_worker(post: Post) -> None:
    """Serves until told to stop."""
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    log = open_log(str(post.config.edge.log), f"worker-{post.number}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(post, log))
    log.flush()


async def _serve(post: Post, log: Log) -> None:
    loop = asyncio.get_running_loop()
    log.write_on(loop)
    config = post.config
    counts = Counts()
    counts.add(Counter.WORKER_STARTS, "worker")
    store = Store(config.edge.cache, post.number, log)
    cache = Cache(
        store,
        log,
        counts,
        open_extents=config.limits.open_extents,
        retries=config.limits.origin_retries,
    )
    journal = None
    if writes_back(config):
        journal = Journal(config.edge.cache, post.number, config.limits.write_queue)
    bindings = bind_origins(config, log, counts, journal)
    web = web_server(config, bindings, cache, log, counts, journal)
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_reader(post.lifeline, stopping.set)
    certificates = post.certificates
    if certificates is not None:
        look_for_certificates(certificates, log)  # the supervisor read them, perhaps long ago
    await web.start(
        post.listeners.http,
        post.listeners.https,
        None if certificates is None else certificates.front,
    )
    await asyncio.to_thread(_import_the_rest)
    from streamedge.edge.rtmp_composition import rtmp_server  # noqa: PLC0415

    rtmp = rtmp_server(config, bindings, cache, log, counts)
    await rtmp.start(post.listeners.rtmp)
    post.roster.up(post.number)
    log.event("worker_up", pid=os.getpid())
    counts.publish_in(post.metrics_folder)  # only now: viewers need not wait for its import
    housekeeping = asyncio.create_task(_keep_house(log, counts, certificates))
    replicating = None
    if journal is not None:
        replicator = _replicator(journal, bindings, cache, log, counts)
        replicating = asyncio.create_task(replicator.run())
    await stopping.wait()
    loop.remove_reader(post.lifeline)
    post.roster.down(post.number)
    log.event("worker_draining")
    await asyncio.gather(web.drain(DRAIN_S), rtmp.drain(DRAIN_S))
    if replicating is not None:
        replicating.cancel()
        await asyncio.gather(replicating, return_exceptions=True)
    await cache.close()
    for binding in bindings.values():
        await binding.origin.close()
    if journal is not None:
        journal.close()
    housekeeping.cancel()
    counts.flush()
    log.event("worker_down")


def _replicator(
    journal: Journal,
    bindings: dict[str, OriginBinding],
    cache: Cache,
    log: Log,
    counts: Counts,
) -> Replicator:
    """What sends queued writes, if it is this worker's turn to."""

    bindings_by_identity = {one.identity: one for one in bindings.values()}

    async def replicated(key: str) -> None:
        identity, _, name = key.partition("\n")
        binding = bindings_by_identity.get(identity)
        for changed in (key,) if binding is None else binding.keys_written(name):
            cache.refuse_older(changed, time.time())

    writers = {name: one.writer for name, one in bindings.items() if one.writer is not None}
    readers = {
        name: one.origin.origin if isinstance(one.origin, WrittenAhead) else one.origin
        for name, one in bindings.items()
    }
    return Replicator(journal, writers, readers, replicated, log, counts)


def _import_the_rest() -> None:
    """Imports what hits over HTTP can do without, while they are served: a quarter of a second."""
    import_module("streamedge.edge.rtmp_composition")


async def _keep_house(log: Log, counts: Counts, certificates: Certificates | None) -> None:
    """Hands numbers over and looks for new certificates, while the process lives."""
    while True:
        await asyncio.sleep(HOUSEKEEPING_INTERVAL_S)
        counts.flush()
        if certificates is not None:
            look_for_certificates(certificates, log)


def look_for_certificates(certificates: Certificates, log: Log) -> None:
    """Takes new certificates into use; a line for each, and for each that cannot be used."""
    for change in certificates.look_again():
        if change.refused is not None:
            log.event("certificate_refused", reason=change.refused)
        else:
            log.event(
                "certificate_loaded",
                certificate=change.certificate,
                names=change.names,
                expires=change.expires,
            )
