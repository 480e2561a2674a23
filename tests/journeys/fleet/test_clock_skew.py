"""Journey: the clocks of three edges differ by a minute each, and nothing depends on that."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.engine.redis_server import run_redis
from tests.support.fleet.fleet_edges import FleetEdges, fleet_edges
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess

SKEW_S = 60
OFFSETS = {"fra-1": "+0", "ams-1": f"+{SKEW_S}", "par-1": f"-{SKEW_S}"}
[LIBFAKETIME] = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")


def with_offset(name: str) -> Mapping[str, str]:
    """Variables by which the time of day of an edge's processes is shifted.

    The files that the edges share have the same times for all of them, as on a file server.
    """
    return {
        "LD_PRELOAD": str(LIBFAKETIME),
        "FAKETIME": OFFSETS[name],
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
        "NO_FAKE_STAT": "1",
    }


@pytest.fixture(name="media")
def _media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    return folder


@pytest.fixture(name="fleet")
def _fleet(tmp_path: Path, media: Path) -> Iterator[FleetEdges]:
    origins = f'[origins.main]\ntype = "directory"\npath = "{media}"\n'
    with (
        run_redis(tmp_path / "redis") as redis,
        fleet_edges(
            tmp_path, origins, redis, lease_s=SKEW_S // 2, environment=with_offset
        ) as running,
    ):
        yield running


def get(edge: EdgeProcess) -> tuple[bytes, str, int]:
    """The body of the object, its X-Cache and its Age."""
    with urllib.request.urlopen(edge.http("a"), timeout=PATIENCE_S) as response:
        age_s = int(response.headers.get("Age", 0))
        return response.read(), response.headers["X-Cache"], age_s


def clock_s(edge: EdgeProcess) -> float:
    """The time of day as the edge logs it."""
    return float(edge.log("edge_state")[-1]["time"])


def test_invalidations_take_effect_once_whatever_the_clocks_say(
    fleet: FleetEdges, media: Path
) -> None:
    times_s = {name: clock_s(edge) for name, edge in fleet.edges.items()}
    assert times_s["ams-1"] - times_s["fra-1"] > SKEW_S / 2
    assert times_s["fra-1"] - times_s["par-1"] > SKEW_S / 2
    # Two rounds, so that each edge has objects which were filled before and after an invalidation
    # of each other edge.
    for number, name in enumerate([*fleet.edges, *fleet.edges]):
        content = f"content {number}".encode()
        (media / "a").write_bytes(content)
        output = fleet.command(name, "invalidate", "EWEB", "/a", "--wait").stdout
        assert "in every edge" in output
        for edge in fleet.edges.values():
            body, _result, age_s = get(edge)
            assert body == content
            assert 0 <= age_s < SKEW_S / 2
        for edge in fleet.edges.values():
            body, result, age_s = get(edge)
            assert (body, result) == (content, "Hit from streamedge")
            assert 0 <= age_s < SKEW_S / 2

    for edge in fleet.edges.values():
        assert "lost" not in {line["state"] for line in edge.log("edge_state")}
