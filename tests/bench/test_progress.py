"""A benchmark that hangs fails by itself, and its servers end."""

from __future__ import annotations

import threading

import pytest

from bench import __main__ as program
from bench.options import Options
from bench.progress import time_limit
from bench.report import Figure
from bench.servers.server import BenchError


def test_time_limit_ends_a_block_that_waits() -> None:
    with pytest.raises(BenchError, match="longer than 0 s"), time_limit(0.01):
        threading.Event().wait()
    with time_limit(0.01):
        pass
    assert not threading.Event().wait(0.02)  # no signal comes later


def test_benchmark_that_takes_too_long_is_a_row_that_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hang(_options: Options) -> list[Figure]:
        threading.Event().wait()
        return []

    benchmark = program.Benchmark(hang, "It hangs.", 0.01)
    monkeypatch.setattr(program, "BENCHMARKS", {"hangs": benchmark})
    program.main(["hangs", "--print-only"])
    printed = capsys.readouterr()
    assert "longer than 0 s" in printed.out
    assert "hangs begins" in printed.err
