"""Journeys: the access log of a web distribution arrives in its folder or bucket."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from streamedge.logs import realtime
from streamedge.logs.cloudfront import decode
from tests.support.access_logs import await_lines, folder_files, texts
from tests.support.http.http_viewer import Response, open_viewer
from tests.support.http.viewer_edge import HTTP2, VERSIONS, run_viewer_edge
from tests.support.process.edge_process import EdgeProcess, run_edge

OBJECT = b"x" * 1024


def origins_toml(folder: Path) -> str:
    """A folder with /a.bin, and a folder for logs."""
    media, logs = folder / "media", folder / "logs"
    for each in (media, logs):
        each.mkdir(parents=True)
    (media / "a.bin").write_bytes(OBJECT)
    return (
        f'[origins.main]\ntype = "directory"\npath = "{media}"\n'
        f'[origins.logs]\ntype = "directory"\npath = "{logs}"\n'
    )


def web_toml(log: str) -> str:
    return (
        '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
        f'aliases = ["cdn.example.com", "edge"]\nlog = {{ origin = "logs", {log} }}\n'
    )


async def get_several(edge: EdgeProcess, paths: list[str], **fields: str) -> list[Response]:
    async with open_viewer(edge.http_port) as viewer:
        return [await viewer.get(path, host="cdn.example.com", **fields) for path in paths]


def test_every_response_has_one_line_with_its_id_and_its_bytes(tmp_path: Path) -> None:
    began_s = int(time.time())
    with run_edge(
        tmp_path / "edge",
        origins_toml(tmp_path),
        workers=2,
        distributions=web_toml('prefix = "cdn", interval = "1s"'),
    ) as edge:
        paths = ["/a.bin", "/a.bin", "/a.bin?x=1", "/none"]
        responses = asyncio.run(get_several(edge, paths, user_agent="a b", referer="http://r/"))
        responses += asyncio.run(get_several(edge, ["/a.bin"], range="bytes=10-19"))
        lines = await_lines(lambda: texts(folder_files(tmp_path / "logs")), len(responses))
        sent_bytes = edge.await_metric("streamedge_sent_bytes_total", bool, "http")
        assert edge.metric("streamedge_responses_total") == len(lines)
    by_id = {record.request_id: record for record in map(decode, lines)}
    assert len(by_id) == len(responses)
    records = [by_id[response.fields["x-amz-cf-id"]] for response in responses]
    assert sum(record.sent_bytes for record in records) == sent_bytes
    assert [record.status for record in records] == [200, 200, 200, 404, 206]
    assert [record.result for record in records] == ["Miss", "Hit", "Hit", "Error", "Hit"]
    assert [record.query for record in records] == [None, None, "x=1", None, None]
    first, second, last = records[0], records[1], records[-1]
    of_the_result = {"ended_s", "result", "response_result", "detailed", "request_id"}
    of_the_result |= {"sent_bytes", "duration_ms", "first_byte_ms"}
    for field, value in second._asdict().items():  # a hit has the same fields as a miss
        assert field in of_the_result or getattr(first, field) == value, field
    assert first.domain == first.host == "cdn.example.com"
    assert (first.address, first.method, first.stem) == ("127.0.0.1", "GET", "/a.bin")
    assert (first.agent, first.referer, first.cookie) == ("a b", "http://r/", None)
    assert (first.protocol, first.tls_protocol) == ("http", None)
    assert first.http_version == "HTTP/1.1"
    assert began_s <= first.ended_s <= time.time()
    assert (last.content_length, last.range_start, last.range_end) == (10, 10, 19)
    assert all(name.startswith("cdn/EWEB.") for name in folder_files(tmp_path / "logs"))


def test_access_log_does_not_depend_on_the_lines_of_responses_in_the_log(tmp_path: Path) -> None:
    with run_edge(
        tmp_path / "edge",
        origins_toml(tmp_path),
        edge="log_responses = false",
        distributions=web_toml('interval = "1s"'),
    ) as edge:
        responses = asyncio.run(get_several(edge, ["/a.bin", "/a.bin", "/none"]))
        lines = await_lines(lambda: texts(folder_files(tmp_path / "logs")), len(responses))
        assert edge.log("worker_up")
        assert edge.log("response") == []
    ids = {response.fields["x-amz-cf-id"] for response in responses}
    assert {decode(line).request_id for line in lines} == ids


def test_cookies_are_logged_where_the_log_has_them_and_signatures_never(tmp_path: Path) -> None:
    with run_edge(
        tmp_path / "edge",
        origins_toml(tmp_path),
        distributions=web_toml('cookies = true, interval = "1s"'),
    ) as edge:
        fields = {
            "cookie": "a=1; CloudFront-Signature=secret; CloudFront-Policy=secret",
            "referer": "https://r.example/p?Signature=secret&b=2",
        }
        path = "/a.bin?Policy=secret&Signature=secret&Key-Pair-Id=secret&c=3"
        asyncio.run(get_several(edge, [path, path], **fields))
        lines = await_lines(lambda: texts(folder_files(tmp_path / "logs")), 2)
    for record in map(decode, lines):
        assert record.cookie == "a=1; CloudFront-Signature=***; CloudFront-Policy=***"
        assert record.referer == "https://r.example/p?Signature=***&b=2"
        assert record.query == "Policy=***&Signature=***&Key-Pair-Id=***&c=3"
    assert not any("secret" in line for line in lines)


def test_response_that_is_cut_is_an_error_with_the_status_that_was_sent(tmp_path: Path) -> None:
    origins = origins_toml(tmp_path)
    (tmp_path / "media" / "large.bin").write_bytes(bytes(64 << 20))

    async def leave(edge: EdgeProcess) -> None:
        async with open_viewer(edge.http_port) as viewer:
            await viewer.send_request("/large.bin", host="cdn.example.com")
            await viewer.receive_head()

    with run_edge(tmp_path / "edge", origins, distributions=web_toml('interval = "1s"')) as edge:
        for _time in range(2):
            asyncio.run(leave(edge))
        lines = await_lines(lambda: texts(folder_files(tmp_path / "logs")), 2)
    first, second = sorted(map(decode, lines), key=lambda record: record.response_result)
    assert (first.response_result, second.response_result) == ("Hit", "Miss")
    for record in (first, second):
        assert (record.status, record.result) == (200, "Error")
        assert record.detailed == "ClientCommError"
        assert record.content_length == 64 << 20
        assert record.sent_bytes < 64 << 20


@pytest.mark.parametrize("version", VERSIONS)
def test_real_time_lines_have_the_fields_of_cloudfront(tmp_path: Path, version: str) -> None:
    distributions = web_toml('format = "realtime", interval = "1s"')
    distributions += '[[distributions.behaviors]]\npath = "*.bin"\norigin = "main"\n'
    with run_viewer_edge(
        version, tmp_path / "edge", origins_toml(tmp_path), distributions=distributions
    ) as edge:

        async def get() -> list[str]:
            async with edge.viewer() as viewer:
                responses = [
                    await viewer.get("/a.bin?b=%20", accept="*/*", authorization="secret"),
                    await viewer.get("/a.bin?b=%20", accept="*/*", authorization="secret"),
                    await viewer.get("/a.bin", range="bytes=5-9"),
                    await viewer.get("/a.bin", range="bytes=6-9"),
                ]
            return [response.fields["x-amz-cf-id"] for response in responses]

        ids = asyncio.run(get())
        lines = await_lines(lambda: texts(folder_files(tmp_path / "logs"), ""), len(ids))
    by_id = {str(values["x-edge-request-id"]): values for values in map(realtime.decode, lines)}
    whole, again, part, other_part = (by_id[request_id] for request_id in ids)
    for values in by_id.values():
        assert values["cache-behavior-path-pattern"] == "*.bin"
        assert (values["c-ip"], values["c-ip-version"]) == ("127.0.0.1", "IPv4")
        assert "secret" not in str(values["cs-headers"])
    for values in (whole, again):
        assert values["cs-uri-stem"] == "/a.bin?b=%2520"
        assert values["cs-accept"] == "*/*"
        assert "authorization" in str(values["cs-header-names"])
        assert (values["sc-status"], values["sc-content-len"]) == (200, len(OBJECT))
        assert values["cs-headers-count"] == str(values["cs-header-names"]).count("%0A")
    assert whole["cs-bytes"] == again["cs-bytes"]
    assert (part["sc-range-start"], part["sc-range-end"], part["sc-content-len"]) == (5, 9, 5)
    assert (other_part["sc-range-start"], other_part["sc-range-end"]) == (6, 9)
    assert "range:bytes=6-9" in str(other_part["cs-headers"])
    secure = version == HTTP2
    assert whole["cs-protocol"] == ("https" if secure else "http")
    assert whole["cs-protocol-version"] == ("HTTP/2.0" if secure else "HTTP/1.1")
    assert whole["ssl-protocol"] == ("TLSv1.3" if secure else None)
