from __future__ import annotations

import pytest

from bench.loads.h2load import H2LoadOutput, parse
from bench.servers.server import BenchError

REPORT = """\
starting benchmark...
TLS Protocol: TLSv1.3
Cipher: TLS_AES_256_GCM_SHA384
Application protocol: h2
Main benchmark duration is over for thread #0. Stopping all clients.

finished in 2.05s, 13136.00 req/s, 14.91MB/s
requests: 26272 total, 26400 started, 26272 done, 26272 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 26273 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 29.82MB (31270000) total, 1.2MB (1260000) headers (space savings 50.00%), 25.66MB data
"""


def test_report_of_h2load_is_parsed() -> None:
    assert parse(REPORT) == H2LoadOutput("h2", 26272, 0, 2.05)


def test_responses_without_status_2xx_count_as_failed() -> None:
    report = REPORT.replace("26273 2xx, 0 3xx, 0 4xx", "26000 2xx, 0 3xx, 272 4xx")
    assert parse(report).failed == 272


def test_requests_without_a_response_count_as_failed() -> None:
    report = REPORT.replace("0 failed, 0 errored, 0 timeout", "20 failed, 17 errored, 3 timeout")
    assert parse(report).failed == 23


def test_other_protocol_is_recognized() -> None:
    assert parse(REPORT.replace("protocol: h2", "protocol: http/1.1")).protocol == "http/1.1"


def test_output_without_a_report_is_an_error() -> None:
    with pytest.raises(BenchError, match="no number of requests"):
        parse("client could not connect to host")
