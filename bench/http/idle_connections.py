"""Memory of idle keep-alive connections, of the server and of the kernel."""

from __future__ import annotations

from bench.loads.idle_load import IdlePlan, IdleResult, idle
from bench.machine import raise_open_files
from bench.options import Options
from bench.report import Figure, Target
from bench.servers.server import BenchError, Failure, pick
from bench.servers.site import PAGE, site

CONNECTIONS = 20_000
SPARE_DESCRIPTORS = 2_000
"""Descriptors that a process needs for its other files."""
SERVER_KB_MAX = 8
# The open-file limit is shared by connections and cache files; one connection needs up to two.
LIMITS = f"http_connections = {CONNECTIONS * 2}\nrtmp_connections = 64\nopen_extents = 256"


def connections(options: Options) -> list[Figure]:
    """KB of each connection, of as many as the limit of open files leaves room for."""
    count = min(CONNECTIONS, raise_open_files() - SPARE_DESCRIPTORS)
    results: dict[str, IdleResult | Failure] = {}
    with site(limits=LIMITS) as here:
        for name, server in here.servers.items():
            if isinstance(server, Failure):
                results[name] = server
                continue
            try:
                results[name] = idle(IdlePlan(server.http_port, f"/{PAGE}", count, server.pid))
            except BenchError as error:
                results[name] = Failure(str(error))
    return [
        Figure("idle connections", "", pick(results, lambda result: result.connections)),
        Figure(
            "server memory each (PSS)",
            "KB",
            pick(results, lambda result: result.server_bytes / result.connections / 1000),
            Target(SERVER_KB_MAX),
        ),
        Figure(
            "kernel memory each, both ends",
            "KB",
            pick(results, lambda result: result.kernel_bytes / result.connections / 1000),
        ),
    ]
