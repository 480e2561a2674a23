"""An invalidation on one edge, until it is in force on all edges of the fleet.

In force: an edge with a valid copy of the object no longer serves it, which a viewer of each edge
sees with requests for what is cached only (504). So what is measured includes the way to the edge
and back, and up to a millisecond between two requests.
"""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Sequence

from bench.fleet.probes import Probe, await_invalid, probes, warm
from bench.options import Options
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE
from bench.servers.fleet import DISTRIBUTION, Edge, run_fleet
from bench.servers.server import LOOPBACK, BenchError, scratch_folder
from tests.support.origins.counting_origin import counting_origin

EDGES = 10
SAMPLES_PER_S = 10  # of the options' seconds
SAMPLES_MIN = 20
IDLE_S = 0.05  # after an invalidation, so that nothing of it is left to do
DELAY_S = 0.040
OBJECT = "probe"
OBJECT_BYTES = 1000


def invalidations(options: Options) -> list[Figure]:
    """Times until it is in force on all edges, near and far from the engine."""
    samples = max(SAMPLES_MIN, int(SAMPLES_PER_S * options.seconds))
    with (
        scratch_folder() as folder,
        counting_origin({OBJECT: OBJECT_BYTES}) as origin,
        run_fleet(folder, port_of(origin.url), EDGES, linked=True) as fleet,
        probes(fleet.edges) as viewers,
    ):
        near = _times_s(fleet.edges, viewers, samples)
        fleet.delay(DELAY_S)
        far = _times_s(fleet.edges, viewers, samples)
    away = f"engine {DELAY_S * 1000:.0f} ms away each way"
    return [
        *percentiles(f"in force on all {EDGES} edges", near, 20.0),
        *percentiles(f"the same, {away}", far, 110.0),
    ]


def percentiles(label: str, times_s: Sequence[float], limit_ms: float | None) -> list[Figure]:
    """The median and the 99th percentile."""
    cuts = statistics.quantiles([1000 * each for each in times_s], n=100, method="inclusive")
    target = None if limit_ms is None else Target(limit_ms)
    return [
        Figure(f"{label}, median", "ms", {STREAMEDGE: cuts[49]}),
        Figure(f"{label}, P99", "ms", {STREAMEDGE: cuts[98]}, target),
    ]


def port_of(url: str) -> int:
    """The port in a URL that ends with it."""
    return int(url.rpartition(":")[2])


def _times_s(edges: Sequence[Edge], viewers: Sequence[Probe], samples: int) -> list[float]:
    times_s = []
    admins = [http.client.HTTPConnection(LOOPBACK, edge.server.admin_port) for edge in edges]
    body = json.dumps({"distribution": DISTRIBUTION, "items": [f"/{OBJECT}"]})
    for number in range(samples):
        warm(viewers, f"/{OBJECT}")
        time.sleep(IDLE_S)
        admin = admins[number % len(admins)]
        began_s = time.monotonic()
        admin.request("POST", "/invalidations", body)
        seen = await_invalid(viewers, f"/{OBJECT}")
        times_s.append(max(seen.values()) - began_s)
        response = admin.getresponse()
        response.read()
        if response.status != http.client.CREATED:
            raise BenchError(f"the call returned {response.status}")
    for admin in admins:
        admin.close()
    return times_s
