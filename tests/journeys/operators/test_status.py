"""Journeys: the status of a real edge, its alerts, and metrics after processes were killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.support.certificate_authority import CertificateAuthority
from tests.support.engine.redis_server import run_redis
from tests.support.fleet.edges import run_fleet
from tests.support.patience import PATIENCE_S
from tests.support.process.admin_calls import await_json, call_json, get_json
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.process.ports import free_ports

KILLS = 20
OBJECTS = 5000  # one is requested with each poll


@contextmanager
def web_server(folder: Path, port: int) -> Iterator[None]:
    """An HTTP origin as a process, until the end of the block."""
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE_S).close()
            except OSError:
                assert time.monotonic() < deadline_s
                pause()
            else:
                break
        yield
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def get(edge: EdgeProcess, path: str) -> int:
    """The status of a GET as a viewer."""
    try:
        with urllib.request.urlopen(edge.http(path), timeout=PATIENCE_S) as response:
            response.read()
            return int(response.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code


def alerts_of(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [alert for alert in document["alerts"] if alert["name"] == name]


def test_stopped_origin_raises_an_alert_until_it_answers_again(tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    objects.mkdir()
    for number in range(OBJECTS):
        (objects / f"{number}.txt").write_text("text")
    (port,) = free_ports(1)
    origins = f'[origins.main]\ntype = "http"\nurl = "http://127.0.0.1:{port}"\n'
    numbers = iter(range(OBJECTS))
    with run_edge(tmp_path / "edge", origins, workers=2) as edge:
        with web_server(objects, port):
            assert get(edge, f"{next(numbers)}.txt") == 200
            await_json(edge, "/status", lambda status: status["origins"][0]["state"] == "up")
            assert get_json(edge, "/status")["alerts"] == []

        def is_down(status: dict[str, Any]) -> bool:
            get(edge, f"{next(numbers)}.txt")
            return bool(alerts_of(status, "StreamEdgeOriginDown"))

        status = await_json(edge, "/status", is_down)
        (alert,) = alerts_of(status, "StreamEdgeOriginDown")
        assert (alert["labels"], alert["severity"]) == ({"origin": "main"}, "critical")
        assert status["origins"] == [
            {"name": "main", "type": "http", "state": "down", "breakers": {}}
        ]
        (line,) = edge.await_log("alert_begins")
        assert (line["alert"], line["labels"]) == ("StreamEdgeOriginDown", ["origin=main"])
        with web_server(objects, port):

            def is_up(status: dict[str, Any]) -> bool:
                get(edge, f"{next(numbers)}.txt")
                return not alerts_of(status, "StreamEdgeOriginDown")

            assert await_json(edge, "/status", is_up)["origins"][0]["state"] == "up"
        assert edge.await_log("alert_ends")[0]["alert"] == "StreamEdgeOriginDown"


@pytest.fixture(name="edge", scope="module")
def _edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    folder = tmp_path_factory.mktemp("status")
    objects = folder / "objects"
    objects.mkdir()
    (objects / "page.html").write_text("<p>page</p>")
    origins = f'[origins.main]\ntype = "directory"\npath = "{objects}"\n'
    with run_edge(folder, origins, workers=2) as running:
        yield running


def test_status_shows_requests_of_all_workers_by_distribution(edge: EdgeProcess) -> None:
    def is_counted(status: dict[str, Any]) -> bool:
        assert get(edge, "page.html") == 200
        return bool(status["distributions"] and status["rates"]["hits"])

    status = await_json(edge, "/status", is_counted)
    (distribution,) = status["distributions"]
    assert distribution["id"] == "EWEB"
    assert distribution["bytes"] > distribution["requests"] > 0
    assert 0 < status["hit_ratio"]["requests"] <= 1
    await_json(
        edge,
        "/status/history?fields=requests",
        lambda history: any(history["fields"]["requests"]),
    )


def test_status_shows_when_certificates_expire(tmp_path: Path) -> None:
    pair = CertificateAuthority(tmp_path).issue("site.example.org")
    expires = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).not_valid_after_utc
    with run_edge(
        tmp_path, f'[origins.main]\ntype = "directory"\npath = "{tmp_path}"\n', certificate=pair
    ) as edge:
        document = await_json(edge, "/status", lambda document: document["certificates"])
        (shown,) = document["certificates"]
        assert shown["certificate"] == str(pair.certificate)
        assert shown["names"] == ["site.example.org"]
        assert shown["expires_s"] == expires.timestamp()


def test_stream_of_a_real_edge_has_events_and_a_limit(edge: EdgeProcess) -> None:
    url = f"http://127.0.0.1:{edge.admin_port}/status/stream"
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(urllib.request.urlopen(url, timeout=PATIENCE_S))
            for _stream in range(16)
        ]
        assert call_json(edge, "GET", "/status/stream")[0] == 503
        lines = [streams[0].readline() for _line in range(6)]
        times = [json.loads(line[6:])["time_s"] for line in lines if line.startswith(b"data: ")]
        assert len(times) == 2
        assert times[0] < times[1]
    deadline_s = time.monotonic() + PATIENCE_S
    while True:  # the edge notices that the readers have left
        try:
            urllib.request.urlopen(url, timeout=PATIENCE_S).close()
        except urllib.error.HTTPError as exc:
            exc.close()
            assert time.monotonic() < deadline_s
            pause()
        else:
            break


def test_killed_workers_leave_no_metrics_behind(edge: EdgeProcess) -> None:
    def files_of_metrics() -> int:
        links = Path(f"/proc/{edge.pid}/fd").iterdir()
        return sum("streamedge-metrics" in os.readlink(link) for link in links)

    assert get(edge, "page.html") == 200
    edge.await_metric("streamedge_responses_total", lambda count: count >= 1)
    files, ends = files_of_metrics(), edge.metric("streamedge_process_ends_total")
    lines = len(edge.admin("/metrics").splitlines())
    for kill in range(KILLS):
        os.kill(edge.worker_pids()[kill % 2], signal.SIGKILL)
        reached = (ends + kill).__lt__
        edge.await_metric("streamedge_process_ends_total", reached)
        edge.await_log("worker_up", 3 + kill)
    responses = edge.metric("streamedge_responses_total")
    await_json(edge, "/healthz", lambda health: health["ready"])
    assert files_of_metrics() == files
    assert abs(len(edge.admin("/metrics").splitlines()) - lines) < lines / 2
    assert get(edge, "page.html") == 200
    edge.await_metric("streamedge_responses_total", lambda count: count == responses + 1)


def test_status_has_the_fleet_and_follows_it(tmp_path: Path) -> None:
    origins = '[origins.main]\ntype = "directory"\npath = "."\n'
    with (
        run_redis(tmp_path / "redis") as engine,
        run_fleet(tmp_path, engine.url, origins, "ab") as (first, second),
    ):

        def states(document: dict[str, Any]) -> dict[str, tuple[str, str]]:
            return {one["name"]: (one["state"], one["role"]) for one in document["fleet"]["edges"]}

        both_up = {"a": ("up", "serving"), "b": ("up", "serving")}
        for edge, name in ((first, "a"), (second, "b")):
            fleet = await_json(
                edge,
                "/status",
                lambda document: (
                    states(document) == both_up
                    and [one["lag"] for one in document["fleet"]["edges"]] == [0, 0]
                ),
            )["fleet"]
            assert (fleet["edge"], fleet["state"]) == (name, "up")
            assert (fleet["engine"], fleet["engine_up"]) == (engine.url, True)
            assert fleet.keys() == get_json(edge, "/fleet").keys()
        assert call_json(first, "POST", "/fleet/b/drain")[0] == 200
        for edge in (first, second):
            await_json(
                edge,
                "/status",
                lambda document: states(document)["b"] == ("draining", "draining"),
            )
        assert second.stop() == 0
        await_json(first, "/status", lambda document: states(document)["b"][0] == "gone")
        engine.stop()
        await_json(
            first,
            "/status",
            lambda document: (
                not document["fleet"]["engine_up"] and document["fleet"]["engine_problem"]
            ),
        )
