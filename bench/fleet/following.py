"""How fast edges follow: one that is 10,000 entries behind, and all at 1,000 entries a second.

The entries are appended as an edge's publisher does. That an edge has applied them in all of its
workers is what it reports to the others.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing

from bench.fleet.invalidations import port_of
from bench.options import Options
from bench.progress import note
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE
from bench.servers.fleet import DISTRIBUTION, PREFIX, Edge, Fleet, run_fleet
from bench.servers.server import BenchError, scratch_folder
from streamedge.fleet.entries import Entry, EntryKind, new_entry_id
from streamedge.fleet.position import START, line_of
from streamedge.shared_log.engine import Engine
from streamedge.shared_log.opening import open_engine
from tests.support.origins.counting_origin import counting_origin

EDGES = 10
BEHIND_ENTRIES = 10_000
RATE = 1_000
RATE_SECONDS = 3  # for each second of the options
BATCH_S = 0.01
TIMEOUT_S = 120.0
READ_ENTRIES = 5_000


def catch_up(options: Options) -> list[Figure]:
    """How long an edge takes whose link was cut while the log grew."""
    with (
        scratch_folder() as folder,
        counting_origin({}) as origin,
        run_fleet(folder, port_of(origin.url), EDGES, linked=True) as fleet,
    ):
        took_s = asyncio.run(_catch_up(fleet))
    return [
        Figure("entries behind", "", {STREAMEDGE: float(BEHIND_ENTRIES)}),
        Figure("caught up after the return of the link", "s", {STREAMEDGE: took_s}, Target(1.0)),
    ]


async def _catch_up(fleet: Fleet) -> float:
    """Seconds from the return of the link until all is applied."""
    behind = fleet.edges[-1]
    engine = open_engine(fleet.redis.url, PREFIX)
    line = line_of((await engine.bounds()).last)
    behind.link.cut()
    last = (await engine.append_many([_entry(n) for n in range(BEHIND_ENTRIES)], line=line))[-1]
    await _await_applied(engine, [edge.name for edge in fleet.edges[:-1]], last)
    note(f"{BEHIND_ENTRIES:,} entries are appended")
    began_s = time.monotonic()
    behind.link.restore()
    await _await_applied(engine, [behind.name], last)
    took_s = time.monotonic() - began_s
    await engine.close()
    return took_s


def rate(options: Options) -> list[Figure]:
    """Whether all edges apply all entries in the log's order, at a sustained rate."""
    count = int(RATE * RATE_SECONDS * options.seconds)
    with (
        scratch_folder() as folder,
        counting_origin({}) as origin,
        run_fleet(folder, port_of(origin.url), EDGES) as fleet,
    ):
        note(f"{count:,} invalidations, {RATE:,} a second")
        took_s, late_s, ids = asyncio.run(_publish(fleet, count))
        note("the edges are compared with the log")
        faults = sum(_differences(edge, ids) for edge in fleet.edges)
    return [
        Figure("invalidations", "", {STREAMEDGE: float(count)}),
        Figure("a second", "", {STREAMEDGE: count / took_s}, Target(0.99 * RATE, at_least=True)),
        Figure("until all edges had applied all, after the last", "s", {STREAMEDGE: late_s}),
        Figure(
            "missing, twice or in another order, on all edges",
            "",
            {STREAMEDGE: float(faults)},
            Target(0.0),
        ),
    ]


async def _publish(fleet: Fleet, count: int) -> tuple[float, float, list[str]]:
    """Seconds of publishing, seconds until all edges had applied it, and the ids in log order."""
    engine = open_engine(fleet.redis.url, PREFIX)
    start = (await engine.bounds()).last
    (start_id,) = await engine.entry_ids([start])
    last, sent = start, 0
    began_s = time.monotonic()
    while sent < count:
        due = min(count, int((time.monotonic() - began_s) * RATE)) - sent
        if due:
            entries = [_entry(sent + n) for n in range(due)]
            last = (await engine.append_many(entries, line=line_of(start)))[-1]
            sent += due
        await asyncio.sleep(BATCH_S)
    took_s = time.monotonic() - began_s
    await _await_applied(engine, [edge.name for edge in fleet.edges], last)
    late_s = time.monotonic() - began_s - took_s
    ids: list[str] = []
    position, entry_id = start, start_id or ""
    while position < last:
        batch = await engine.read_after(position, entry_id, count=READ_ENTRIES, wait_s=1.0)
        position, entry_id = batch[-1].position, batch[-1].id
        ids += [placed.id for placed in batch]
    await engine.close()
    return took_s, late_s, ids


def _entry(number: int) -> Entry:
    body = {
        "items": [f"/films/{number}/*"],
        "soft": False,
        "revoke": False,
        "id": f"I{number:013}",
        "caller_reference": "",
    }
    return Entry(new_entry_id(), EntryKind.INVALIDATION, "bench", time.time(), DISTRIBUTION, body)


async def _await_applied(engine: Engine, names: Sequence[str], position: int) -> None:
    """Waits until edges report that all of their workers have applied the log up to a position."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        presences = (await engine.presence_after(0.1)).by_name
        reported = {name: presences[name].position for name in names if name in presences}
        if len(reported) == len(names) and min(reported.values(), default=START) >= position:
            return
        if time.monotonic() > deadline_s:
            raise BenchError(f"after {TIMEOUT_S:.0f} s edges have applied {reported}")


def _differences(edge: Edge, ids: Sequence[str]) -> int:
    """How many entries an edge has not applied once, in the order of the log."""
    uri = f"file:{edge.cache / 'control.db'}?mode=ro"
    query = (
        "SELECT id FROM fleet_entries WHERE kind = 'invalidation' AND position IS NOT NULL"
        " ORDER BY {}"
    )
    with closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
        by_position, by_epoch = (
            [entry_id for (entry_id,) in connection.execute(query.format(order))]
            for order in ("position", "epoch")
        )
    wrong = abs(len(ids) - len(by_position))
    for order in (by_position, by_epoch):
        wrong += sum(one != other for one, other in zip(order, ids, strict=False))
    return wrong
