"""Fleets of real edges, one worker each, with one real Redis server.

Where links are measured or fail, each edge reaches the server through a link of its own.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from bench.progress import note
from bench.servers.links import Link, run_links
from bench.servers.server import LOOPBACK, BenchError, Server, process
from tests.support.certificate_authority import CertificateAuthority
from tests.support.engine.redis_server import RedisServer, run_redis
from tests.support.process.ports import free_ports

PREFIX = "bench"
DISTRIBUTION = "EWEB"
TIER = "all"
LEASE_S = 10
TIMEOUT_S = 60.0
POLL_S = 0.02
KEY_ID, SECRET = "AKIABENCH", "secret/of+the/bench"
STARTS_AT_ONCE = 4
REDIS_OPTIONS = ("--appendfsync", "everysec")


@dataclass(frozen=True, slots=True)
class Edge:
    """A running edge. ``link``: to the engine. ``peer_port``: its fleet listener."""

    name: str
    server: Server
    folder: Path
    peer_port: int
    _link: Link | None

    @property
    def link(self) -> Link:
        """Its link to the engine. Raises BenchError in a fleet without links."""
        if self._link is None:
            raise BenchError(f"{self.name} has no link")
        return self._link

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def http_port(self) -> int:
        return self.server.http_port

    def admin(self, method: str, path: str, body: object = None) -> Any:
        """Calls the admin address; the JSON of its response. Raises BenchError."""
        connection = http.client.HTTPConnection(LOOPBACK, self.server.admin_port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"{self.name}: {method} {path}: {error!r}") from error
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            raise BenchError(f"{self.name}: {method} {path}: {response.status} {text[:200]!r}")
        return json.loads(text)

    def invalidate(self, *items: str) -> str:
        """Invalidates; the id of the invalidation, once the edge has acknowledged it."""
        body = {"distribution": DISTRIBUTION, "items": items}
        return str(self.admin("POST", "/invalidations", body)["id"])

    def sees(self) -> dict[str, str]:
        """The states of all edges, as this one sees them."""
        return {edge["name"]: edge["state"] for edge in self.admin("GET", "/fleet")["edges"]}

    def api(self) -> Any:
        """A client of the edge's CloudFront API, which makes one attempt."""
        return boto3.client(
            "cloudfront",
            endpoint_url=f"http://{LOOPBACK}:{self.server.admin_port}",
            region_name="us-east-1",
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
            config=Config(retries={"total_max_attempts": 1}, read_timeout=TIMEOUT_S),
        )

    def kill(self) -> None:
        """Kills all processes of the edge at once."""
        os.killpg(self.server.pid, signal.SIGKILL)


@dataclass(slots=True)
class Fleet:
    """``edges`` in the order of their names; ``add`` starts another one."""

    redis: RedisServer
    edges: list[Edge]
    start: Callable[[str], AbstractContextManager[Edge]]
    _stack: ExitStack = field(repr=False)

    def add(self, name: str) -> Edge:
        """Starts one more edge, and waits until it and the others see it as up."""
        edge = self._stack.enter_context(self.start(name))
        self.edges.append(edge)
        self.until_up()
        return edge

    def until_up(self, *edges: Edge) -> None:
        """Waits until these edges, or all, see all edges as up."""
        everyone = dict.fromkeys((edge.name for edge in self.edges), "up")
        for edge in edges or self.edges:

            def sees_everyone(edge: Edge = edge) -> bool:
                return edge.sees() == everyone

            until(sees_everyone, f"{edge.name} does not see all edges up")

    def switch(self, redis_port: int) -> None:
        """Leads all edges to another server, as a failover does."""
        for edge in self.edges:
            edge.link.switch(redis_port)

    def delay(self, delay_s: float) -> None:
        """Delays all bytes between edges and engine from now on, each way."""
        for edge in self.edges:
            edge.link.delay(delay_s)


