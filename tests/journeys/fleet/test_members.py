"""Journeys: edges of a fleet join, lose the engine, drain and leave."""

from __future__ import annotations

import itertools
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine.redis_server import RedisServer, run_redis
from tests.support.engine.tcp_proxy import run_proxy
from tests.support.fleet.edges import API, api_client
from tests.support.fleet.fleet_edges import FleetEdges, fleet_edges, status
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess
from tests.support.rtmp.rtmp_client import metric

FOLDER = '[origins.main]\ntype = "directory"\npath = "{}"\n'


@pytest.fixture(name="redis_server")
def _redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture(name="media")
def _media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "a").write_bytes(b"old")
    return folder


@pytest.fixture(name="fleet")
def _fleet(tmp_path: Path, redis_server: RedisServer, media: Path) -> Iterator[FleetEdges]:
    with fleet_edges(tmp_path, FOLDER.format(media), redis_server) as running:
        yield running


def test_edges_see_each_other_up(fleet: FleetEdges) -> None:
    document = fleet.state("ams-1")
    assert (document["edge"], document["state"], document["lag"]) == ("ams-1", "up", 0)
    assert document["position"] == document["head"] == "1-3"
    assert [edge["name"] for edge in document["edges"]] == ["ams-1", "fra-1", "par-1"]
    for edge in fleet.edges.values():
        assert json.loads(edge.admin("/fleet/check")) == {"problems": []}
        assert metric(edge, 'streamedge_fleet_edges{state="up"}') == 3
        assert metric(edge, "streamedge_fleet_position") == 3
        assert metric(edge, "streamedge_fleet_lag_entries") == 0
        assert metric(edge, "streamedge_fleet_engine_up") == 1
        assert metric(edge, "streamedge_fleet_current") == 1
        assert metric(edge, "streamedge_fleet_unpublished_entries") == 0


def body(edge: EdgeProcess, path: str = "a") -> tuple[bytes, str]:
    """The body of an object, and its X-Cache."""
    with urllib.request.urlopen(edge.http(path), timeout=PATIENCE_S) as response:
        return response.read(), response.headers["X-Cache"]


def test_commands_show_and_change_the_edges(fleet: FleetEdges) -> None:
    table = fleet.command("fra-1", "fleet").stdout
    assert all(name in table for name in fleet.edges)
    assert "50, 1" in table
    document = json.loads(fleet.command("fra-1", "fleet", "--json").stdout)
    assert {edge["name"]: edge["state"] for edge in document["edges"]} == dict.fromkeys(
        fleet.edges, "up"
    )
    for column in ("Name", "Place", "State", "Position", "Lag", "Load"):
        assert column in table
    for edge in document["edges"]:
        assert (edge["position"], edge["lag"], edge["load"]) == ("1-3", 0, 0)
        assert edge["location"][0] == 50.0
    assert fleet.command("fra-1", "fleet", "check").stdout == "0 problems.\n"
    fleet.redis.call("CONFIG", "SET", "appendfsync", "no")
    risky = fleet.command("ams-1", "fleet", "check", code=1).stdout
    assert "set appendfsync everysec" in risky
    assert risky.endswith("1 problem.\n")
    refused = fleet.command("fra-1", "fleet", "drain", "rom-1", code=1).stderr
    assert "no edge has the name 'rom-1'; known: ams-1, fra-1, par-1" in refused
    running = fleet.command("fra-1", "fleet", "remove", "par-1", code=1).stderr
    assert "par-1 is up: drain it and stop it, then remove it" in running
    alone = fleet.command("fra-1", "fleet", "owner", fleet.edges["fra-1"].http("a"), code=1).stderr
    assert "the origin main has no tier" in alone


