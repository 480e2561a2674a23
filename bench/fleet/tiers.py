"""What a tier costs the origin and the viewers: crowds, a killed owner, misses, a new edge."""

from __future__ import annotations

import asyncio
import http.client
import json
import statistics
import threading
import time
from collections.abc import Sequence

from bench.fleet.invalidations import port_of
from bench.fleet.probes import Probe, get_all, probes
from bench.loads.fleet_readers import ReadersPlan, ReadersResult, read_all
from bench.options import Options
from bench.progress import note
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE
from bench.servers.fleet import PREFIX, Edge, Fleet, names_of, run_fleet, until
from bench.servers.links import run_links
from bench.servers.server import LOOPBACK, BenchError, scratch_folder
from streamedge.fleet.entries import Entry, EntryKind, new_entry_id
from streamedge.fleet.members import Member
from streamedge.fleet.ownership import ranks
from streamedge.fleet.position import line_of
from streamedge.shared_log.opening import open_engine
from tests.support.origins.counting_origin import CountingOrigin, content, counting_origin

EDGES = 10
READERS = 20
OBJECTS = 50
SIZES_BYTES = (30_000, 120_000, 300_000, 700_000)
KILLED_AT = 0.3
DELAY_S = 0.020
MISSES_PER_S = 10  # of the options' seconds
KEYS = 20_000
JOINED_OBJECTS = 100


def origin_bytes(options: Options) -> list[Figure]:
    """A cold crowd on all edges; then other objects, with an owner killed."""
    readers = max(2, min(READERS, int(options.seconds)))
    with (
        scratch_folder() as folder,
        counting_origin({}) as origin,
        run_fleet(folder, port_of(origin.url), EDGES, tier=names_of(EDGES)) as fleet,
    ):
        ports = [edge.http_port for edge in fleet.edges]
        cold = _crowd(origin, ports, _sizes("cold"), readers)
        note("the cold crowd has read all")
        sizes = _sizes("killed")
        killing = threading.Thread(target=_kill_at, args=[origin, sizes, fleet.edges[0]])
        before = origin.total_bytes
        killing.start()
        killed = read_with(origin, ports, sizes, readers)
        killing.join()
        killed_share = (origin.total_bytes - before) / sum(sizes.values())
    count = f"{EDGES} edges × {readers} cold readers of {OBJECTS} objects"
    return [
        Figure(f"origin bytes ÷ the objects', {count}", "", {STREAMEDGE: cold[0]}, Target(1.02)),
        Figure("wrong or missing responses", "", {STREAMEDGE: _wrong(cold[1])}, Target(0.0)),
        Figure(
            f"the same, an owner killed at {100 * KILLED_AT:.0f} %",
            "",
            {STREAMEDGE: killed_share},
            Target(1.15),
        ),
        Figure("wrong or missing responses", "", {STREAMEDGE: _wrong(killed)}, Target(0.0)),
        Figure("readers' changes of the edge", "", {STREAMEDGE: float(killed.changes)}),
        Figure("seconds of the crowds", "s", {STREAMEDGE: cold[1].seconds + killed.seconds}),
    ]


def _sizes(folder: str) -> dict[str, int]:
    return {
        f"{folder}/object-{number}": SIZES_BYTES[number % len(SIZES_BYTES)] + number
        for number in range(OBJECTS)
    }


def _wrong(result: ReadersResult) -> float:
    return float(len(result.wrong))


def _crowd(
    origin: CountingOrigin, ports: Sequence[int], sizes: dict[str, int], readers: int
) -> tuple[float, ReadersResult]:
    before = origin.total_bytes
    result = read_with(origin, ports, sizes, readers)
    return (origin.total_bytes - before) / sum(sizes.values()), result


def read_with(
    origin: CountingOrigin, ports: Sequence[int], sizes: dict[str, int], readers: int
) -> ReadersResult:
    """Gives the origin these objects, and reads them on all edges."""
    origin.contents |= {name: content(name, size) for name, size in sizes.items()}
    return read_all(ReadersPlan(ports, sizes, readers))


def _kill_at(origin: CountingOrigin, sizes: dict[str, int], edge: Edge) -> None:
    before = origin.total_bytes
    limit_bytes = before + KILLED_AT * sum(sizes.values())
    until(lambda: origin.total_bytes >= limit_bytes, "the crowd does not read")
    edge.kill()


