"""``python -m bench [NAME …]``: runs benchmarks, prints their tables, updates RESULTS.md.

The exit code is 1 when a target was missed.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

from rich.console import Console

from bench import invalidation, operators, packaging, report, restart, rounds
from bench.fleet import (
    failovers,
    following,
    hits,
    invalidations,
    old_answers,
    shared_log,
    simulation,
    tiers,
)
from bench.http import (
    cold_http,
    cold_throughput,
    http2_hits,
    http_hits,
    http_requests,
    https_requests,
    idle_connections,
    logged_hits,
    requests,
    signed_hits,
)
from bench.machine import LOAD_CORE, SERVER_CORE, Steal, description, has_two_cores, today
from bench.options import Options
from bench.progress import note, time_limit
from bench.rtmp import cold_rtmp, link_rate, rtmp_rows
from bench.servers import peers
from bench.servers.server import BenchError
from tests.support.fleet.simulation.engine import Costs
from tests.support.fleet.simulation.network import DETOUR, RTO_S


@dataclass(frozen=True, slots=True)
class Benchmark:
    """``how`` is printed under the table: the method in one or two sentences. ``limit_s``: a
    measurement that takes longer has failed."""

    run: Callable[[Options], list[report.Figure]]
    how: str
    limit_s: float = 1800.0


BESIDE_NGINX = (
    f" One worker each, alternating, {requests.ROUNDS} rounds; both servers write an access log."
    " The origin is an nginx on the load generator's core, and counts as load."
)
BY_WRK = f" wrk, {requests.CONNECTIONS} connections."

COSTS = Costs()  # of the simulated engine
SIMULATION_LIMIT_S = 180.0
FLEET_LIMIT_S = 600.0

BENCHMARKS = {
    "rtmp-cost": Benchmark(
        rtmp_rows.cost,
        "200 RTMP viewers of a warm 4 Mb/s title in real time, each at a different position; one"
        " worker. Client buffer 3 s. The kernel's floor is a C program that sends each viewer runs"
        " of 520 KB by sendfile and reads no media.",
    ),
    "rtmpe-cost": Benchmark(
        rtmp_rows.encrypted_cost,
        "200 viewers of a warm 4 Mb/s title in real time, each at a different position, over RTMPE"
        " and over plain RTMP; one worker. Client buffer 3 s. The viewers discard what they"
        " receive, so that both cost the load generator the same.",
    ),
    "rtmpt-cost": Benchmark(
        rtmp_rows.tunnel_cost,
        "200 viewers of a warm 4 Mb/s title in real time, each at a different position, over RTMPT"
        " and over plain RTMP; one worker. Client buffer 3 s. Over RTMPT a viewer posts an idle"
        " when it has received a response; the viewers discard the bodies.",
    ),
    "rtmp-viewers": Benchmark(
        rtmp_rows.capacity,
        "RTMP viewers of a warm 4 Mb/s title, 500 more each second, each at a different position;"
        " one worker. A viewer starts to play when its buffer of 3 s is full, at the latest 3 s"
        " after its first media, and is late once it has played all complete messages. Memory is"
        " the server's PSS with all viewers minus its PSS without; it excludes socket buffers.",
    ),
    "http-hits": Benchmark(
        http_hits.hits,
        "Random ranges of a warm 300 MB object over 16 keep-alive connections; one worker each,"
        f" alternating, {rounds.ROUNDS} rounds: of at most {rounds.ROUNDS_MAX} those that"
        " the machine's host disturbed least. Values are medians; the ratio is the median of the"
        " rounds' ratios.",
    ),
    "https-hits": Benchmark(
        http_hits.secure_hits,
        "As http-hits, over TLS 1.3 with the same certificate for both. The load generator counts"
        " the records and decrypts only the first response, so that it costs less than any server.",
    ),
    "http-misses": Benchmark(
        http_requests.misses,
        "Every request is for an object of 1 KB that is not in the cache, beside proxy_cache with"
        " proxy_cache_lock." + BY_WRK + BESIDE_NGINX,
    ),
    "http-connections": Benchmark(
        http_requests.connections,
        "A hit of 1 KB, each over a new connection, beside a file with sendfile."
        + BY_WRK
        + BESIDE_NGINX,
    ),
    "http-conditions": Benchmark(
        http_requests.conditions,
        "Conditions on a cached object of 256 KB, beside a file with open_file_cache."
        + BY_WRK
        + BESIDE_NGINX,
    ),
    "http-ranges": Benchmark(
        http_requests.ranges,
        "Ranges of cached objects, beside files with sendfile and open_file_cache."
        + BY_WRK
        + BESIDE_NGINX,
    ),
    "http-responses": Benchmark(
        http_requests.responses,
        "Beside nginx: HEAD of a file; a 404 in proxy_cache; gzip_static with a file that was"
        " compressed beforehand (StreamEdge serves the compressed form from its cache); a redirect"
        " by return; error_page with a file for a 403 in proxy_cache. wrk, HEAD by a load generator"
        " of ours." + BESIDE_NGINX,
    ),
    "http-dynamic": Benchmark(
        http_requests.dynamic,
        "1 KB that no cache may keep, beside proxy_pass; connections to the origin are kept alive."
        + BY_WRK
        + BESIDE_NGINX,
    ),
    "https-requests": Benchmark(
        https_requests.requests,
        "A hit of 1 KB over TLS 1.3 with the same certificate (P-256), beside a file. New"
        " connections have a full handshake, by a load generator of ours. A client's half of a"
        " handshake costs about as much as a server's: there the ratio of CPU time counts."
        + BESIDE_NGINX,
    ),
    "http2-hits": Benchmark(
        http2_hits.hits,
        f"Hits over HTTP/2 and TLS 1.3 by h2load, {http2_hits.CONNECTIONS} connections, beside"
        " files. The client decrypts: where its core is busy, the ratio of CPU time counts."
        + BESIDE_NGINX,
    ),
    "idle-connections": Benchmark(
        idle_connections.connections,
        "Keep-alive connections that got one response of 1 KB and are idle; at most as many as the"
        " limit of open files leaves room for. Server memory is the PSS with them minus the PSS"
        " without; kernel memory is slab and socket buffers of both ends, the client's included.",
    ),
    "cold-throughput": Benchmark(
        cold_throughput.throughput,
        "One reader of a cold object of 1 GB from an nginx origin without a limit, beside"
        f" proxy_cache. One worker each, alternating, {requests.ROUNDS} rounds, each another key.",
    ),
    "signed-hits": Benchmark(
        signed_hits.signed_hits,
        "As http-hits, with two edges: URLs with a custom policy, signed with RSA of 2048 bits, and"
        " unsigned ones. The decision is timed separately, in one process: a cached signature and a"
        " rule of countries.",
    ),
    "logged-hits": Benchmark(
        logged_hits.logged_hits,
        "As http-hits, with two edges: one has an access log of 33 fields, which it delivers into a"
        " folder every 5 s.",
    ),
    "cold-seek": Benchmark(
        cold_http.seek,
        "1 MiB at 90 % of a cold 300 MB object; origin: first byte after 30 ms, then 10 MB/s."
        f" Median of {cold_http.SEEKS} cold objects (proxy_cache without slices: one).",
    ),
    "cold-seek-beside": Benchmark(
        cold_http.seek_beside,
        "100 KB at 90 % of an object of 60 MB that another reader has been downloading for a"
        " second; origin: first byte after 30 ms, then 10 MB/s. Two workers, no core pinning.",
    ),
    "cold-readers": Benchmark(
        cold_http.readers,
        "200 readers request a cold object of 60 MB at once; origin: first byte after 30 ms, then"
        " 10 MB/s. Two workers, proxy_cache_lock on, no core pinning.",
    ),
    "cold-rtmp": Benchmark(
        cold_rtmp.first_frames,
        "One RTMP viewer of a cold 300 MB MP4 of 4 Mb/s; origin: first byte after 30 ms, then"
        " 1 MB/s. nginx-rtmp plays from the same origin over HTTP.",
    ),
    "rtmp-link-rate": Benchmark(
        link_rate.rates,
        "checkBandwidth over RTMP, between two network namespaces; the edge's interface has a token"
        " bucket filter (tc tbf) with a queue of 200 ms. Beside it a plain TCP transfer of"
        f" {link_rate.TRANSFER_S:.0f} s through the same link. No core pinning.",
    ),
    "packaging": Benchmark(
        packaging.packaging,
        "A 300 MB MP4 in the page cache, packaged as FLV on one core, the output discarded. Best of"
        f" {packaging.ROUNDS}.",
    ),
    "operators": Benchmark(
        operators.watching,
        "Two edges with one worker each, alternating: one writes CloudFront's access logs, while a"
        " program reads what the operators' page does: the status stream and, each 1.5 s (with 200"
        f" viewers 3 s), the list of viewers. Hits of 1 KiB by wrk, {requests.CONNECTIONS}"
        " connections; then 200 RTMP viewers of a warm 4 Mb/s title in real time. Both write the"
        " JSON log.",
    ),
    "restart": Benchmark(
        restart.restart,
        "A cache of 20,000 objects of 1 KiB, filled over HTTP; then a stop, a start, and requests"
        " for one of them until the cache serves it.",
    ),
    "fleet-log": Benchmark(
        shared_log.shared_log,
        f"The shared log in Redis (appendfsync everysec), followed by {shared_log.READERS} readers"
        " that report their position after each batch; each is a process. Single entries"
        f" {1000 * shared_log.INTERVAL_S:.0f} ms apart; then {shared_log.RATE:,} a second. A proxy"
        " of our own delays the distant engine. No core pinning.",
        FLEET_LIMIT_S,
    ),
    "fleet-simulation": Benchmark(
        simulation.simulation,
        "Simulated, nothing is measured: edges in ten cities on five continents, the engine in"
        f" Frankfurt, fibre {DETOUR} times as long as the great circle, {1000 * RTO_S:.0f} ms until"
        f" a lost packet comes again; {1000 * simulation.APPLY_S:.0f} ms for a row on an edge's"
        f" disk, {1e6 * COSTS.call_s:.0f} us for a call of the engine and"
        f" {1e6 * COSTS.presence_each_s:.1f} us more for each edge in a report,"
        f" {1e6 * COSTS.push_each_s:.0f} us for each edge that is pushed to (assumed). Failovers"
        " run the real control processes in simulated time, 20 ms away from the engine each way.",
        SIMULATION_LIMIT_S,
    ),
    "fleet-invalidation": Benchmark(
        invalidations.invalidations,
        f"POST /invalidations of one object on one edge of {invalidations.EDGES}, each time another"
        " one, with a valid copy on all; until the head that requests look at is the new one on the"
        " last edge. Then a viewer of each edge must get 504 for what is cached only. Links to a"
        " distant engine are proxies of our own. No core pinning.",
        FLEET_LIMIT_S,
    ),
    "fleet-old-answers": Benchmark(
        old_answers.old_answers,
        f"{old_answers.OBJECTS} objects on {old_answers.EDGES} edges, which are one tier with a"
        " lease of 2 s, get other content at the origin, and everything is invalidated on one edge;"
        " once CloudFront's API there says Completed, all objects are requested on all edges, those"
        " that are cut off included, and again when all is mended.",
        FLEET_LIMIT_S,
    ),
    "fleet-failovers": Benchmark(
        failovers.failovers,
        f"{failovers.EDGES} edges; in each round {failovers.ENTRIES_KEPT} invalidations, a replica"
        f" of the engine that stops to replicate, {failovers.LOST} more, and the engine killed; all"
        " edges are led to the replica. Rows of the edges' control logs and of the engine's log.",
        FLEET_LIMIT_S,
    ),
    "fleet-origin-bytes": Benchmark(
        tiers.origin_bytes,
        f"{tiers.EDGES} edges, all of them one tier; readers at each of them read all objects, each"
        " beginning with another one, and compare every byte. A reader whose edge was killed goes"
        " on at another one.",
        FLEET_LIMIT_S,
    ),
    "fleet-miss": Benchmark(
        tiers.misses,
        f"A proxy of our own between child and parent, {1000 * tiers.DELAY_S:.0f} ms each way, and"
        " an equal one between a viewer and the parent: objects of 1 KB that the parent has and the"
        " child does not, beside hits of that viewer.",
        FLEET_LIMIT_S,
    ),
    "fleet-join": Benchmark(
        tiers.joins,
        f"{tiers.JOINED_OBJECTS} objects, each requested on one of {tiers.EDGES} edges; then one"
        " more edge joins their tier, and all objects are read on all edges.",
        FLEET_LIMIT_S,
    ),
    "fleet-catch-up": Benchmark(
        following.catch_up,
        f"The link of one of {following.EDGES} edges is cut while"
        f" {following.BEHIND_ENTRIES:,} invalidations are appended and the others apply them.",
        FLEET_LIMIT_S,
    ),
    "fleet-rate": Benchmark(
        following.rate,
        f"Invalidations are appended at {following.RATE:,} a second, those that are due at once;"
        f" {following.EDGES} edges follow. Then the edges' entries are compared with the log.",
        FLEET_LIMIT_S,
    ),
    "fleet-hits": Benchmark(
        hits.hits,
        "Random ranges of a warm object over 16 keep-alive connections; an edge with an engine"
        " beside one without, one worker each, alternating. Start: until /healthz returns 200.",
        FLEET_LIMIT_S,
    ),
    "invalidation": Benchmark(
        invalidation.invalidation,
        f"POST /invalidations of /* with {invalidation.WORKERS} workers and as many assets in the"
        f" cache as the table says; {invalidation.CONNECTIONS} connections request a hit before the"
        f" call and at once after its return, {invalidation.ROUNDS} rounds. No core pinning.",
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Runs the named benchmarks; returns 0 when every target was met."""
    defaults = Options()
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog=_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run; none: all")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and exit")
    parser.add_argument(
        "--print-only", action="store_true", help="print the tables and leave RESULTS.md as it is"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=defaults.seconds,
        help="length of a timed measurement (default %(default)s)",
    )
    parser.add_argument(
        "--viewers",
        type=int,
        default=defaults.viewers,
        help="RTMP viewers that one worker must serve (default %(default)s)",
    )
    parser.add_argument(
        "--peer-viewers",
        type=int,
        default=defaults.peer_viewers,
        help="RTMP viewers for nginx-rtmp (default %(default)s)",
    )
    parser.add_argument(
        "--assets",
        type=int,
        default=defaults.assets,
        help="assets in the cache when everything is invalidated (default %(default)s)",
    )
    parsed = parser.parse_args(arguments)
    console = Console()
    if parsed.list:
        for name, benchmark in BENCHMARKS.items():
            console.print(f"[bold]{name}[/]: {benchmark.how}")
        return 0
    unknown = [name for name in parsed.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(BENCHMARKS)}")
    options = Options(parsed.seconds, parsed.viewers, parsed.peer_viewers, parsed.assets)
    facts = _facts(arguments)
    missed = 0
    for name in parsed.names or BENCHMARKS:
        began_s = time.monotonic()
        section = _run(name, options, facts)
        report.show(section, console)
        if not parsed.print_only:
            report.write([section])  # now, because a later benchmark may be interrupted
        console.print(f"{name}: {time.monotonic() - began_s:.0f} s\n")
        missed += sum(figure.verdict == "no" for figure in section.figures)
    console.print(f"{missed} targets missed" if missed else "all targets met")
    return 1 if missed else 0


