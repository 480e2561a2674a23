"""Several real edges with one real Redis, in a folder of their own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support.engine.redis_server import RedisServer
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause, run_edge

LEASE_S = 8  # short for tests that wait for its end, long for a control process on a slow machine


@dataclass
class FleetEdges:
    """``edges`` by name."""

    edges: dict[str, EdgeProcess]
    redis: RedisServer

    def command(
        self, name: str, *arguments: str, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Runs the command line of an edge; its exit code must be ``code``."""
        config = self.edges[name].folder / "config.toml"
        completed = subprocess.run(
            [sys.executable, "-m", "streamedge", *arguments, "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert completed.returncode == code, completed.stdout + completed.stderr
        return completed

    def state(self, name: str) -> dict[str, Any]:
        """``GET /fleet`` of an edge."""
        document: dict[str, Any] = json.loads(self.edges[name].admin("/fleet"))
        return document

    def states(self, name: str) -> dict[str, str]:
        """The state of each edge, as one of them sees it."""
        return {edge["name"]: edge["state"] for edge in self.state(name)["edges"]}

    def until(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Waits until a condition on the edges holds."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise TimeoutError({name: self.state(name) for name in self.edges})
            pause()

    def until_up(self, *names: str) -> None:
        """Waits until these edges, or all, see all edges as up, and their workers know it."""
        everyone = dict.fromkeys(self.edges, "up")
        for name in names or tuple(self.edges):
            self.until(lambda name=name: self.states(name) == everyone)  # type: ignore[misc]
            edge = self.edges[name]
            self.until(lambda edge=edge: status(edge) == 200)  # type: ignore[misc]


def status(edge: EdgeProcess, path: str = "healthz/traffic") -> int:
    """The status of an HTTP request."""
    try:
        with urllib.request.urlopen(edge.http(path), timeout=PATIENCE_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code


@contextlib.contextmanager
def fleet_edges(
    folder: Path,
    origins: str,
    redis: RedisServer,
    *,
    names: Sequence[str] = ("fra-1", "ams-1", "par-1"),
    engine: Callable[[str], str] | None = None,
    fleet: str = "",
    workers: int = 1,
    distributions: str | None = None,
    lease_s: int = LEASE_S,
    listen: Mapping[str, str] = MappingProxyType({}),
    environment: Callable[[str], Mapping[str, str]] = lambda _name: {},
) -> Iterator[FleetEdges]:
    """Runs the edges and waits until all are up.

    ``engine``: the URL of the engine for an edge, by name; ``fleet``: further keys of [fleet];
    ``listen``: those of [listen], by the edge's name. ``environment``: further variables of an
    edge.
    """
    with contextlib.ExitStack() as stack:
        edges = {}
        for number, name in enumerate(names):
            url = redis.url if engine is None else engine(name)
            edges[name] = stack.enter_context(
                run_edge(
                    folder / name,
                    origins + f'\n[fleet]\nengine = "{url}"\nlease = "{lease_s}s"\n{fleet}\n',
                    workers=workers,
                    edge=f'name = "{name}"\nlocation = [50.0, {number}.0]\n'
                    f'addresses = ["192.0.2.{number + 1}"]',
                    distributions=distributions,
                    listen=listen.get(name, ""),
                    environment=environment(name),
                )
            )
        running = FleetEdges(edges, redis)
        running.until_up()
        yield running
