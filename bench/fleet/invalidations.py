"""An invalidation on one edge, until it is in effect on all edges of the fleet.

In effect: the head of the edge's control log, in the memory that every request looks at, is the new
one. It is read here every half millisecond, because viewers that request all the time on ten edges
would take the machine's two cores. Then a viewer of each edge requests what is cached only: every
one must get 504.
"""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Sequence

from bench.fleet.probes import Probe, get_all, probes, warm
from bench.options import Options
from bench.progress import note
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE
from bench.servers.fleet import DISTRIBUTION, Edge, run_fleet
from bench.servers.server import LOOPBACK, BenchError, scratch_folder
from streamedge.control.announced_head import AnnouncedHead
from tests.support.origins.counting_origin import counting_origin

EDGES = 10
SAMPLES_PER_S = 10  # of the options' seconds
SAMPLES_MIN = 20
POLL_S = 0.0005
TIMEOUT_S = 30.0
IDLE_S = 0.05  # after an invalidation, so that nothing of it is left to do
DELAY_S = 0.040
OBJECT = "probe"
OBJECT_BYTES = 1000


def invalidations(options: Options) -> list[Figure]:
    """Times until it is in effect on all edges, near and far from the engine."""
    samples = max(SAMPLES_MIN, int(SAMPLES_PER_S * options.seconds))
    with (
        scratch_folder() as folder,
        counting_origin({OBJECT: OBJECT_BYTES}) as origin,
        run_fleet(folder, port_of(origin.url), EDGES, linked=True) as fleet,
        probes(fleet.edges) as viewers,
    ):
        near = _times_s(fleet.edges, viewers, samples)
        note(f"{samples} samples near the engine")
        fleet.delay(DELAY_S)
        far = _times_s(fleet.edges, viewers, samples)
    away = f"engine {DELAY_S * 1000:.0f} ms away each way"
    return [
        *percentiles(f"in effect on all {EDGES} edges", near, 20.0),
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
    heads = [AnnouncedHead(edge.cache) for edge in edges]
    body = json.dumps({"distribution": DISTRIBUTION, "items": [f"/{OBJECT}"]})
    for number in range(samples):
        warm(viewers, f"/{OBJECT}")
        time.sleep(IDLE_S)
        admin = admins[number % len(admins)]
        admin.close()  # an idle connection may be closed by the server just now
        admin.connect()
        before = [(head, head.position) for head in heads]
        began_s = time.monotonic()
        admin.request("POST", "/invalidations", body)
        while any(head.position == position for head, position in before):
            if time.monotonic() > began_s + TIMEOUT_S:
                raise BenchError(f"not all edges applied it in {TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
        times_s.append(time.monotonic() - began_s)
        answers = get_all(viewers, f"/{OBJECT}", only_if_cached=True)
        if any(answer.status != http.client.GATEWAY_TIMEOUT for answer in answers):
            raise BenchError("an edge serves what was invalidated")
        response = admin.getresponse()
        response.read()
        if response.status != http.client.CREATED:
            raise BenchError(f"the call returned {response.status}")
    for admin, head in zip(admins, heads, strict=True):
        admin.close()
        head.close()
    return times_s