def test_drained_edge_finishes_its_responses_and_comes_back(fleet: FleetEdges, media: Path) -> None:
    (media / "film").write_bytes(bytes(range(256)) * (32 << 12))  # more than all buffers
    ams = fleet.edges["ams-1"]
    with urllib.request.urlopen(ams.http("film"), timeout=PATIENCE_S) as download:
        first = download.read(1 << 16)
        fleet.command("fra-1", "fleet", "drain", "ams-1")
        for name in fleet.edges:
            fleet.until(lambda name=name: fleet.states(name)["ams-1"] == "draining")  # type: ignore[misc]
        fleet.until(lambda: status(ams) == 503)
        assert status(fleet.edges["fra-1"]) == 200
        assert status(ams, "a") == 200
        assert first + download.read() == (media / "film").read_bytes()
    fleet.command("par-1", "fleet", "undrain", "ams-1")
    fleet.until_up()
    fleet.until(lambda: status(ams) == 200)


def test_edge_that_has_stopped_is_removed_by_an_operator(fleet: FleetEdges) -> None:
    assert fleet.edges["par-1"].stop() == 0
    fleet.until(lambda: fleet.states("fra-1")["par-1"] == "gone")
    problems = fleet.command("fra-1", "fleet", "check", code=1).stdout
    assert "par-1 does not report" in problems
    fleet.command("ams-1", "fleet", "remove", "par-1")
    fleet.until(lambda: set(fleet.states("fra-1")) == {"fra-1", "ams-1"})
    # An edge without viewers drains faster than others look at it.
    assert state_changes(fleet.edges["fra-1"], "par-1")[-2:] in (
        ["draining", "gone"],
        ["up", "gone"],
    )
    fleet.until(lambda: json.loads(fleet.edges["fra-1"].admin("/fleet/check"))["problems"] == [])
    assert fleet.command("fra-1", "fleet", "check").stdout == "0 problems.\n"


def test_edges_are_lost_within_their_lease_when_the_engine_stops_answering(
    fleet: FleetEdges, media: Path, redis_server: RedisServer
) -> None:
    for edge in fleet.edges.values():
        assert body(edge)[0] == b"old"
        assert body(edge) == (b"old", "Hit from streamedge")
    redis_server.pause()
    for name, edge in fleet.edges.items():
        fleet.until(lambda edge=edge: status(edge) == 503)  # type: ignore[misc]
        assert fleet.state(name)["state"] == "lost"
        assert body(edge) == (b"old", "RefreshHit from streamedge")
        others = dict.fromkeys(fleet.edges.keys() - {name}, "unknown")
        fleet.until(lambda name=name, others=others: fleet.states(name) == {name: "lost", **others})  # type: ignore[misc]
        assert metric(edge, 'streamedge_fleet_edges{state="up"}') == 0
    problems = fleet.command("fra-1", "fleet", "check", code=1).stdout
    assert "fra-1 does not hear from the engine" in problems
    assert "does not report" not in problems
    (media / "a").write_bytes(b"new content")
    for edge in fleet.edges.values():
        assert body(edge)[0] == b"new content"
    redis_server.resume()
    fleet.until_up()
    for edge in fleet.edges.values():
        fleet.until(lambda edge=edge: status(edge) == 200)  # type: ignore[misc]
        assert body(edge) == (b"new content", "Hit from streamedge")
        fleet.until(lambda edge=edge: own_states(edge)[-3:] == ["up", "lost", "up"])  # type: ignore[misc]


def own_states(edge: EdgeProcess) -> list[str]:
    """The states that an edge has logged for itself."""
    return state_changes(edge, edge.folder.name)


def state_changes(edge: EdgeProcess, name: str) -> list[str]:
    """The states of an edge that this one has logged: one line for each change."""
    lines = [line for line in edge.log("edge_state") if line["edge"] == name]
    for earlier, later in itertools.pairwise(lines):
        assert later["before"] == earlier["state"] != later["state"]
    return [line["state"] for line in lines]


def test_lease_runs_out_when_the_control_process_hangs_or_is_killed(fleet: FleetEdges) -> None:
    edge = fleet.edges["ams-1"]
    body(edge)
    [control] = [
        int(pid) for pid in os.listdir("/proc") if pid.isdigit() and is_control(int(pid), edge)
    ]
    os.kill(control, signal.SIGSTOP)
    try:
        fleet.until(lambda: status(edge) == 503)
        assert body(edge) == (b"old", "RefreshHit from streamedge")
    finally:
        os.kill(control, signal.SIGKILL)
    fleet.until_up()
    fleet.until(lambda: status(edge) == 200)
    assert body(edge) == (b"old", "Hit from streamedge")


