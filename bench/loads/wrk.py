"""wrk: many requests over few connections, as a program that costs less than any server.

It does not understand the response to HEAD; ``request_load`` measures that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.loads.load import LoadResult, run_program
from bench.servers.server import LOOPBACK, BenchError, scratch_folder

UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
# wrk calls request() for every request; the path has a key of its own each time.
_OWN_KEYS = """
local number = 0
request = function()
  number = number + 1
  return wrk.format("GET", "{path}-" .. number)
end
"""


@dataclass(frozen=True, slots=True)
class WrkPlan:
    """For ``seconds``, ``connections`` send the same request, each one at a time.

    ``own_keys``: every request has a number behind its path. ``statuses``: those of the responses,
    in the words of wrk: errors are all from 400.
    """

    port: int
    path: str
    connections: int
    seconds: float
    fields: Mapping[str, str] = field(default_factory=dict)
    secure: bool = False
    own_keys: bool = False
    expects_errors: bool = False


@dataclass(frozen=True, slots=True)
class WrkOutput:
    """``errors``: responses with a status of 400 and more. ``failed``: lost connections."""

    requests: int
    seconds: float
    errors: int
    failed: int


def wrk(plan: WrkPlan, server_pid: int) -> LoadResult:
    """Runs wrk on the load generator's core. Raises BenchError when a response was wrong."""
    scheme = "https" if plan.secure else "http"
    url = f"{scheme}://{LOOPBACK}:{plan.port}{plan.path}"
    options = ["-t1", f"-c{plan.connections}", f"-d{max(1, round(plan.seconds))}s"]
    for name, value in plan.fields.items():
        options += ["-H", f"{name}: {value}"]
    with scratch_folder() as folder:
        if plan.own_keys:
            script = folder / "own_keys.lua"
            script.write_text(_OWN_KEYS.format(path=plan.path))
            options += ["-s", str(script)]
        run = run_program(["wrk", *options, url], server_pid=server_pid, limit_s=plan.seconds)
    output = parse(run.output)
    expected = output.requests if plan.expects_errors else 0
    if not output.requests or output.errors != expected or output.failed:
        raise BenchError(
            f"{output.requests} responses, {output.errors} of them errors,"
            f" {output.failed} failed: {url}"
        )
    return LoadResult(output.requests, output.seconds, run.server_cpu_s, run.load_cpu_s)


def parse(output: str) -> WrkOutput:
    """The figures of wrk's report. Raises BenchError when they are missing."""
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m|h),", output)
    if total is None:
        raise BenchError(f"wrk's report has no number of requests: {output[:200]!r}")
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    failed = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output
    )
    return WrkOutput(
        requests=int(total[1]),
        seconds=float(total[2]) * UNITS_S[total[3]],
        errors=int(errors[1]) if errors else 0,
        failed=sum(map(int, failed.groups())) if failed else 0,
    )
