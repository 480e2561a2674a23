"""h2load, the load generator of nghttp2: many streams over few HTTP/2 connections."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.loads.load import LoadResult, run_program
from bench.servers.server import LOOPBACK, BenchError


@dataclass(frozen=True, slots=True)
class H2LoadPlan:
    """For ``seconds``, ``connections`` with ``streams`` requests at a time each, over TLS."""

    port: int
    path: str
    connections: int
    streams: int
    seconds: float


@dataclass(frozen=True, slots=True)
class H2LoadOutput:
    """``requests``: complete ones. ``failed``: those and others without status 2xx."""

    protocol: str
    requests: int
    failed: int
    seconds: float


def h2load(plan: H2LoadPlan, server_pid: int) -> LoadResult:
    """Runs h2load on the load generator's core. Raises BenchError when a response was wrong."""
    url = f"https://{LOOPBACK}:{plan.port}{plan.path}"
    options = ["-D", str(max(1, round(plan.seconds))), "-c", str(plan.connections)]
    command = ["h2load", *options, "-m", str(plan.streams), url]
    run = run_program(command, server_pid=server_pid, limit_s=plan.seconds)
    output = parse(run.output)
    if output.protocol != "h2":
        raise BenchError(f"the server speaks {output.protocol}, not h2")
    if not output.requests or output.failed:
        raise BenchError(f"{output.requests} responses, {output.failed} failed: {url}")
    return LoadResult(output.requests, output.seconds, run.server_cpu_s, run.load_cpu_s)


def parse(output: str) -> H2LoadOutput:
    """The figures of h2load's report. Raises BenchError when they are missing."""
    protocol = re.search(r"^Application protocol: (\S+)", output, re.MULTILINE)
    finished = re.search(r"^finished in ([\d.]+)(us|ms|s),", output, re.MULTILINE)
    requests = re.search(
        r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output
    )
    statuses = re.search(r"^status codes: (\d+) 2xx", output, re.MULTILINE)
    if finished is None or requests is None or statuses is None:
        raise BenchError(f"h2load's report has no number of requests: {output[-200:]!r}")
    done, _succeeded, failed, _errored, timed_out = map(int, requests.groups())
    unit_s = {"us": 1e-6, "ms": 1e-3, "s": 1.0}[finished[2]]
    return H2LoadOutput(
        protocol=protocol[1] if protocol else "no protocol that it named",
        requests=done,
        failed=max(failed + timed_out, done - int(statuses[1])),
        seconds=float(finished[1]) * unit_s,
    )
