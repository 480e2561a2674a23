"""Journeys: programs made for CloudFront's logs read what an edge has delivered."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import aws_log_parser
import duckdb
import pytest

from streamedge.logs.blocks import compress_block
from streamedge.logs.cloudfront import HEAD
from tests.support.access_logs import await_lines, folder_files, read_with_node, texts
from tests.support.http.http_viewer import Response, open_viewer
from tests.support.process.edge_process import EdgeProcess, run_edge

# The table of AWS' "Create a table for CloudFront standard logs" (Amazon Athena User Guide), in
# DuckDB's words for the same types.
ATHENA_COLUMNS = {
    "date": "DATE",
    "time": "VARCHAR",
    "x_edge_location": "VARCHAR",
    "sc_bytes": "BIGINT",
    "c_ip": "VARCHAR",
    "cs_method": "VARCHAR",
    "cs_host": "VARCHAR",
    "cs_uri_stem": "VARCHAR",
    "sc_status": "INTEGER",
    "cs_referrer": "VARCHAR",
    "cs_user_agent": "VARCHAR",
    "cs_uri_query": "VARCHAR",
    "cs_cookie": "VARCHAR",
    "x_edge_result_type": "VARCHAR",
    "x_edge_request_id": "VARCHAR",
    "x_host_header": "VARCHAR",
    "cs_protocol": "VARCHAR",
    "cs_bytes": "BIGINT",
    "time_taken": "FLOAT",
    "x_forwarded_for": "VARCHAR",
    "ssl_protocol": "VARCHAR",
    "ssl_cipher": "VARCHAR",
    "x_edge_response_result_type": "VARCHAR",
    "cs_protocol_version": "VARCHAR",
    "fle_status": "VARCHAR",
    "fle_encrypted_fields": "INTEGER",
    "c_port": "INTEGER",
    "time_to_first_byte": "FLOAT",
    "x_edge_detailed_result_type": "VARCHAR",
    "sc_content_type": "VARCHAR",
    "sc_content_len": "BIGINT",
    "sc_range_start": "BIGINT",
    "sc_range_end": "BIGINT",
}


class Exchange(NamedTuple):
    """A request as it was sent, and the response to it."""

    method: str
    path: str
    fields: dict[str, str]
    response: Response


class Delivered(NamedTuple):
    """The folder of the delivered files, what the edge's metrics say of the same responses, and
    the requests."""

    folder: Path
    responses: int
    sent_bytes: int
    statuses: dict[int, int]
    exchanges: list[Exchange]

    def plain_file(self, path: Path) -> Path:
        """All files as one, without compression."""
        files = [gzip.decompress(data) for data in folder_files(self.folder).values()]
        path.write_bytes(b"".join(files))
        return path


async def send_requests(edge: EdgeProcess) -> list[Exchange]:
    """Sends requests with odd texts."""
    agent = "Mozilla/5.0 (X11; Linux x86_64) \"odd\" 'q' {a|b} ^~[]` \\ %20 <b>\x80"
    requests: list[tuple[str, str, dict[str, str]]] = [
        ("GET", "/a.html", {"user_agent": agent, "referer": "http://r.example/?q=a b"}),
        ("GET", "/a.html", {"user_agent": agent}),
        ("GET", "/a.html?x=%20y&z=1+2", {"user_agent": agent}),
        ("GET", "/a.html?Signature=secret", {}),
        ("HEAD", "/a.html", {}),
        ("GET", "/none%20here", {"cookie": 'session=1; b="2"'}),
        ("GET", "/a.html", {"range": "bytes=100-199"}),
        ("GET", "/a.html", {"range": "bytes=-5", "x_forwarded_for": "192.0.2.1, 198.51.100.2"}),
        ("GET", "/a.html", {"range": "bytes=9999-"}),
        ("GET", "/a.html", {"if_none_match": "*"}),
        ("DELETE", "/a.html", {}),
    ]
    async with open_viewer(edge.http_port) as viewer:
        return [
            Exchange(
                method,
                path,
                fields,
                await viewer.get(path, method, host="cdn.example.com", **fields),
            )
            for method, path, fields in requests * 3
        ]


@pytest.fixture(scope="module")
def one_stream(tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    folder = tmp_path_factory.mktemp("readers")
    media, logs = folder / "media", folder / "logs"
    media.mkdir()
    logs.mkdir()
    (media / "a.html").write_bytes(b"<p>" * 400)
    origins = (
        f'[origins.main]\ntype = "directory"\npath = "{media}"\n'
        f'[origins.logs]\ntype = "directory"\npath = "{logs}"\n'
    )
    distributions = (
        '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
        'aliases = ["cdn.example.com"]\n'
        'log = { origin = "logs", cookies = true, interval = "1s" }\n'
    )
    with run_edge(folder / "edge", origins, workers=2, distributions=distributions) as edge:
        exchanges = asyncio.run(send_requests(edge))
        count = len(exchanges)
        statuses = Counter(exchange.response.status for exchange in exchanges)
        await_lines(lambda: texts(folder_files(logs)), count)
        edge.await_metric("streamedge_responses_total", lambda value: value == count)
        sent_bytes = int(edge.metric("streamedge_sent_bytes_total", "http"))
        for status, times in statuses.items():
            assert edge.metric("streamedge_statuses_total", f'"{status}"') == times
    return Delivered(logs, count, sent_bytes, statuses, exchanges)


@pytest.fixture(scope="module", params=["one stream", "blocks"])
def delivered(
    one_stream: Delivered, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Delivered:
    """The files with all lines in one gzip stream, and with blocks, as those of a busy edge."""
    if request.param == "one stream":
        return one_stream
    folder = tmp_path_factory.mktemp("blocks")
    for name, data in folder_files(one_stream.folder).items():
        lines = gzip.decompress(data).removeprefix(HEAD.encode()).splitlines(keepends=True)
        parts = [HEAD.encode()], lines[:1], lines[1:]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(compress_block(part) for part in parts if part))
    return one_stream._replace(folder=folder)


def test_athenas_table_sums_to_the_metrics(delivered: Delivered) -> None:
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in ATHENA_COLUMNS.items())
    table = (
        f"read_csv('{delivered.folder}/**/*.gz', columns = {{{columns}}}, delim = '\t', skip = 2,"
        " header = false, nullstr = '-', quote = '', escape = '', strict_mode = true)"
    )
    with duckdb.connect() as database:
        totals = database.execute(f"SELECT count(*), sum(sc_bytes) FROM {table}").fetchall()
        statuses = database.execute(
            f"SELECT sc_status, count(*) FROM {table} GROUP BY sc_status"
        ).fetchall()
        distinct = database.execute(
            f"SELECT count(DISTINCT x_edge_request_id), min(cs_host), max(date) - min(date),"
            f" max(sc_range_end), count(cs_cookie) FROM {table}"
        ).fetchone()
        queries = database.execute(f"SELECT DISTINCT cs_uri_query FROM {table}").fetchall()
    assert totals == [(delivered.responses, delivered.sent_bytes)]
    assert dict(statuses) == delivered.statuses
    assert distinct is not None
    assert distinct[:2] == (delivered.responses, "cdn.example.com")
    assert distinct[3:] == (1199, 3)
    assert {query for (query,) in queries} == {None, "x=%2520y&z=1+2", "Signature=***"}


def test_aws_log_parser_reads_every_line(delivered: Delivered) -> None:
    log_type = aws_log_parser.LogType.CloudFront
    parser = aws_log_parser.AwsLogParser(log_type=log_type, file_suffix=".gz")
    entries = list(parser.read_files(delivered.folder))
    assert len(entries) == delivered.responses
    assert sum(entry.sent_bytes for entry in entries) == delivered.sent_bytes
    assert {entry.host for entry in entries} == {"cdn.example.com"}
    assert all(entry.timestamp.tzinfo is not None for entry in entries)


def test_nodes_cloudfront_log_parser_reads_what_was_requested(delivered: Delivered) -> None:
    entries = read_with_node(delivered.folder, "web")
    assert len(entries) == delivered.responses
    by_id = {entry["x-edge-request-id"]: entry for entry in entries}
    for method, path, fields, response in delivered.exchanges:
        entry = by_id.pop(response.fields["x-amz-cf-id"])
        stem, _, query = path.partition("?")
        # The package decodes what the viewer has encoded, too: no value here keeps a "%20".
        expected = {
            "c-ip": "127.0.0.1",
            "cs-method": method,
            "cs-host": "cdn.example.com",
            "x-host-header": "cdn.example.com",
            "cs-uri-stem": decoded(stem),
            "cs-uri-query": decoded(query.replace("secret", "***")) or "-",
            "sc-status": str(response.status),
            "cs-referer": decoded(fields.get("referer", "-")),
            "cs-user-agent": decoded(fields.get("user_agent", "-")),
            "cs-cookie": fields.get("cookie", "-"),
            "cs-protocol": "http",
            "cs-protocol-version": "HTTP/1.1",
            "x-forwarded-for": fields.get("x_forwarded_for", "-"),
            "ssl-protocol": "-",
            "ssl-cipher": "-",
            "sc-content-type": response.fields.get("content-type", "-"),
        }
        if response.status == 206:
            first, last, _size = re.findall(r"\d+", response.fields["content-range"])
            expected |= {"sc-range-start": first, "sc-range-end": last}
            expected["sc-content-len"] = response.fields["content-length"]
        assert {name: entry[name] for name in expected} == expected
    assert by_id == {}
    assert all(len(entry) == len(ATHENA_COLUMNS) for entry in entries)
    assert sum(int(entry["sc-bytes"]) for entry in entries) == delivered.sent_bytes


def decoded(text: str) -> str:
    return text.replace("%20", " ")


def test_goaccess_counts_every_response(delivered: Delivered, tmp_path: Path) -> None:
    log, report = delivered.plain_file(tmp_path / "access.log"), tmp_path / "report.json"
    subprocess.run(
        ["goaccess", log, "--log-format=CLOUDFRONT", "--no-strict-status", "-o", report],
        check=True,
        capture_output=True,
    )
    general = json.loads(report.read_text())["general"]
    assert general["failed_requests"] == 0
    assert general["valid_requests"] == delivered.responses
    assert general["bandwidth"] == delivered.sent_bytes


def test_awstats_counts_every_response(delivered: Delivered, tmp_path: Path) -> None:
    log = delivered.plain_file(tmp_path / "access.log")
    others = " ".join(["%other"] * 21)
    (tmp_path / "awstats.edge.conf").write_text(
        f'LogFile="{log}"\nLogType=W\nLogSeparator="\\t"\n'
        'LogFormat="%time2 %cluster %bytesd %host %method %virtualname %url %code %referer %ua'
        f' %query {others}"\n'
        'SiteDomain="cdn.example.com"\nHostAliases=""\nDNSLookup=0\n'
        f'DirData="{tmp_path}"\nValidHTTPCodes="200 206 304"\nSkipHosts=""\nNotPageList=""\n'
    )
    done = subprocess.run(
        [
            "/usr/lib/cgi-bin/awstats.pl",
            "-config=edge",
            f"-configdir={tmp_path}",
            "-update",
            "-showcorrupted",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    head = len([line for line in log.read_text().splitlines() if line.startswith("#")])
    assert f"Parsed lines in file: {delivered.responses + head}" in done.stdout
    assert f"Found {delivered.responses} new qualified records" in done.stdout
