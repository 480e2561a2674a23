"""Journeys: promtool and a real Prometheus read an edge; no panel of the dashboard is empty."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from streamedge.ops.prometheus_rules import FOLDER, GONE
from tests.support.certificate_authority import CertificateAuthority
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.process.ports import free_ports

DASHBOARD = json.loads((FOLDER.parent / "grafana" / "streamedge.json").read_text())
EXPRESSIONS = [
    target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
]


@pytest.fixture(name="edge", scope="module")
def _edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    """An edge with HTTPS, to which viewers have come over HTTP and RTMP."""
    folder = tmp_path_factory.mktemp("prometheus")
    objects = folder / "objects"
    objects.mkdir()
    (objects / "page.html").write_text("<p>page</p>")
    command = ["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=64x64:rate=10"]
    command += ["-t", "5", "-pix_fmt", "yuv420p", str(objects / "film.mp4")]
    subprocess.run(command, check=True, timeout=PATIENCE_S)
    pair = CertificateAuthority(folder).issue("localhost")
    origins = f'[origins.main]\ntype = "directory"\npath = "{objects}"\n'
    with run_edge(folder, origins, workers=2, certificate=pair) as running:
        yield running


def visit(edge: EdgeProcess) -> None:
    """Makes hits, a 404 and a play."""
    for path in ("page.html", "page.html", "nothing"):
        try:
            urllib.request.urlopen(edge.http(path), timeout=PATIENCE_S).close()
        except urllib.error.HTTPError as exc:
            exc.close()
    play = ["ffmpeg", "-loglevel", "error", "-i", edge.rtmp("film.mp4"), "-c", "copy"]
    subprocess.run([*play, "-f", "null", "-"], check=True, timeout=PATIENCE_S)


@contextmanager
def prometheus(folder: Path, edge: EdgeProcess) -> Iterator[str]:
    """A Prometheus that scrapes the edge each second, with the package's rules; its URL."""
    (port,) = free_ports(1)
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: ['{FOLDER / 'rules.yml'}']\n"
        "scrape_configs:\n  - job_name: streamedge\n    static_configs:\n"
        f"      - targets: ['127.0.0.1:{edge.admin_port}']\n"
    )
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def query(url: str, path: str, **parameters: str) -> Any:
    """The data of a call of Prometheus' API; None before it answers."""
    text = urllib.parse.urlencode(parameters)
    try:
        with urllib.request.urlopen(f"{url}/api/v1/{path}?{text}", timeout=PATIENCE_S) as response:
            return json.load(response)["data"]
    except urllib.error.HTTPError as exc:
        with exc:
            raise AssertionError(exc.read()) from exc
    except OSError:
        return None


def is_empty(data: Any) -> bool:
    """Whether the result of a query has no number."""
    return data is None or all(row["value"][1] == "NaN" for row in data["result"])


def test_dashboard_has_queries_for_all_its_panels() -> None:
    assert len(EXPRESSIONS) > 25
    for panel in DASHBOARD["panels"]:
        assert panel["type"] == "row" or panel["targets"], panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_promtool_accepts_the_metrics_of_an_edge(edge: EdgeProcess) -> None:
    visit(edge)
    edge.await_metric("streamedge_plays_total", lambda count: count >= 1)
    completed = subprocess.run(
        ["promtool", "check", "metrics"],
        input=edge.admin("/metrics"),
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, b"", b"")


def test_each_query_of_the_dashboard_returns_something(edge: EdgeProcess, tmp_path: Path) -> None:
    with prometheus(tmp_path, edge) as url:
        empty = list(EXPRESSIONS)
        deadline_s = time.monotonic() + PATIENCE_S
        while empty:
            visit(edge)
            empty = [
                expression
                for expression in empty
                if is_empty(
                    query(
                        url,
                        "query",
                        query=expression.replace("$__rate_interval", "1m").replace(
                            "$instance", ".*"
                        ),
                    )
                )
            ]
            assert time.monotonic() < deadline_s, empty
            pause()
        rules = query(url, "rules")["groups"][0]["rules"]
        assert GONE in {rule["name"] for rule in rules}
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        # Those of the package agree with the edge: nothing is wrong with it.
        assert [rule["name"] for rule in rules if rule["state"] == "firing"] == [
            "StreamEdgeCertificateExpires"
        ]
