"""Readers of many objects on all edges of a fleet; each compares every byte.

``python -m bench.loads.fleet_readers PLAN`` prints a ``ReadersResult``. A reader whose edge is gone
goes on at the next edge, as a player does, and requests the object again.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from bench.loads.load import run_load
from bench.servers.server import LOOPBACK
from tests.support.origins.counting_origin import content

LIMIT_S = 120.0
TIMEOUT_S = 60.0
ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class ReadersPlan:
    """``readers`` at each edge read all objects, each beginning with another one.

    ``ports``: of the edges, for HTTP. ``sizes``: of the objects, by name.
    """

    ports: Sequence[int]
    sizes: Mapping[str, int]
    readers: int


@dataclass(frozen=True, slots=True)
class ReadersResult:
    """Objects that were received as they are, wrong ones, and readers that changed the edge."""

    right: int
    wrong: list[str]
    changes: int
    seconds: float


def read_all(plan: ReadersPlan) -> ReadersResult:
    """Runs the plan in a separate process."""
    return ReadersResult(
        **run_load("bench.loads.fleet_readers", asdict(plan), limit_s=LIMIT_S, core=None)
    )


def _read(plan: ReadersPlan, expected: Mapping[str, bytes], number: int) -> tuple[list[str], int]:
    """One reader; returns what was wrong, and how often it changed the edge."""
    names = list(plan.sizes)
    first = number * 7 % len(names)
    edge, changes = number % len(plan.ports), 0
    wrong = []
    connection = http.client.HTTPConnection(LOOPBACK, plan.ports[edge], timeout=TIMEOUT_S)
    for name in names[first:] + names[:first]:
        failure = "no attempt"
        for _attempt in range(ATTEMPTS):
            try:
                connection.request("GET", f"/{name}")
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                failure = f"{name}: {error!r}"
                connection.close()
                edge, changes = (edge + 1) % len(plan.ports), changes + 1
                connection = http.client.HTTPConnection(
                    LOOPBACK, plan.ports[edge], timeout=TIMEOUT_S
                )
                continue
            if response.status == http.client.OK and body == expected[name]:
                failure = ""
            else:
                failure = f"{name}: {response.status}, {len(body)} bytes"
            break
        if failure:
            wrong.append(failure)
    connection.close()
    return wrong, changes


def _main(plan: ReadersPlan) -> ReadersResult:
    expected = {name: content(name, size) for name, size in plan.sizes.items()}
    count = plan.readers * len(plan.ports)
    began_s = time.monotonic()
    with ThreadPoolExecutor(count) as pool:
        results = list(pool.map(lambda number: _read(plan, expected, number), range(count)))
    wrong = [failure for failures, _changes in results for failure in failures]
    return ReadersResult(
        right=count * len(expected) - len(wrong),
        wrong=wrong,
        changes=sum(changes for _failures, changes in results),
        seconds=time.monotonic() - began_s,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_main(ReadersPlan(**json.loads(sys.argv[1]))))))
