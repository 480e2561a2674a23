"""Journeys: edges of a fleet join, lose the engine, drain and leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine.redis_server import RedisServer, run_redis
from tests.support.fleet.fleet_edges import FleetEdges, fleet_edges

FOLDER = '[origins.main]\ntype = "directory"\npath = "{}"\n'


@pytest.fixture(name="redis_server")
def _redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with run_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture(name="media")
def _media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "a").write_bytes(b"old")
    return folder


@pytest.fixture(name="fleet")
def _fleet(tmp_path: Path, redis_server: RedisServer, media: Path) -> Iterator[FleetEdges]:
    with fleet_edges(tmp_path, FOLDER.format(media), redis_server) as running:
        yield running


def test_edges_see_each_other_up(fleet: FleetEdges) -> None:
    document = fleet.state("ams-1")
    assert (document["edge"], document["state"], document["lag"]) == ("ams-1", "up", 0)
    assert document["position"] == document["head"] == "1-3"
    assert [edge["name"] for edge in document["edges"]] == ["ams-1", "fra-1", "par-1"]
    for edge in fleet.edges.values():
        assert json.loads(edge.admin("/fleet/check")) == {"problems": []}
