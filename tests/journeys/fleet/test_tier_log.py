"""A tier and the shared log: what was invalidated does not come back from another edge."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine.redis_server import run_redis
from tests.support.fleet.edges import await_body, body
from tests.support.fleet.tier_edges import PATIENT, TierEdges, tier_edges
from tests.support.origins.counting_origin import CountingOrigin, counting_origin
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess

NAMES = ("fra-1", "ams-1", "lon-1")
ROUNDS = 5


@pytest.fixture
def origin() -> Iterator[CountingOrigin]:
    with counting_origin({"film": 100_000}) as running:
        yield running


@pytest.fixture
def fleet(tmp_path: Path, origin: CountingOrigin) -> Iterator[TierEdges]:
    with (
        run_redis(tmp_path / "redis") as engine,
        tier_edges(tmp_path, origin.url, names=NAMES, engine=engine.url) as edges,
    ):
        yield edges


def invalidate(edge: EdgeProcess, item: str) -> None:
    """Returns when the edge itself has applied the invalidation."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{edge.admin_port}/invalidations",
        json.dumps({"distribution": "EWEB", "items": [item]}).encode(),
        {"content-type": "application/json"},
    )
    try:
        urllib.request.urlopen(request, timeout=PATIENCE_S).close()
    except urllib.error.HTTPError as exc:
        raise AssertionError(exc.read()) from exc


def control_pid(edge: EdgeProcess) -> int:
    """The control process: the only child of the supervisor that is no worker."""
    children = Path(f"/proc/{edge.pid}/task/{edge.pid}/children").read_text().split()
    (control,) = set(map(int, children)) - set(edge.worker_pids())
    return control


def test_edges_find_each_other_through_the_log_and_read_each_byte_once(
    tmp_path: Path, origin: CountingOrigin
) -> None:
    with (
        run_redis(tmp_path / "redis") as engine,
        tier_edges(tmp_path, origin.url, names=NAMES, engine=engine.url, prelude=PATIENT) as fleet,
    ):
        for edge in fleet.edges.values():
            assert body(edge, "film") == origin.bytes_of("film")
        assert origin.total_bytes == 100_000


def test_edge_never_gets_back_what_it_has_invalidated(
    fleet: TierEdges, origin: CountingOrigin
) -> None:
    for number in range(1, ROUNDS + 1):
        for edge in fleet.edges.values():
            await_body(edge, "film", origin.bytes_of("film"))
        origin.editions["film"] = number
        first = fleet.edges[NAMES[number % len(NAMES)]]
        invalidate(first, "/film")
        assert body(first, "film") == origin.bytes_of("film")
        for edge in fleet.edges.values():
            await_body(edge, "film", origin.bytes_of("film"))
            assert body(edge, "film") == origin.bytes_of("film")


def test_parents_that_do_not_hear_the_log_serve_no_old_bytes(
    fleet: TierEdges, origin: CountingOrigin
) -> None:
    for edge in fleet.edges.values():
        assert body(edge, "film") == origin.bytes_of("film")
    stopped = [control_pid(fleet.edges[name]) for name in ("fra-1", "ams-1")]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        origin.editions["film"] = 1
        child = fleet.edges["lon-1"]
        invalidate(child, "/film")
        for _ in range(5):
            assert body(child, "film") == origin.bytes_of("film")
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    for edge in fleet.edges.values():
        await_body(edge, "film", origin.bytes_of("film"))


def test_new_edge_of_the_tier_takes_what_the_fleet_has_from_the_other_edges(
    tmp_path: Path,
) -> None:
    sizes = {f"film-{number}": 30_000 for number in range(24)}
    with (
        run_redis(tmp_path / "redis") as engine,
        counting_origin(sizes) as origin,
        tier_edges(
            tmp_path,
            origin.url,
            names=NAMES,
            parents=3,
            late=("lon-1",),
            engine=engine.url,
            prelude=PATIENT,
        ) as fleet,
    ):
        for name in sizes:
            for edge in fleet.edges.values():
                assert body(edge, name) == origin.bytes_of(name)
        assert origin.total_bytes == sum(sizes.values())
        problems = json.loads(fleet.edges["fra-1"].admin("/fleet/check"))["problems"]
        assert "fleet.tiers names lon-1, which has never been in this fleet" in str(problems)
        fleet.start("lon-1")
        fleet.await_members()
        for name in sizes:
            assert body(fleet.edges["lon-1"], name) == origin.bytes_of(name)
        assert origin.total_bytes == sum(sizes.values())


def test_drained_edge_hands_its_objects_over(tmp_path: Path) -> None:
    sizes = {f"film-{number}": 30_000 for number in range(24)}
    with (
        run_redis(tmp_path / "redis") as engine,
        counting_origin(sizes) as origin,
        tier_edges(tmp_path, origin.url, names=NAMES, engine=engine.url, prelude=PATIENT) as fleet,
    ):
        for name in sizes:
            assert body(fleet.edges["lon-1"], name) == origin.bytes_of(name)
        command = [sys.executable, "-m", "streamedge", "fleet", "drain", "fra-1", "--config"]
        config = str(fleet.edges["ams-1"].folder / "config.toml")
        subprocess.run([*command, config], check=True, timeout=PATIENCE_S, capture_output=True)
        fleet.edges["fra-1"].await_log("edge_state", 2)
        for name in sizes:
            assert body(fleet.edges["ams-1"], name) == origin.bytes_of(name)
        assert origin.total_bytes == sum(sizes.values())
        assert fleet.edges["fra-1"].stop() == 0


@pytest.mark.parametrize("name", NAMES)
def test_killed_edge_is_left_out(fleet: TierEdges, origin: CountingOrigin, name: str) -> None:
    fleet.kill(name)
    for edge_name, edge in fleet.edges.items():
        if edge_name != name:
            assert body(edge, "film") == origin.bytes_of("film")
    assert origin.total_bytes <= 200_000  # two edges read it, if the owner was killed
