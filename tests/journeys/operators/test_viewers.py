"""Journeys: real players and downloads appear at an operator, go, and can be ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificate_authority import CertificateAuthority
from tests.support.mmdb_file import mmdb
from tests.support.patience import PATIENCE_S
from tests.support.process.admin_calls import await_json, call_json, get_json
from tests.support.process.edge_process import EdgeProcess, run_edge

SCRIPT = "<script>alert(1)</script>"
DOWNLOAD_BYTES = 64 << 20


@pytest.fixture(name="edge", scope="module")
def _edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    """Two workers serve a film of five minutes and a large file."""
    folder = tmp_path_factory.mktemp("viewers")
    objects = folder / "objects"
    objects.mkdir()
    with open(objects / "large.bin", "wb") as file:
        file.truncate(DOWNLOAD_BYTES)
    command = ["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=64x64:rate=10"]
    command += ["-t", "300", "-pix_fmt", "yuv420p", str(objects / "film.mp4")]
    subprocess.run(command, check=True, timeout=PATIENCE_S)
    origins = f'[origins.main]\ntype = "directory"\npath = "{objects}"\n'
    pair = CertificateAuthority(folder).issue("localhost")
    with run_edge(folder, origins, workers=2, certificate=pair) as running:
        yield running


@contextmanager
def program(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs until it ends, or until the block does."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def player(edge: EdgeProcess) -> list[str]:
    """FFmpeg, which plays the film as fast as a viewer sees it."""
    url = edge.rtmp("film.mp4")
    return ["ffmpeg", "-re", "-rtmp_buffer", "1000", "-i", url, "-c", "copy", "-f", "null", "-"]


def download(
    edge: EdgeProcess, agent: str, *, http2: bool = False, rate: str = "200k"
) -> list[str]:
    """curl, which downloads the large file slowly."""
    url = f"https://localhost:{edge.https_port}/large.bin" if http2 else edge.http("large.bin")
    return ["curl", "-sk", "--limit-rate", rate, "-A", agent, "-o", "/dev/null", url]


def rows_of(document: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [row for row in document["rows"] if row["kind"] == kind]


def test_players_and_a_download_appear_and_go(edge: EdgeProcess) -> None:
    with program(*player(edge)), program(*player(edge)), program(*download(edge, SCRIPT)):
        document = await_json(
            edge,
            "/viewers",
            lambda document: (
                len([row for row in rows_of(document, "rtmp") if row["position_s"]]) == 2
                and any(row["state"] == "sending" for row in rows_of(document, "http"))
            ),
        )
        assert (document["rtmp"], document["http"]) == (2, 1)
        for row in rows_of(document, "rtmp"):
            assert row["state"] == "playing"
            assert row["object"] == "film.mp4"
            assert (row["protocol"], row["distribution"]) == ("rtmp", "ESTREAM")
            assert row["address"] == "127.0.0.1"
            assert 0 < row["position_s"] < 300
            assert row["sent_bytes"] > 0
        (row,) = rows_of(document, "http")
        assert row["agent"] == SCRIPT  # text of JSON, as it was sent
        assert (row["object"], row["distribution"]) == ("/large.bin", "EWEB")
        assert row["protocol"] == "http/1.1"
        assert 0 < row["sent_bytes"] < DOWNLOAD_BYTES
        ids = {line["session"] for line in edge.await_log("rtmp_connect", 2)}
        assert {row["id"] for row in rows_of(document, "rtmp")} == ids
    await_json(
        edge,
        "/viewers",
        lambda document: (
            not rows_of(document, "rtmp")
            and all(row["state"] == "seen" for row in rows_of(document, "http"))
        ),
    )


def test_status_stream_counts_viewers_of_both_kinds(edge: EdgeProcess) -> None:
    stream = subprocess.Popen(
        ["curl", "-sN", f"http://127.0.0.1:{edge.admin_port}/status/stream"],
        stdout=subprocess.DEVNULL,
    )
    try:
        with program(*player(edge)), program(*download(edge, "a stream")):
            await_json(
                edge,
                "/status",
                lambda status: status["viewers"]["rtmp"] == 1 and status["viewers"]["http"],
            )
    finally:
        stream.kill()
        stream.wait(PATIENCE_S)


def test_operator_ends_a_player(edge: EdgeProcess) -> None:
    with program(*player(edge)), program(*player(edge)):
        document = await_json(
            edge, "/viewers?kind=rtmp&state=playing", lambda document: document["matching"] == 2
        )
        identifier = document["rows"][0]["id"]
        status, body = call_json(edge, "DELETE", f"/viewers/{identifier}")
        assert (status, body) == (200, {"id": identifier, "connections": 1})
        document = await_json(
            edge, "/viewers?kind=rtmp", lambda document: document["matching"] == 1
        )
        assert document["rows"][0]["id"] != identifier
        (line,) = [line for line in edge.await_log("viewer_ended") if line["viewer"] == identifier]
        assert line["client"] == "127.0.0.1"
        reasons = {line["session"]: line["reason"] for line in edge.await_log("rtmp_disconnect")}
        assert reasons[identifier] == "ended by an operator"
    assert call_json(edge, "DELETE", f"/viewers/{identifier}")[0] == 404


@pytest.mark.parametrize("protocol", ["http/1.1", "https/2"])
def test_operator_ends_a_download(edge: EdgeProcess, protocol: str) -> None:
    # A download that is cut ends when curl has read what its socket holds, some megabytes.
    command = download(edge, protocol, http2=protocol == "https/2", rate="1M")
    with program(*command) as curl:
        path = f"/viewers?state=sending&match={protocol}"
        document = await_json(edge, path, lambda document: document["matching"] == 1)
        (row,) = document["rows"]
        assert row["protocol"] == protocol
        status, body = call_json(edge, "DELETE", f"/viewers/{row['id']}")
        assert (status, body["connections"]) == (200, 1)
        assert curl.wait(PATIENCE_S) != 0  # the rest is missing


def test_nothing_is_collected_while_no_operator_looks(edge: EdgeProcess) -> None:
    await_json(edge, "/status", lambda status: status["viewers"]["http"] is None)
    with program(*download(edge, "unseen")):
        await_json(edge, "/status", lambda status: status["viewers"]["http_connections"] == 1)
        assert get_json(edge, "/status")["viewers"]["http"] is None


@pytest.mark.parametrize("query", ["sort=agent", "limit=0", "limit=x", "page=2"])
def test_unusable_query_is_400(edge: EdgeProcess, query: str) -> None:
    status, body = call_json(edge, "GET", f"/viewers?{query}")
    assert status == 400
    assert body["error"]


@pytest.mark.parametrize("identifier", ["1-1", "h0000000000000000", "%3Cscript%3E", "a" * 500])
def test_unknown_viewer_cannot_be_ended(edge: EdgeProcess, identifier: str) -> None:
    assert call_json(edge, "DELETE", f"/viewers/{identifier}")[0] == 404


def test_viewers_over_ipv6_have_their_country(edge: EdgeProcess, tmp_path: Path) -> None:
    (tmp_path / "countries.mmdb").write_bytes(
        mmdb(
            {
                "::1/128": {"country": {"iso_code": "JP"}},
                "127.0.0.0/8": {"country": {"iso_code": "FR"}},
            }
        )
    )
    origins = f'[origins.main]\ntype = "directory"\npath = "{edge.folder / "objects"}"\n'
    origins += '[countries]\ndatabase = "countries.mmdb"\n'
    with (
        run_edge(tmp_path, origins, host="[::1]") as other,
        program(*player(other)),
        program("curl", "-gs", "--limit-rate", "200k", "-o", "/dev/null", other.http("large.bin")),
    ):
        document = await_json(
            other, "/viewers", lambda document: document["rtmp"] and document["http"]
        )
        for row in document["rows"]:
            assert (row["address"], row["country"]) == ("::1", "JP")
            assert row["client"].rpartition(":")[0] == "[::1]"
        assert get_json(other, "/viewers?match=jp")["matching"] == 2
        assert get_json(other, "/viewers?match=%3A%3A1&kind=http")["matching"] == 1
        command = [sys.executable, "-m", "streamedge", "viewers", "--config"]
        shown = subprocess.run(
            [*command, str(other.folder / "config.toml")],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        assert shown.stdout.count("::1 (JP)") == 2
        (row,) = rows_of(document, "http")
        assert call_json(other, "DELETE", f"/viewers/{row['id']}")[0] == 200


def test_viewer_of_an_unknown_country_has_none(edge: EdgeProcess) -> None:
    with program(*download(edge, "no country")):
        document = await_json(edge, "/viewers?match=no+country", lambda document: document["rows"])
        assert [row["country"] for row in document["rows"]] == [None]
