"""Journeys: an edge with write-back does not start if its folder cannot store writes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from tests.support.process.ports import free_ports

CONFIG = """
[edge]
cache = "cache"
log = "edge.log"
workers = 2
[listen]
http = ["127.0.0.1:{http}"]
rtmp = []
admin = "127.0.0.1:{admin}"
[origins.main]
type = "directory"
path = "objects"
[[distributions]]
id = "EWEB"
type = "web"
origin = "main"
methods = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]
write = "back"
"""


def no_folder_for_writes(cache: Path) -> None:
    cache.mkdir()
    (cache / "writes").write_bytes(b"a file\n")


def no_database(cache: Path) -> None:
    (cache / "writes").mkdir(parents=True)
    (cache / "writes/journal.sqlite").write_bytes(b"not a database at all\n" * 100)


@pytest.mark.parametrize("damage", [no_folder_for_writes, no_database])
def test_edge_does_not_start_without_storage_for_writes(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(tmp_path / "cache")
    (tmp_path / "objects").mkdir()
    http, admin = free_ports(2)
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(http=http, admin=admin))
    ended = subprocess.run(
        [sys.executable, "-m", "streamedge", "serve", "--config", str(config)],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("streamedge: ")]
    assert line.startswith("streamedge: cannot store writes: ")
    assert "Traceback" not in ended.stderr
    logged = [json.loads(line) for line in (tmp_path / "edge.log").read_text().splitlines()]
    assert [line["event"] for line in logged] == ["cache_folder_refused"]
