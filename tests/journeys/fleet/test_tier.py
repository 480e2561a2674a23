"""Real edges with a tier: the fleet reads each byte of the origin once."""

from __future__ import annotations

import concurrent.futures
import urllib.request
from pathlib import Path

from tests.support.fleet.tier_edges import tier_edges
from tests.support.origins.counting_origin import counting_origin


def fetch(url: str, fields: dict[str, str] | None = None) -> bytes:
    request = urllib.request.Request(url, headers=fields or {})
    with urllib.request.urlopen(request, timeout=30) as response:
        body: bytes = response.read()
        return body


def test_crowd_on_all_edges_reads_each_byte_of_the_origin_once(tmp_path: Path) -> None:
    sizes = {f"film-{n}": 300_000 + n * 70_001 for n in range(12)}
    with counting_origin(sizes) as origin, tier_edges(tmp_path, origin.url) as fleet:
        jobs = [(edge, name) for name in sizes for edge in fleet.edges.values() for _ in range(4)]
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            bodies = list(pool.map(lambda job: fetch(job[0].http(job[1])), jobs))
        assert all(
            body == origin.bytes_of(name) for (_, name), body in zip(jobs, bodies, strict=True)
        )
        assert origin.total_bytes <= 1.02 * sum(sizes.values())
        for edge in fleet.edges.values():
            edge.await_metric("streamedge_peer_requests_total", lambda count: count > 0)
            assert edge.metric("streamedge_origin_bypasses_total") == 0
