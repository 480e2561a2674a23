"""Failovers of the engine to a replica that lacks its last entries, again and again.

Each round invalidates on several edges, stops the replication, invalidates again, kills the engine,
and leads all links to the replica, which is the primary from then on. What an edge has acknowledged
must be on all edges afterwards, once each, and in the engine's log once.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from bench.fleet.invalidations import port_of
from bench.options import Options
from bench.progress import note
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE
from bench.servers.fleet import PREFIX, REDIS_OPTIONS, Edge, Fleet, run_fleet, until
from bench.servers.server import scratch_folder
from tests.support.engine.redis_server import RedisServer
from tests.support.origins.counting_origin import counting_origin

EDGES = 10
ROUNDS_PER_S = 2.5  # of the options' seconds
ENTRIES_KEPT = 2  # invalidations before the replication stops, in each round
LOST = 3  # behind it


def failovers(options: Options) -> list[Figure]:
    """Counts what is missing or twice."""
    rounds = max(4, int(ROUNDS_PER_S * options.seconds))
    with (
        scratch_folder() as folder,
        counting_origin({}) as origin,
        run_fleet(folder, port_of(origin.url), EDGES, linked=True) as fleet,
        ExitStack() as stack,
    ):
        acknowledged: list[str] = []
        times_s = []
        lost = 0
        primary = fleet.redis
        for number in range(rounds):
            replica = RedisServer(folder / f"redis-{number}", *REDIS_OPTIONS)
            stack.callback(replica.stop)
            replica.start()
            times_s.append(_fail_over(fleet, primary, replica, number, acknowledged))
            lost += LOST
            note(f"failover {number + 1} of {rounds}")
            primary = replica
        missing, twice = _faults(fleet.edges, acknowledged)
        ids = _ids_in_log(primary)
    repeated = sum(count - 1 for count in Counter(ids).values())
    return [
        Figure("failovers", "", {STREAMEDGE: float(rounds)}),
        Figure("acknowledged invalidations", "", {STREAMEDGE: float(len(acknowledged))}),
        Figure("of them behind the replica's end", "", {STREAMEDGE: float(lost)}),
        Figure("missing on an edge", "", {STREAMEDGE: float(missing)}, Target(0.0)),
        Figure("twice on an edge", "", {STREAMEDGE: float(twice)}, Target(0.0)),
        Figure("twice in the engine's log", "", {STREAMEDGE: float(repeated)}, Target(0.0)),
        Figure("until all edges had all, longest", "s", {STREAMEDGE: max(times_s)}),
    ]


def _fail_over(
    fleet: Fleet,
    primary: RedisServer,
    replica: RedisServer,
    number: int,
    acknowledged: list[str],
) -> float:
    """Fails over to the replica; returns how long it took until all edges had all entries."""
    replica.follow(primary)
    acknowledged += [
        _caller(fleet, number, each).invalidate(f"/kept/{number}/{each}")
        for each in range(ENTRIES_KEPT)
    ]
    if number % 2:  # else some of these may be lost, too
        _await_all(fleet.edges, acknowledged)
    replica.promote()
    for each in range(LOST):
        edge = _caller(fleet, number, ENTRIES_KEPT + each)
        acknowledged.append(edge.invalidate(f"/lost/{number}/{each}"))
    if number % 3:  # else they are not in the log yet when it fails
        _await_all(fleet.edges, acknowledged)
    began_s = time.monotonic()
    primary.kill()
    fleet.switch(replica.port)
    _await_all(fleet.edges, acknowledged, is_placed=True)
    return time.monotonic() - began_s


def _caller(fleet: Fleet, number: int, each: int) -> Edge:
    return fleet.edges[(number + 3 * each) % len(fleet.edges)]


def _await_all(edges: Sequence[Edge], ids: Sequence[str], *, is_placed: bool = False) -> None:
    """Waits until all edges have rows of these invalidations; ``is_placed``: in the shared log."""
    expected = set(ids)
    for edge in edges:

        def has_all(edge: Edge = edge) -> bool:
            rows = list(_rows(edge.cache))
            waits = any(position is None for _id, position in rows)
            return expected <= {row_id for row_id, _position in rows} and not (is_placed and waits)

        until(has_all, f"{edge.name} has not applied all entries")


def _faults(edges: Sequence[Edge], acknowledged: Sequence[str]) -> tuple[int, int]:
    """How many acknowledged invalidations are missing on an edge, and how many are twice."""
    missing = twice = 0
    for edge in edges:
        counts = Counter(row_id for row_id, _position in _rows(edge.cache))
        missing += sum(counts[row_id] == 0 for row_id in acknowledged)
        twice += sum(counts[row_id] > 1 for row_id in acknowledged)
    return missing, twice


def _rows(cache: Path) -> Iterator[tuple[str, int | None]]:
    """The ids of an edge's invalidations, and their positions in the shared log."""
    query = (
        "SELECT log.id, fleet_entries.position FROM log LEFT JOIN fleet_entries"
        " ON fleet_entries.epoch = log.epoch AND fleet_entries.has_row"
        " WHERE log.kind = 'invalidation'"
    )
    uri = f"file:{cache / 'control.db'}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
        yield from connection.execute(query).fetchall()


def _ids_in_log(server: RedisServer) -> list[str]:
    """The ids of all entries of the engine's log."""
    entries = server.call("XRANGE", f"{{{PREFIX}}}:log", "-", "+")
    return [fields[b"id"].decode() for _position, fields in entries]