def misses(options: Options) -> list[Figure]:
    """Objects that the parent has and the child does not, beside hits at the parent."""
    count = max(20, int(MISSES_PER_S * options.seconds))
    names = [f"object-{number}" for number in range(count)]
    with (
        scratch_folder() as folder,
        counting_origin(dict.fromkeys([*names, "first"], 1000)) as origin,
        run_fleet(folder, port_of(origin.url), 2, tier=names_of(1)) as fleet,
        run_links() as links,
    ):
        parent, child = fleet.edges
        peers, viewers = links.open(parent.peer_port), links.open(parent.http_port)
        peers.delay(DELAY_S)
        viewers.delay(DELAY_S)
        _readdress(fleet, parent, child, f"{LOOPBACK}:{peers.port}")
        with probes([parent, child]) as (at_parent, at_child):
            distant = Probe(parent, viewers.port)
            for name in ["first", *names]:
                get_all([at_parent], f"/{name}")
            before = origin.total_bytes
            _time_s(at_child, "first")  # connects
            hits_s = [_time_s(distant, name) for name in names]
            misses_s = [_time_s(at_child, name) for name in names]
            read = origin.total_bytes - before
            distant.close()
    if read:
        raise BenchError(
            f"{read} bytes came from the origin: these were no misses through the tier"
        )
    round_trip_s = statistics.median(hits_s)
    cuts = statistics.quantiles([1000 * (s - round_trip_s) for s in misses_s], n=100)
    return [
        Figure("a hit at the parent from there, median", "ms", {STREAMEDGE: 1000 * round_trip_s}),
        Figure(
            "a miss through the tier, median: beyond that",
            "ms",
            {STREAMEDGE: cuts[49]},
            Target(5.0),
        ),
        Figure("a miss through the tier, P99: beyond that", "ms", {STREAMEDGE: cuts[98]}),
    ]


def _time_s(viewer: Probe, name: str) -> float:
    began_s = time.monotonic()
    (answer,) = get_all([viewer], f"/{name}")
    if answer.status != http.client.OK:
        raise BenchError(f"{name}: {answer.status}")
    return time.monotonic() - began_s


def _readdress(fleet: Fleet, edge: Edge, seen_by: Edge, address: str) -> None:
    """Makes all edges reach this one at another address."""

    async def publish() -> None:
        engine = open_engine(fleet.redis.url, PREFIX)
        snapshot = await engine.snapshot()
        body = json.loads(snapshot.members[edge.name].body) | {"peer_address": address}
        entry = Entry(new_entry_id(), EntryKind.MEMBER, "bench", time.time(), "", body)
        documents = {edge.name: json.dumps(body)}
        await engine.append(entry, line=line_of(snapshot.position), documents=documents)
        await engine.close()

    asyncio.run(publish())

    def is_seen() -> bool:
        edges = seen_by.admin("GET", "/fleet")["edges"]
        return any(one["peer_address"] == address for one in edges)

    until(is_seen, f"{seen_by.name} does not see the address")


def joins(options: Options) -> list[Figure]:
    """An eleventh edge: keys that move, and origin bytes of objects that the fleet has."""
    members = [Member(name, peer_address="127.0.0.1:1") for name in names_of(EDGES + 1)]
    moved = sum(
        ranks(str(key), 0, members)[0] != ranks(str(key), 0, members[:-1])[0] for key in range(KEYS)
    )
    sizes = {f"joined/object-{number}": 50_000 + number for number in range(JOINED_OBJECTS)}
    with (
        scratch_folder() as folder,
        counting_origin(sizes) as origin,
        run_fleet(folder, port_of(origin.url), EDGES, tier=names_of(EDGES + 1)) as fleet,
    ):
        with probes(fleet.edges) as viewers:
            for number, name in enumerate(sizes):
                get_all([viewers[number % EDGES]], f"/{name}")
        before = origin.total_bytes
        fleet.add(names_of(EDGES + 1)[-1])
        ports = [edge.http_port for edge in fleet.edges]
        result = read_all(ReadersPlan(ports, sizes, 1))
        read = origin.total_bytes - before
    return [
        Figure("keys that move", "%", {STREAMEDGE: 100 * moved / KEYS}, Target(100 / 11 + 1)),
        Figure("origin bytes when the fleet had all", "", {STREAMEDGE: float(before)}),
        Figure(
            f"new ones, all objects read on {EDGES + 1} edges",
            "",
            {STREAMEDGE: float(read)},
            Target(0.0),
        ),
        Figure("wrong or missing responses", "", {STREAMEDGE: _wrong(result)}, Target(0.0)),
    ]
