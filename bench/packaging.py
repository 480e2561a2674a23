"""Packaging MP4 as FLV on one core: StreamEdge beside PyAV's remux, packet by packet.

``python -m bench.packaging PLAN`` packages a whole file in this process and prints a
``PackagingResult``. The file is in the page cache and the output is only counted, so the time is
the packager's.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import av

from bench.loads.load import run_load
from bench.machine import SERVER_CORE
from bench.options import Options
from bench.report import Figure, Target
from bench.servers.edge import STREAMEDGE
from bench.servers.server import BenchError, Failure, pick
from bench.servers.titles import titles
from streamedge.media.flv.layout import FlvLayout
from streamedge.media.mp4.moov import locate_moov, parse_moov
from streamedge.media.mp4.title import build_title
from streamedge.media.packager import PIECE_BYTES
from streamedge.spans import Span

PYAV = "PyAV remux"
LIMIT_S = 120.0
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class PackagingResult:
    """FLV bytes written, and the seconds they took."""

    flv_bytes: int
    seconds: float


def packaging(options: Options) -> list[Figure]:
    """FLV megabytes per second; the best of a few rounds."""
    path = titles().moov_first
    results: dict[str, PackagingResult | Failure] = {}
    for name in PACKAGERS:
        try:
            rounds = [_round(name, path) for _ in range(ROUNDS)]
            results[name] = min(rounds, key=lambda one: one.seconds)
        except BenchError as error:
            results[name] = Failure(str(error))
    rate = pick(results, lambda one: one.flv_bytes / 1e6 / one.seconds)
    return [Figure("FLV written", "MB/s", rate, Target(500, at_least=True))]


def package_with_streamedge(path: Path) -> int:
    """Packages ``path`` as the packager does for a fill, piece by piece, from a local file."""
    size_bytes = path.stat().st_size
    with open(path, "rb") as file:
        read = partial(_read, file.fileno())
        layout = FlvLayout(build_title(parse_moov(read(_find_moov(read, size_bytes))), size_bytes))
        flv_bytes = 0
        for piece in Span(0, layout.size_bytes).split(PIECE_BYTES):
            sources = [read(source) for source in layout.plan(piece)]
            flv_bytes += len(layout.assemble(piece, sources))
    return flv_bytes


def _read(descriptor: int, span: Span) -> bytes:
    return os.pread(descriptor, span.size, span.start)


def _find_moov(read: Callable[[Span], bytes], size_bytes: int) -> Span:
    parser = locate_moov(size_bytes, limit_bytes=size_bytes)
    request = next(parser)
    while True:
        try:
            request = parser.send(read(request))
        except StopIteration as stop:
            span: Span = stop.value
            return span


def remux_with_pyav(path: Path) -> int:
    """Remuxes ``path`` with FFmpeg's FLV muxer, packets passing through Python."""
    sink = _CountingSink()
    with (
        av.open(str(path)) as source,
        av.open(sink, "w", format="flv", options={"flvflags": "no_duration_filesize"}) as target,
    ):
        streams = {
            stream.index: target.add_stream_from_template(stream, opaque=True)
            for stream in source.streams
            if stream.type in ("video", "audio")
        }
        for packet in source.demux():
            if packet.dts is not None and packet.stream.index in streams:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return sink.written_bytes


PACKAGERS: dict[str, Callable[[Path], int]] = {
    STREAMEDGE: package_with_streamedge,
    PYAV: remux_with_pyav,
}


class _CountingSink(io.RawIOBase):
    """Counts and discards everything."""

    def __init__(self) -> None:
        self.written_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        self.written_bytes += size
        return size


def _round(name: str, path: Path) -> PackagingResult:
    plan = {"packager": name, "path": str(path)}
    return PackagingResult(**run_load("bench.packaging", plan, limit_s=LIMIT_S, core=SERVER_CORE))


def _package(name: str, path: Path) -> PackagingResult:
    began_s = time.perf_counter()
    flv_bytes = PACKAGERS[name](path)
    return PackagingResult(flv_bytes, time.perf_counter() - began_s)


if __name__ == "__main__":
    chosen = json.loads(sys.argv[1])
    print(json.dumps(asdict(_package(chosen["packager"], Path(chosen["path"])))))