def is_control(pid: int, edge: EdgeProcess) -> bool:
    """Whether a process is the control process of an edge: the child that holds its admin port."""
    try:
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    except (OSError, IndexError):
        return False
    return int(parent) == edge.pid and pid not in edge.worker_pids()


@pytest.mark.parametrize("when_lost", ["serve", "refuse"])
def test_edge_that_is_cut_off_serves_or_refuses_as_it_is_configured(
    tmp_path: Path, redis_server: RedisServer, media: Path, when_lost: str
) -> None:
    with (
        run_proxy(redis_server.port) as proxy,
        fleet_edges(
            tmp_path,
            FOLDER.format(media),
            redis_server,
            names=("fra-1", "ams-1"),
            engine=lambda name: (
                f"redis://127.0.0.1:{proxy.port}/0" if name == "ams-1" else redis_server.url
            ),
            fleet=f'when_lost = "{when_lost}"',
        ) as fleet,
    ):
        edge = fleet.edges["ams-1"]
        assert body(edge)[0] == b"old"
        proxy.cut()
        fleet.until(lambda: status(edge) == 503)
        fleet.until(lambda: fleet.states("fra-1") == {"fra-1": "up", "ams-1": "gone"})
        (media / "a").write_bytes(b"new content")
        if when_lost == "serve":
            assert body(edge) == (b"old", "Hit from streamedge")
        else:
            fleet.until(lambda: status(edge, "a") == 503)
        proxy.restore()
        fleet.until_up()
        fleet.until(lambda: status(edge, "a") == 200)


def test_invalidation_that_waits_shows_milliseconds_for_each_edge(
    fleet: FleetEdges, media: Path
) -> None:
    for edge in fleet.edges.values():
        assert body(edge)[0] == b"old"
    (media / "a").write_bytes(b"new content")
    lines = fleet.command("ams-1", "invalidate", "EWEB", "/a", "--wait").stdout.splitlines()
    for edge in fleet.edges.values():
        assert body(edge)[0] == b"new content"
    assert "in every edge" in lines[0]
    assert (
        metric(fleet.edges["ams-1"], 'streamedge_fleet_invalidation_seconds{edge="par-1"}')
        < PATIENCE_S
    )
    assert [line.split(":")[0] for line in lines[1:]] == ["  ams-1", "  fra-1", "  par-1"]
    assert all(line.endswith(" ms") for line in lines[1:])


def test_invalidation_is_in_progress_until_a_cut_off_edge_is_lost(
    tmp_path: Path, redis_server: RedisServer, media: Path
) -> None:
    with (
        run_proxy(redis_server.port) as proxy,
        fleet_edges(
            tmp_path,
            API + FOLDER.format(media),
            redis_server,
            names=("fra-1", "ams-1"),
            engine=lambda name: (
                f"redis://127.0.0.1:{proxy.port}/0" if name == "ams-1" else redis_server.url
            ),
            lease_s=5,
        ) as fleet,
    ):
        cut = fleet.edges["ams-1"]
        assert body(cut)[0] == b"old"
        client = api_client(fleet.edges["fra-1"])
        client.list_distributions()  # the first call loads the API
        proxy.cut()
        (media / "a").write_bytes(b"new content")
        batch = {"Paths": {"Quantity": 1, "Items": ["/a"]}, "CallerReference": "1"}
        created = client.create_invalidation(DistributionId="EWEB", InvalidationBatch=batch)
        identifier = created["Invalidation"]["Id"]
        assert created["Invalidation"]["Status"] == "InProgress"

        def invalidation_status() -> str:
            answer = client.get_invalidation(DistributionId="EWEB", Id=identifier)
            return str(answer["Invalidation"]["Status"])

        fleet.until(lambda: invalidation_status() == "Completed")
        assert body(cut)[0] == b"new content"
        proxy.restore()
        fleet.until_up()
        assert body(cut)[0] == b"new content"
        assert invalidation_status() == "Completed"
