"""What ``streamedge status``, ``viewers`` and ``top`` print, and the files of ``monitoring``."""

from __future__ import annotations

import time
from contextlib import nullcontext
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from streamedge.cli.admin_client import Admin
from streamedge.cli.main import app
from streamedge.cli.operators import top
from streamedge.cli.operators.status import has_critical, percent, status_tables
from streamedge.cli.operators.top import frame
from streamedge.cli.operators.viewers import duration, printable, viewers_summary, viewers_tables
from streamedge.ops.prometheus_rules import FOLDER

NOW_S = 1_800_000_000.0
STATUS: dict[str, Any] = {
    "edge": "fra-1",
    "version": "1.2.3",
    "time_s": NOW_S,
    "started_s": NOW_S - 3725,
    "ready": False,
    "workers": 1,
    "problems": ["worker-1 is not up"],
    "rates": {"requests": 12.4, "http_bytes": 2e6, "rtmp_bytes": 1e6, "origin_bytes": 3e5},
    "hit_ratio": {"requests": 0.975, "bytes": None},
    "viewers": {"rtmp": 7, "http": 3, "rtmp_connections": 8, "http_connections": 20},
    "cache": {"used_bytes": 5_000_000, "limit_bytes": 20_000_000},
    "writes": {"queued": 4, "dead_letters": 1},
    "origins": [{"name": "main", "type": "s3", "state": "down", "breakers": {"both": "open"}}],
    "distributions": [
        {"id": "EWEB", "requests": 10.0, "hits": 5.0, "bytes": 1e6, "hit_bytes": 1e5, "plays": 0.0}
    ],
    "certificates": [
        {
            "certificate": "/etc/a.pem",
            "names": ["www.example"],
            "expires_s": NOW_S + 10 * 86_400,
            "problem": "",
        },
        {"certificate": "/etc/b.pem", "names": [], "expires_s": None, "problem": "no such file"},
    ],
    "fleet": None,
    "alerts": [
        {
            "name": "StreamEdgeOriginDown",
            "severity": "critical",
            "summary": "Requests to an origin fail.",
            "advice": "Check the origin.",
            "labels": {"origin": "main"},
            "value": 2,
            "since_s": NOW_S - 60,
        }
    ],
}
ROW: dict[str, Any] = {
    "id": "1-1",
    "protocol": "rtmp",
    "address": "192.0.2.1",
    "country": "DE",
    "distribution": "ESTREAM",
    "object": "film.mp4",
    "state": "playing",
    "retiring": False,
    "position_s": 3725.9,
    "rate": 125_000.0,
    "sent_bytes": 4_000_000,
    "age_s": 61.0,
    "agent": "\x1b[31m[bold]player[/bold]<script>",
}
VIEWERS: dict[str, Any] = {"rows": [ROW], "rtmp": 1, "http": 4, "matching": 5}


def printed(*parts: RenderableType) -> str:
    """The parts as text for a wide terminal."""
    file = StringIO()
    console = Console(width=200, markup=False, highlight=False, file=file)
    for part in parts:
        console.print(part)
    return file.getvalue()


def test_status_shows_what_is_wrong_and_what_goes_through() -> None:
    text = printed(*status_tables(STATUS))
    for expected in (
        "fra-1", "worker-1 is not up", "1:02:05", "12 requests/s, 2.0 MB/s", "7 RTMP, 3 HTTP",
        "97.5 % of requests, – of bytes", "5.0 MB of 20.0 MB", "4 queued, 1 dead letters",
        "StreamEdgeOriginDown", "origin main", "Check the origin.", "down", "both open",
        "EWEB", "50.0 %", "www.example", "10", "no such file",
    ):  # fmt: skip
        assert expected in text
    assert has_critical(STATUS)
    assert not has_critical(STATUS | {"alerts": []})


def test_status_of_a_quiet_edge_has_no_empty_tables() -> None:
    quiet = STATUS | {"rates": None, "alerts": [], "distributions": [], "certificates": []}
    text = printed(*status_tables(quiet))
    assert "Alerts" not in text
    assert "Certificates" not in text
    assert "0 requests/s" in text


def test_viewers_of_workers_from_before_an_upgrade_are_marked() -> None:
    document = VIEWERS | {"rows": [ROW, ROW | {"retiring": True}]}
    text = printed(*viewers_tables(document))
    assert (text.count("playing"), text.count("playing, retiring worker")) == (2, 1)


def test_viewers_have_no_markup_and_no_control_characters() -> None:
    text = printed(*viewers_tables(VIEWERS))
    assert "\x1b" not in text
    assert "[bold]player[/bold]" in text
    for expected in ("1-1", "192.0.2.1 (DE)", "ESTREAM film.mp4", "1:02:05", "125.0 kB/s"):
        assert expected in text
    assert viewers_summary(VIEWERS) == "1 over RTMP, 4 over HTTP; 4 more match: raise --limit."
    assert list(viewers_tables(VIEWERS | {"rows": []})) == []


def test_frame_of_top_has_traffic_alerts_and_viewers() -> None:
    text = printed(frame(STATUS, VIEWERS))
    for expected in ("does not serve", "main down", "StreamEdgeOriginDown origin=main", "film.mp4"):
        assert expected in text


def test_top_reads_the_viewers_again_when_the_edge_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock_s, read_s = [100.0], []

    def answer(_admin: Admin, _method: str, path: str) -> dict[str, Any]:
        if path == "/status":
            return STATUS
        read_s.append(clock_s[0])
        return VIEWERS | {"next_look_s": 3.0}

    def sleep(seconds: float) -> None:
        clock_s[0] += seconds

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(top, "call", answer)
    monkeypatch.setattr(top, "session", nullcontext)
    clock = SimpleNamespace(
        monotonic=lambda: clock_s[0],
        sleep=sleep,
        strftime=time.strftime,
        localtime=time.localtime,
    )
    monkeypatch.setattr(top, "time", clock)
    top.show_top(Admin(("127.0.0.1", 9090)), 1.0, 5)
    assert read_s == [100.0, 103.0]
    assert capsys.readouterr().out.count("192.0.2.1") == 5


def test_texts_for_people() -> None:
    assert percent(None) == "–"
    assert percent(1) == "100.0 %"
    assert duration(59.9) == "0:00:59"
    assert printable("a\x1b[2J\r\nb") == "a\N{REPLACEMENT CHARACTER}[2J" + (
        "\N{REPLACEMENT CHARACTER}" * 2 + "b"
    )


def test_monitoring_prints_the_files_of_the_package() -> None:
    for name, file in (
        ("rules", "rules.yml"),
        ("rules-test", "rules_test.yml"),
        ("dashboard", "../grafana/streamedge.json"),
    ):
        result = CliRunner().invoke(app, ["monitoring", name])
        assert result.exit_code == 0
        assert result.stdout == (FOLDER / file).read_text()
