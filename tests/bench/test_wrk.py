from __future__ import annotations

import pytest

from bench.loads.wrk import WrkOutput, parse
from bench.servers.server import BenchError

REPORT = """\
Running 2s test @ http://127.0.0.1:8080/gone/page.html
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   234.56us  518.08us   8.17ms   94.66%
    Req/Sec    23.48k    11.14k   51.50k    81.82%
  25713 requests in 2.10s, 7.55MB read
"""
ERRORS = "  Non-2xx or 3xx responses: 25713\n"
LOST = "  Socket errors: connect 1, read 20, write 300, timeout 4000\n"


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (REPORT, WrkOutput(25713, 2.1, 0, 0)),
        (REPORT + ERRORS, WrkOutput(25713, 2.1, 25713, 0)),
        (REPORT + LOST + ERRORS, WrkOutput(25713, 2.1, 25713, 4321)),
        (REPORT.replace("2.10s", "987.65ms"), WrkOutput(25713, 0.98765, 0, 0)),
        (REPORT.replace("2.10s", "1.50m"), WrkOutput(25713, 90.0, 0, 0)),
    ],
    ids=["responses", "errors", "lost-connections", "milliseconds", "minutes"],
)
def test_report_of_wrk_is_parsed(report: str, expected: WrkOutput) -> None:
    assert parse(report) == expected


def test_output_without_a_report_is_an_error() -> None:
    with pytest.raises(BenchError, match="no number of requests"):
        parse("unable to connect to 127.0.0.1:1 Connection refused")