def _help() -> str:
    """What --help prints below the options."""
    names = textwrap.wrap(", ".join(BENCHMARKS), 76, break_on_hyphens=False)
    listed = textwrap.indent("\n".join(names), "  ")
    return f"""examples:
  python -m bench                      all benchmarks, as make bench runs them
  python -m bench http-misses          one of them
  python -m bench http-hits http2-hits --seconds 5
                                       two of them, shorter
  python -m bench --list               what each of them does

benchmarks:
{listed}

Each writes its section of bench/RESULTS.md, unless --print-only is given. A ratio to nginx is
above 1 where StreamEdge is better.
tools/install_programs.sh installs nginx, wrk and h2load. Use a quiet machine with two cores."""


def _run(name: str, options: Options, facts: Sequence[str]) -> report.Section:
    benchmark = BENCHMARKS[name]
    note(f"{name} begins; at most {benchmark.limit_s:.0f} s")
    steal = Steal()
    try:
        with time_limit(benchmark.limit_s):
            figures = benchmark.run(options)
    except BenchError as error:
        figures = [report.Figure(f"failed: {error}", "", {})]
    host = (
        "processor time that the machine's host gave to other guests:"
        f" {100 * steal.share:.0f} % (should be near 0)"
    )
    return report.Section(name, benchmark.how, figures, [*facts, host])


def _facts(arguments: Sequence[str]) -> list[str]:
    """Date, machine, versions and command."""
    pinning = (
        f"servers of one worker on core {SERVER_CORE}, load generators and origin on {LOAD_CORE}"
        if has_two_cores()
        else "servers and load generators share one core: figures are low"
    )
    return [
        f"{today()}; {description()}; {pinning}",
        f"load average before the run: {os.getloadavg()[0]:.2f} (should be near 0)",
        _versions(),
        f"`{shlex.join(['python', '-m', 'bench', *arguments])}`",
    ]


def _versions() -> str:
    try:
        nginx = f"nginx {peers.version()}"
    except BenchError as error:
        nginx = str(error)
    return (
        f"StreamEdge {_package_version('streamedge')}, Python {platform.python_version()},"
        f" {nginx}, nginx-rtmp {_rtmp_module_version()}, PyAV {_package_version('av')}"
    )


def _package_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _rtmp_module_version() -> str:
    """The version of Debian's package; nginx does not report it."""
    try:
        query = ["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-rtmp"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "of unknown version"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
