"""Journey: an edge of a fleet is upgraded, and no other edge notices."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.journeys.processes.test_upgrade import upgrade
from tests.support.engine.redis_server import run_redis
from tests.support.fleet.fleet_edges import FleetEdges, fleet_edges, status
from tests.support.patience import PATIENCE_S

LEASE_S = 20  # longer than a slow machine takes for a control process
FOLDER = '[origins.main]\ntype = "directory"\npath = "{}"\n'


def body(edges: FleetEdges, name: str) -> bytes:
    with urllib.request.urlopen(edges.edges[name].http("a.txt"), timeout=PATIENCE_S) as response:
        received: bytes = response.read()
        return received


@contextmanager
def seen_states(edges: FleetEdges, observer: str, observed: str) -> Iterator[set[str]]:
    """All states in which one edge sees another one, and ``"refused"`` if it refuses viewers."""
    seen: set[str] = set()
    has_ended = threading.Event()

    def look() -> None:
        while not has_ended.is_set():
            seen.add(edges.states(observer)[observed])
            if status(edges.edges[observed]) != 200:
                seen.add("refused")

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        has_ended.set()
        looking.join()


def test_upgraded_edge_stays_up_and_follows_the_log(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    (media / "a.txt").write_bytes(b"old")
    with (
        run_redis(tmp_path / "redis") as redis,
        fleet_edges(
            tmp_path, FOLDER.format(media), redis, names=("fra-1", "ams-1"), lease_s=LEASE_S
        ) as edges,
    ):
        assert [body(edges, name) for name in edges.edges] == [b"old", b"old"]
        edge = edges.edges["fra-1"]
        with seen_states(edges, "ams-1", "fra-1") as seen:
            upgrade(edge)
            edge.await_log("upgrade_finished")
            # It goes on where the log was: an invalidation of the other edge is in effect here.
            (media / "a.txt").write_bytes(b"new content")
            edges.command("ams-1", "invalidate", "EWEB", "/a.txt", "--wait")
            assert [body(edges, name) for name in edges.edges] == [b"new content"] * 2
            # And one of its own is in effect there.
            (media / "a.txt").write_bytes(b"newest content")
            edges.command("fra-1", "invalidate", "EWEB", "/a.txt", "--wait")
            assert [body(edges, name) for name in edges.edges] == [b"newest content"] * 2
        assert seen == {"up"}
        others = edges.edges["ams-1"].log("edge_state")
        assert [line["state"] for line in others if line["edge"] == "fra-1"][-1:] == ["up"]
        after = edge.log("upgraded")[0]["time"]
        assert {line["state"] for line in edge.log("edge_state") if line["time"] >= after} <= {"up"}
