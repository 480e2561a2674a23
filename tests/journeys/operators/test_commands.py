"""Journeys: the commands status, top and viewers against a real edge, and their exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from tests.support.process.admin_calls import await_json
from tests.support.process.edge_process import EdgeProcess, run_edge

OBJECT_BYTES = 64 << 20


@pytest.fixture(name="edge", scope="module")
def _edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    folder = tmp_path_factory.mktemp("commands")
    objects = folder / "objects"
    objects.mkdir()
    with open(objects / "large.bin", "wb") as file:
        file.truncate(OBJECT_BYTES)
    origins = f'[origins.main]\ntype = "directory"\npath = "{objects}"\n'
    with run_edge(folder, origins, workers=2) as running:
        yield running


def command(edge: EdgeProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamedge", *arguments, "-c", str(edge.folder / "config.toml")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
    )


def test_status_is_a_table_or_json(edge: EdgeProcess) -> None:
    shown = command(edge, "status", "--check")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Serves" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert json.loads(command(edge, "status", "--json").stdout)["workers"] == 2


def test_top_ends_after_its_updates(edge: EdgeProcess) -> None:
    shown = command(edge, "top", "--count", "2", "--interval", "0.5")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.count("2 workers") == 2


def test_viewers_are_listed_and_ended(edge: EdgeProcess) -> None:
    url = edge.http("large.bin")
    download = ["curl", "-s", "--limit-rate", "200k", "-o", "/dev/null", "-A", "[red]agent", url]
    with subprocess.Popen(download) as curl:
        try:
            path = "/viewers?state=sending"
            document = await_json(edge, path, lambda document: document["matching"] == 1)
            identifier = document["rows"][0]["id"]
            shown = command(edge, "viewers", "--kind", "http", "--match", "LARGE")
            assert identifier in shown.stdout
            assert "[red]agent" in shown.stdout
            listed = json.loads(command(edge, "viewers", "--json").stdout)
            assert identifier in [row["id"] for row in listed["rows"]]
            ended = command(edge, "viewers", "end", identifier, "h0000000000000000")
            assert ended.returncode == 3
            assert f"{identifier} is ended." in ended.stdout
            assert "no viewer has the id 'h0000000000000000' now" in ended.stderr
            assert curl.wait(PATIENCE_S) != 0
        finally:
            curl.kill()
    assert command(edge, "viewers", "end", "1-1").returncode == 1


def test_log_is_followed_until_ctrl_c(edge: EdgeProcess) -> None:
    config = str(edge.folder / "config.toml")
    # A shell that has started the tests in the background has made their programs ignore Ctrl-C.
    program = [
        "env",
        "--default-signal=INT",
        sys.executable,
        "-m",
        "streamedge",
        "log",
        "--match",
        "missing.txt",
        "-c",
        config,
    ]
    with subprocess.Popen(
        program,
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        try:
            assert following.stdout is not None
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(edge.http("missing.txt"), timeout=PATIENCE_S)
            line = following.stdout.readline()
            assert " response " in line
            assert 'path="/missing.txt"' in line
            following.send_signal(signal.SIGINT)
            assert following.wait(PATIENCE_S) == 0
        finally:
            following.kill()


def test_edge_that_does_not_run_is_exit_code_1(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[edge]\ncache = "cache"\n[listen]\nadmin = "127.0.0.1:1"\n[origins.main]\n'
        f'type = "directory"\npath = "{tmp_path}"\n'
    )
    for arguments in (["status"], ["top", "--count", "1"], ["viewers"], ["viewers", "end", "1-1"]):
        completed = subprocess.run(
            [sys.executable, "-m", "streamedge", *arguments, "-c", str(config)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert completed.returncode == 1
        assert "no edge answers on its admin address 127.0.0.1:1" in completed.stderr
