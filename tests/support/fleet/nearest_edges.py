"""Real edges in three places, each at an address of its own, and what viewers do with them."""

from __future__ import annotations

import contextlib
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from streamedge.fleet.nearest import Location
from tests.support.certificate_authority import Pair
from tests.support.engine.redis_server import RedisServer
from tests.support.fleet.fleet_edges import LEASE_S, FleetEdges
from tests.support.fleet.places import FRANKFURT, NEW_YORK, OSAKA, PARIS, TOKYO
from tests.support.mmdb_file import city, country, mmdb
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import run_edge
from tests.support.process.ports import free_ports

ALIAS = "cdn.example.com"
EDGES: Mapping[str, tuple[str, Location]] = {
    "fra-1": ("127.1.0.1", FRANKFURT),
    "tyo-1": ("127.1.0.2", TOKYO),
    "nyc-1": ("127.1.0.3", NEW_YORK),
}
HOSTS = {ALIAS: EDGES["fra-1"][0]} | {
    f"{name}.{ALIAS}": address for name, (address, _place) in EDGES.items()
}
"""The alias leads to Frankfurt, as if DNS had not known where the viewer is."""

IN_PARIS = "127.0.0.9"
"""An address of a viewer; that of others, 127.0.0.1, is in Osaka."""


@dataclass
class NearestEdges(FleetEdges):
    """``port``: of HTTP, the same at all edges."""

    port: int
    https_port: int

    def url(self, path: str, host: str = ALIAS) -> str:
        return f"http://{host}:{self.port}/{path}"

    def location(self, edge: str, path: str, viewer: str = "127.0.0.1") -> str:
        """Where an edge redirects a viewer of an object; "" if it sends the object."""
        completed = subprocess.run(
            [
                *("curl", "-s", "--max-time", "20", "--interface", viewer, "--noproxy", "*"),
                *("-o", "/dev/null", "-w", "%{redirect_url}", "-r", "0-0"),
                *("--connect-to", f"::{EDGES[edge][0]}:{self.port}", self.url(path)),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return completed.stdout

    def traffic(self, edge: str) -> int:
        """The status of an edge's traffic check."""
        url = f"http://{EDGES[edge][0]}:{self.port}/healthz/traffic"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
                return int(response.status)
        except urllib.error.HTTPError as exc:
            return exc.code


@contextlib.contextmanager
def nearest_edges(
    folder: Path,
    redis: RedisServer,
    media: Path,
    *,
    rules: str = "",
    tables: str = "",
    certificate: Pair | None = None,
    workers: int = 1,
) -> Iterator[NearestEdges]:
    """Runs the edges over the files in ``media``, with ``nearest``, until all are up."""
    cities = folder / "cities.mmdb"
    places = {"127.0.0.0/8": OSAKA, f"{IN_PARIS}/32": PARIS}
    records = {network: country("DE") | city(*place) for network, place in places.items()}
    cities.write_bytes(mmdb(records))
    ports = free_ports(3)
    with contextlib.ExitStack() as stack:
        edges = {}
        for name, (address, place) in EDGES.items():
            edges[name] = stack.enter_context(
                run_edge(
                    folder / name,
                    f'[fleet]\nengine = "{redis.url}"\nlease = "{LEASE_S}s"\n'
                    f'[countries]\ndatabase = "{cities}"\n{tables}\n'
                    f'[origins.main]\ntype = "directory"\npath = "{media}"\n',
                    workers=workers,
                    edge=f'name = "{name}"\nlocation = {list(place)}\naddresses = ["{address}"]',
                    distributions='[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
                    f'aliases = ["{ALIAS}"]\nnearest = true\n{rules}\n'
                    '[[distributions]]\nid = "ESTREAM"\ntype = "rtmp"\norigin = "main"\n'
                    f'aliases = ["{ALIAS}"]\nnearest = true\n',
                    ports=ports,
                    host=address,
                    certificate=certificate,
                )
            )
        running = NearestEdges(edges, redis, ports[0], ports[2])
        running.until_up()
        yield running
