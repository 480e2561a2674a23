"""Answers of all edges after an invalidation is Completed: none may be older.

Each round gives all objects another content at the origin, invalidates everything on one edge,
waits until CloudFront's API there says Completed, and requests all objects on all edges. In most
rounds something fails meanwhile: links of some edges are cut, or the engine is stopped.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bench.fleet.invalidations import port_of
from bench.fleet.probes import Probe, get_all, probes
from bench.options import Options
from bench.progress import note
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE
from bench.servers.fleet import DISTRIBUTION, Edge, Fleet, names_of, run_fleet, until
from bench.servers.server import BenchError, scratch_folder
from tests.support.origins.counting_origin import CountingOrigin, counting_origin

EDGES = 10
OBJECTS = 50
ANSWERS_PER_S = 500  # of the options' seconds
LEASE = 'lease = "2s"'
CUT_EDGES = 3
LONG_S = 3.0  # longer than a lease


class Fault(StrEnum):
    """What happens in a round."""

    NONE = "nothing fails"
    LINKS_CUT = "links cut just before the call"
    LINKS_CUT_LONG = "links cut for longer than a lease"
    ENGINE_STOPPED = "engine stopped for longer than a lease, and the call meanwhile"
    ENGINE_KILLED = "engine killed after the call, and started again"


ROUNDS = (
    *(Fault.NONE, Fault.LINKS_CUT, Fault.NONE, Fault.ENGINE_KILLED, Fault.NONE),
    *(Fault.LINKS_CUT_LONG, Fault.NONE, Fault.ENGINE_STOPPED),
)


@dataclass(slots=True)
class _Counted:
    """``by_fault``: answers, and old ones among them. ``waits_s``: from the call to Completed."""

    answers: dict[Fault, int]
    old: dict[Fault, int]
    waits_s: dict[Fault, list[float]]


def old_answers(options: Options) -> list[Figure]:
    """Counts old answers."""
    answers_min = int(ANSWERS_PER_S * options.seconds)
    counted = _Counted(dict.fromkeys(Fault, 0), dict.fromkeys(Fault, 0), {f: [] for f in Fault})
    with (
        scratch_folder() as folder,
        counting_origin({}) as origin,
        run_fleet(
            folder, port_of(origin.url), EDGES, tier=names_of(EDGES), fleet=LEASE, linked=True
        ) as fleet,
        probes(fleet.edges) as viewers,
    ):
        apis = [edge.api() for edge in fleet.edges]
        number = 0
        while sum(counted.answers.values()) < answers_min or number < len(ROUNDS):
            _round(number, ROUNDS[number % len(ROUNDS)], fleet, viewers, apis, origin, counted)
            number += 1
            note(f"{sum(counted.answers.values()):,} of {answers_min:,} answers")
    figures = [
        Figure("answers after Completed", "", {STREAMEDGE: float(sum(counted.answers.values()))}),
        Figure("old ones", "", {STREAMEDGE: float(sum(counted.old.values()))}, Target(0.0)),
    ]
    for fault, waits_s in counted.waits_s.items():
        if waits_s:
            label = f"Completed, longest wait: {fault}"
            figures.append(Figure(label, "s", {STREAMEDGE: max(waits_s)}))
            figures.append(
                Figure(f"old ones: {fault}", "", {STREAMEDGE: float(counted.old[fault])})
            )
    return figures


def _round(
    number: int,
    fault: Fault,
    fleet: Fleet,
    viewers: Sequence[Probe],
    apis: Sequence[Any],
    origin: CountingOrigin,
    counted: _Counted,
) -> None:
    caller = number % EDGES
    names = [f"object-{each}" for each in range(OBJECTS)]
    before = _edition(number)
    origin.contents |= dict.fromkeys(names, before)
    if set(_bodies(viewers, names)) != {before}:
        raise BenchError("before the round not all edges had the same content")
    after = _edition(number + 1)
    cut = [fleet.edges[(caller + 1 + each) % EDGES] for each in range(CUT_EDGES)]
    with _failing(fault, fleet, cut):
        origin.contents |= dict.fromkeys(names, after)
        began_s = time.monotonic()
        identifier = _invalidate(apis[caller], f"round-{number}")
        if fault is Fault.ENGINE_STOPPED:
            _await_lease()
            fleet.redis.resume()
        elif fault is Fault.ENGINE_KILLED:
            fleet.redis.restart()
        _await_completed(apis[caller], identifier)
        counted.waits_s[fault].append(time.monotonic() - began_s)
        bodies = _bodies(viewers, names)
    counted.answers[fault] += len(bodies)
    counted.old[fault] += sum(body != after for body in bodies)
    if fault is not Fault.NONE:
        fleet.until_up()
        bodies = _bodies(viewers, names)  # and when all is mended
        counted.answers[fault] += len(bodies)
        counted.old[fault] += sum(body != after for body in bodies)


def _edition(number: int) -> bytes:
    return f"edition {number}".encode()


@contextmanager
def _failing(fault: Fault, fleet: Fleet, cut: Sequence[Edge]) -> Iterator[None]:
    if fault in {Fault.LINKS_CUT, Fault.LINKS_CUT_LONG}:
        for edge in cut:
            edge.link.cut()
        if fault is Fault.LINKS_CUT_LONG:
            _await_lease()
    elif fault is Fault.ENGINE_STOPPED:
        fleet.redis.pause()
    try:
        yield
    finally:
        if fault in {Fault.LINKS_CUT, Fault.LINKS_CUT_LONG}:
            for edge in cut:
                edge.link.restore()
        elif fault is Fault.ENGINE_STOPPED:
            fleet.redis.resume()


def _await_lease() -> None:
    time.sleep(LONG_S)


def _invalidate(api: Any, reference: str) -> str:
    response = api.create_invalidation(
        DistributionId=DISTRIBUTION,
        InvalidationBatch={
            "Paths": {"Quantity": 1, "Items": ["/*"]},
            "CallerReference": reference,
        },
    )
    return str(response["Invalidation"]["Id"])


def _await_completed(api: Any, identifier: str) -> None:
    def is_completed() -> bool:
        response = api.get_invalidation(DistributionId=DISTRIBUTION, Id=identifier)
        return bool(response["Invalidation"]["Status"] == "Completed")

    until(is_completed, "an invalidation is not Completed")


def _bodies(viewers: Sequence[Probe], names: Sequence[str]) -> list[bytes]:
    """The bodies of all objects on all edges. Raises BenchError for any other status than 200."""
    bodies = []
    for name in names:
        for viewer, answer in zip(viewers, get_all(viewers, f"/{name}"), strict=True):
            if answer.status != http.client.OK:
                raise BenchError(f"{viewer.edge.name} answered {answer.status}")
            bodies.append(answer.body)
    return bodies
