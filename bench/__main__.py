"""``python -m bench [NAME …]``: runs benchmarks, prints their tables, updates RESULTS.md.

Owns the command line and the list of benchmarks. Ends 1 when a target was missed.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

from rich.console import Console

from bench import (
    cold_http,
    cold_rtmp,
    http_hits,
    https_hits,
    invalidation,
    packaging,
    peers,
    report,
    restart,
    rtmp_rows,
    signed_hits,
)
from bench.machine import LOAD_CORE, SERVER_CORE, Steal, description, has_two_cores, today
from bench.options import Options
from bench.server import BenchError


@dataclass(frozen=True, slots=True)
class Benchmark:
    """``how`` stands under the table: what was done, in a sentence or two."""

    run: Callable[[Options], list[report.Figure]]
    how: str


BENCHMARKS = {
    "rtmp-cost": Benchmark(
        rtmp_rows.cost,
        "200 RTMP viewers of a warm 4 Mb/s title in real time, each at its own place in it; one"
        " worker. Client buffer 3 s.",
    ),
    "rtmp-viewers": Benchmark(
        rtmp_rows.capacity,
        "RTMP viewers of a warm 4 Mb/s title, 500 more each second, each at its own place; one"
        " worker. A viewer plays from when its buffer of 3 s is full, at the latest 3 s after its"
        " first media, and is late once it has played all that was received whole. Memory is the"
        " server's PSS with all viewers less that with none; socket buffers are the kernel's.",
    ),
    "http-hits": Benchmark(
        http_hits.hits,
        "Ranges at random of a warm 300 MB object over 16 kept connections; one worker each, in"
        f" turns, {http_hits.ROUNDS} rounds, those of at most {http_hits.ROUNDS_MAX} that the"
        " machine's host disturbed least. Values are medians; the ratio is the median of the"
        " rounds' ratios.",
    ),
    "https-hits": Benchmark(
        https_hits.hits,
        "As http-hits, over TLS 1.3 with the same certificate for both. The load generator counts"
        " the records and opens only the first answer's, so that it costs less than any server.",
    ),
    "signed-hits": Benchmark(
        signed_hits.signed_hits,
        "As http-hits, the edge beside itself: URLs with a custom policy, signed with RSA of 2048"
        " bits, and open ones. The decision is timed by itself, in one process: a signature that is"
        " remembered, and a rule of countries.",
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
        "200 readers ask at once for a cold object of 60 MB; origin: first byte after 30 ms, then"
        " 10 MB/s. Two workers, proxy_cache_lock on, no core pinning.",
    ),
    "cold-rtmp": Benchmark(
        cold_rtmp.first_frames,
        "One RTMP viewer of a cold 300 MB MP4 of 4 Mb/s; origin: first byte after 30 ms, then"
        " 1 MB/s. nginx-rtmp plays from the same origin over HTTP.",
    ),
    "packaging": Benchmark(
        packaging.packaging,
        "A 300 MB MP4 in the page cache packaged as FLV on one core, the output dropped. Best of"
        f" {packaging.ROUNDS}.",
    ),
    "restart": Benchmark(
        restart.restart,
        "A cache of 20,000 objects of 1 KiB, filled over HTTP; then a stop, a start, and requests"
        " for one of them until it comes, from the cache.",
    ),
    "invalidation": Benchmark(
        invalidation.invalidation,
        f"POST /invalidations of /* with {invalidation.WORKERS} workers and as many assets in the"
        f" cache as the table says; {invalidation.CONNECTIONS} connections ask for a hit before it"
        f" and at once after it has returned, {invalidation.ROUNDS} rounds. No core pinning.",
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Runs what was asked; 0 when every target was met."""
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run; none: all")
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
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
        help="RTMP viewers that one worker must hold (default %(default)s)",
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
    asked = parser.parse_args(arguments)
    console = Console()
    if asked.list:
        for name, benchmark in BENCHMARKS.items():
            console.print(f"[bold]{name}[/]: {benchmark.how}")
        return 0
    unknown = [name for name in asked.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    options = Options(asked.seconds, asked.viewers, asked.peer_viewers, asked.assets)
    facts = _facts(arguments)
    missed = 0
    for name in asked.names or BENCHMARKS:
        began_s = time.monotonic()
        section = _run(name, options, facts)
        report.show(section, console)
        report.write([section])  # at once: a later benchmark may be interrupted
        console.print(f"{name}: {time.monotonic() - began_s:.0f} s\n")
        missed += sum(figure.verdict == "no" for figure in section.figures)
    console.print(f"{missed} targets missed" if missed else "all targets met")
    return 1 if missed else 0


def _run(name: str, options: Options, facts: Sequence[str]) -> report.Section:
    benchmark = BENCHMARKS[name]
    steal = Steal()
    try:
        figures = benchmark.run(options)
    except BenchError as error:
        figures = [report.Figure(f"failed: {error}", "", {})]
    host = (
        "processor time that the machine's host gave to others:"
        f" {100 * steal.share:.0f} % (should be near 0)"
    )
    return report.Section(name, benchmark.how, figures, [*facts, host])


def _facts(arguments: Sequence[str]) -> list[str]:
    """Date, machine, versions and command."""
    pinning = (
        f"servers of one worker on core {SERVER_CORE}, load generators and origin on {LOAD_CORE}"
        if has_two_cores()
        else "one core for servers and load generators alike: figures are low"
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
    """What Debian's package says; nginx itself does not tell."""
    try:
        query = ["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-rtmp"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "of unknown version"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
