"""Journey: the clocks of three edges differ by a minute each, and nothing depends on that."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.certificate_authority import CertificateAuthority, Pair
from tests.support.engine.redis_server import run_redis
from tests.support.fleet.fleet_edges import FleetEdges, fleet_edges
from tests.support.origins.counting_origin import CountingOrigin, counting_origin
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess
from tests.support.process.ports import free_ports

SKEW_S = 60
OFFSETS = {"fra-1": "+0", "ams-1": f"+{SKEW_S}", "par-1": f"-{SKEW_S}"}
PARENT = "par-1"
# Shorter than the skew, and than an invalidation is waited for: in a new fleet it is Completed when
# the engine has lost nothing for a lease.
LEASE_S = 15
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


@pytest.fixture(name="origin")
def _origin() -> Iterator[CountingOrigin]:
    """Its responses have no Date: one that an edge adds for others would have the edge's clock."""
    with counting_origin({}) as running:
        running.has_date = False
        yield running


@pytest.fixture(name="fleet", params=[False, True], ids=["alone", "through-a-tier"])
def _fleet(
    request: pytest.FixtureRequest, tmp_path: Path, origin: CountingOrigin
) -> Iterator[FleetEdges]:
    """The edges; with a tier, two of them read through the one whose clock is slow."""
    origins = f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n'
    fleet, listen = "", {}
    if request.param:
        authority = CertificateAuthority(tmp_path)
        origins += 'tier = "eu"\n'
        fleet = f"""ca = "{authority.root}"\ncertificate = "edge.pem"\nkey = "edge.key"
[fleet.tiers]\neu = ["{PARENT}"]\n"""
        for name, port in zip(OFFSETS, free_ports(len(OFFSETS)), strict=True):
            folder = tmp_path / name
            folder.mkdir()
            authority.issue(name, into=Pair(folder / "edge.pem", folder / "edge.key"))
            listen[name] = f'fleet = "127.0.0.1:{port}"'
    with (
        run_redis(tmp_path / "redis") as redis,
        fleet_edges(
            tmp_path,
            origins,
            redis,
            fleet=fleet,
            listen=listen,
            lease_s=LEASE_S,
            environment=with_offset,
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
    fleet: FleetEdges, origin: CountingOrigin
) -> None:
    times_s = {name: clock_s(edge) for name, edge in fleet.edges.items()}
    assert times_s["ams-1"] - times_s["fra-1"] > SKEW_S / 2
    assert times_s["fra-1"] - times_s["par-1"] > SKEW_S / 2
    # Two rounds, so that each edge has objects which were filled before and after an invalidation
    # of each other edge.
    for number, name in enumerate([*fleet.edges, *fleet.edges]):
        content = f"content {number}".encode()
        origin.contents["a"] = content
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