def until(condition: Callable[[], bool], failure: str, timeout_s: float = TIMEOUT_S) -> None:
    """Waits until a condition holds. Raises BenchError with ``failure``."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise BenchError(f"{failure} in {timeout_s:.0f} s")
        time.sleep(POLL_S)


@contextmanager
def run_fleet(
    folder: Path,
    origin_port: int,
    count: int,
    *,
    tier: Sequence[str] | None = None,
    fleet: str = f'lease = "{LEASE_S}s"',
    linked: bool = False,
    redis_options: Sequence[str] = REDIS_OPTIONS,
) -> Iterator[Fleet]:
    """Runs ``count`` edges, all of them up.

    ``tier``: the edges that the others request objects from, by name; None: every edge requests
    from the origin. ``fleet``: further lines of [fleet]. ``linked``: each edge has a link.
    """
    folder.mkdir(exist_ok=True, parents=True)
    with ExitStack() as stack:
        authority = CertificateAuthority(folder)
        redis = stack.enter_context(run_redis(folder / "redis", *redis_options))
        links = stack.enter_context(run_links()) if linked else None
        lock = threading.Lock()

        @contextmanager
        def start(name: str) -> Iterator[Edge]:
            with lock:  # neither ports nor certificates are made by several threads at once
                http_port, rtmp_port, admin_port, peer_port = free_ports(4)
                pair = authority.issue(name)
            home = folder / name
            home.mkdir()
            names = ", ".join(f'"{one}"' for one in tier or ())
            link = None if links is None else links.open(redis.port)
            engine_port = redis.port if link is None else link.port
            config = home / "config.toml"
            config.write_text(f"""
[edge]
name = "{name}"
cache = "cache"
cache_size = "8GiB"
log = "edge.log"
workers = 1

[listen]
http = ["{LOOPBACK}:{http_port}"]
rtmp = ["{LOOPBACK}:{rtmp_port}"]
admin = "{LOOPBACK}:{admin_port}"
fleet = "{LOOPBACK}:{peer_port}"

[fleet]
engine = "redis://{LOOPBACK}:{engine_port}/0"
prefix = "{PREFIX}"
ca = "{authority.root}"
certificate = "{pair.certificate}"
key = "{pair.key}"
{fleet}
{f"[fleet.tiers]{chr(10)}{TIER} = [{names}]" if tier else ""}

[api]
keys = {{ "{KEY_ID}" = "{SECRET}" }}

[origins.main]
type = "http"
url = "http://{LOOPBACK}:{origin_port}"
{f'tier = "{TIER}"' if tier else ""}

[cache_policies.probed]
viewer_directives = true

[[distributions]]
id = "{DISTRIBUTION}"
type = "web"
origin = "main"
cache_policy = "probed"
""")
            command = [sys.executable, "-m", "streamedge", "serve", "--config", str(config)]
            with process(
                command,
                log=home / "stderr",
                ready=lambda: _is_healthy(admin_port),
                core=None,
            ) as pid:
                server = Server(name, pid, http_port, rtmp_port, admin_port=admin_port)
                yield Edge(name, server, home, peer_port, link)

        edges = stack.enter_context(_all_at_once([start(name) for name in names_of(count)]))
        running = Fleet(redis, edges, start, stack)
        running.until_up()
        note(f"{count} edges are up")
        yield running


def names_of(count: int) -> list[str]:
    """Names of edges."""
    return [f"edge-{number:02}" for number in range(count)]


@contextmanager
def _all_at_once(starts: Sequence[AbstractContextManager[Edge]]) -> Iterator[list[Edge]]:
    """Starts several edges at a time, and ends them at once."""
    with ThreadPoolExecutor(STARTS_AT_ONCE) as pool:
        entered = [pool.submit(start.__enter__) for start in starts]
        try:
            yield [each.result() for each in entered]
        finally:
            began = [
                start
                for start, each in zip(starts, entered, strict=True)
                if each.exception() is None
            ]
            list(pool.map(lambda start: start.__exit__(None, None, None), began))


def _is_healthy(admin_port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, admin_port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return response.status == http.client.OK
