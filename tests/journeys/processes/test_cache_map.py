"""Journeys: an operator looks at the cache of a running edge, and works on it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamedge.cache.storage.extent import HEADER_BYTES
from tests.support.origins.counting_origin import CountingOrigin, counting_origin
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.process.terminal import terminal_output

SIZES = {"film": 3_000_000, "page": 4_000, "other/page": 5_000}


@pytest.fixture
def origin() -> Iterator[CountingOrigin]:
    with counting_origin(dict(SIZES)) as running:
        yield running


@pytest.fixture
def edge(tmp_path: Path, origin: CountingOrigin) -> Iterator[EdgeProcess]:
    config = f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n'
    with run_edge(tmp_path, config, workers=2, edge='cache_size = "1GiB"') as edge:
        yield edge


def call(
    edge: EdgeProcess, method: str, path: str, body: object = None
) -> tuple[int, dict[str, Any]]:
    """Status and document of a call on the admin address."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{edge.admin_port}{path}",
        data,
        {"content-type": "application/json"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


def get(edge: EdgeProcess, name: str) -> str:
    """Fetches an object; how the edge got it."""
    with urllib.request.urlopen(edge.http(name), timeout=PATIENCE_S) as response:
        response.read()
        return str(response.headers["X-Cache"]).partition(" ")[0]


def cached(edge: EdgeProcess, match: str = "") -> dict[str, dict[str, Any]]:
    """The objects of the cache map, by name."""
    _status, document = call(edge, "GET", f"/cache?match={match}")
    return {one["name"]: one for one in document["objects"]}


def ended_job(edge: EdgeProcess, request: object) -> dict[str, Any]:
    """Runs a job to its end."""
    status, job = call(edge, "POST", "/jobs", request)
    assert status == 201, job
    while job["state"] == "running":
        pause()
        _status, job = call(edge, "GET", f"/jobs/{job['id']}")
    return job


def test_map_shows_what_is_cached_and_purges_it(edge: EdgeProcess, origin: CountingOrigin) -> None:
    assert call(edge, "GET", "/cache") == (200, {"objects": [], "cursor": None, "scanned": 0})
    for name in SIZES:
        assert [get(edge, name), get(edge, name)] == ["Miss", "Hit"]
    objects = cached(edge)
    assert {name: one["cached_bytes"] for name, one in objects.items()} == SIZES
    film = objects["film"]
    assert (film["origin"], film["kind"], film["status"]) == ("main", "object", 200)
    assert film["ranges"] == [[0, SIZES["film"], "cached"]]
    assert set(cached(edge, "page")) == {"page", "other/page"}
    assert set(cached(edge, "*/page")) == {"other/page"}
    assert set(cached(edge, "other/*")) == {"other/page"}
    status, document = call(edge, "GET", f"/cache/{film['id']}")
    assert status == 200
    assert "headers" in document
    status, document = call(edge, "DELETE", f"/cache/{film['id']}")
    assert (status, document["id"]) == (200, film["id"])
    assert [get(edge, "page"), get(edge, "film"), get(edge, "film")] == ["Hit", "Miss", "Hit"]
    assert origin.total_bytes == sum(SIZES.values()) + SIZES["film"]
    assert edge.await_log("object_purged")[0]["name"] == "film"


def test_map_shows_age_version_and_tags(tmp_path: Path) -> None:
    with counting_origin({"film": 1000}, {"Cache-Tag": "News, films"}) as origin:
        config = f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n'
        distributions = (
            '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
            'cache_tag_header = "Cache-Tag"\n'
        )
        with run_edge(tmp_path, config, distributions=distributions) as edge:
            with urllib.request.urlopen(edge.http("film"), timeout=PATIENCE_S) as response:
                response.read()
                etag = response.headers["ETag"]
            (film,) = cached(edge).values()
            assert (film["etag"], film["tags"]) == (etag, ["films", "news"])
            assert film["age_s"] >= 0


def test_map_refuses_what_it_does_not_know(edge: EdgeProcess) -> None:
    for method, path, status in (
        ("GET", "/cache?origin=nowhere", 404),
        ("GET", "/cache?cursor=x", 400),
        ("GET", "/cache?limit=0x3", 400),
        ("GET", "/cache/abc", 404),
        ("DELETE", f"/cache/{'0' * 64}", 404),
        ("PUT", f"/cache/{'0' * 64}/pin", 404),
        ("GET", "/jobs/1", 404),
    ):
        assert call(edge, method, path)[0] == status, path
    bodies: tuple[object, ...] = (
        {},
        {"kind": "polish"},
        {"kind": "warm"},
        {"kind": "warm", "paths": ["film"]},
        {"kind": "warm", "paths": ["/a b"]},
        {"kind": "warm", "paths": ["film"], "requests_per_s": 0},
        {"kind": "verify", "bytes_per_s": True},
        [],
    )
    for body in bodies:
        assert call(edge, "POST", "/jobs", body)[0] == 400, body


def test_pin_is_refused_where_it_would_take_half_of_the_cache(
    tmp_path: Path, origin: CountingOrigin
) -> None:
    config = f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n'
    origin.sizes["large"] = 40 << 20
    with run_edge(tmp_path, config, edge='cache_size = "64MiB"') as edge:
        get(edge, "large")
        get(edge, "page")
        objects = cached(edge)
        status, document = call(edge, "PUT", f"/cache/{objects['large']['id']}/pin")
        assert status == 409
        assert "edge.cache_size" in document["error"]
        page = f"/cache/{objects['page']['id']}/pin"
        assert call(edge, "PUT", page)[0] == 200
        assert cached(edge)["page"]["pinned"]
        assert call(edge, "DELETE", page)[0] == 200
        assert not cached(edge)["page"]["pinned"]


def test_stored_error_is_not_pinned(edge: EdgeProcess) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(edge, "nothing")
    error = cached(edge)["nothing"]
    assert error["status"] == 404
    status, document = call(edge, "PUT", f"/cache/{error['id']}/pin")
    assert status == 409
    assert "is an error that the origin answered (404)" in document["error"]
    assert not cached(edge)["nothing"]["pinned"]


def test_warm_fetches_each_path_once(edge: EdgeProcess, origin: CountingOrigin) -> None:
    paths = ["/film", "/page", "/film", "/nothing"]
    job = ended_job(edge, {"kind": "warm", "paths": paths, "requests_per_s": 1000})
    assert (job["state"], job["total"], job["done"], job["failed"]) == ("done", 3, 3, 1)
    assert job["problems"] == ["/nothing: status 404"]
    assert job["bytes"] >= SIZES["film"] + SIZES["page"]
    assert [get(edge, "film"), get(edge, "page")] == ["Hit", "Hit"]
    assert origin.bytes_of("film")
    assert [line["kind"] for line in edge.await_log("job_ended")] == ["warm"]


def test_verify_finds_damage_and_the_bytes_are_fetched_again(edge: EdgeProcess) -> None:
    for name in SIZES:
        get(edge, name)
    assert ended_job(edge, {"kind": "verify"})["failed"] == 0
    (extent,) = (edge.cache / "extents").rglob("[0-9a-f]" * 64)
    fd = os.open(extent, os.O_WRONLY)
    os.pwrite(fd, b"damage", HEADER_BYTES + 100)
    os.close(fd)
    job = ended_job(edge, {"kind": "verify", "bytes_per_s": 1e9})
    assert (job["state"], job["done"], job["failed"]) == ("done", 3, 1)
    assert str(extent) in job["problems"][0]
    assert job["bytes"] == sum(SIZES.values())
    while cached(edge)["film"]["cached_bytes"]:
        pause()


def test_job_is_cancelled(edge: EdgeProcess) -> None:
    paths = [f"/page?{number}" for number in range(1000)]
    request = {"kind": "warm", "paths": paths, "requests_per_s": 1}
    status, job = call(edge, "POST", "/jobs", request)
    assert status == 201
    assert call(edge, "POST", "/jobs", request)[0] == 409
    status, job = call(edge, "DELETE", f"/jobs/{job['id']}")
    assert (status, job["state"]) == (200, "cancelled")
    assert job["done"] < 1000
    assert call(edge, "GET", "/jobs")[1]["jobs"] == [job]
    assert ended_job(edge, {"kind": "warm", "paths": ["/page"]})["state"] == "done"


def command(edge: EdgeProcess, *arguments: str, code: int = 0) -> str:
    """What a command prints; its exit code must be ``code``."""
    result = subprocess.run(
        [sys.executable, "-m", "streamedge", *arguments, "-c", str(edge.folder / "config.toml")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_commands_list_show_pin_and_purge(edge: EdgeProcess) -> None:
    assert "0 objects." in command(edge, "cache", "ls")
    for name in SIZES:
        get(edge, name)
    listed = command(edge, "cache", "ls")
    assert all(name in listed for name in SIZES)
    assert "3.0 MB" in listed
    assert "1 objects and more" in command(edge, "cache", "ls", "--limit", "1")
    assert [
        one["name"] for one in json.loads(command(edge, "cache", "ls", "--match", "film", "--json"))
    ] == ["film"]
    exported = [json.loads(line) for line in command(edge, "cache", "export").splitlines()]
    assert {one["name"] for one in exported} == set(SIZES)
    assert "100%" in command(edge, "cache", "show", "film")
    assert "film is pinned" in command(edge, "cache", "pin", "film")
    assert cached(edge)["film"]["pinned"]
    assert "not pinned" in command(edge, "cache", "unpin", "/film")
    assert "film is purged" in command(edge, "cache", "purge", "film")
    assert "no cached object has the name 'film'" in command(edge, "cache", "purge", "film", code=1)


def test_map_of_several_pages_is_exported_whole(edge: EdgeProcess, origin: CountingOrigin) -> None:
    names = [f"page-{number}" for number in range(1001)]
    origin.sizes.update(dict.fromkeys(names, 10))
    paths = [f"/{name}" for name in names]
    job = ended_job(edge, {"kind": "warm", "paths": paths, "requests_per_s": 1_000_000})
    assert (job["done"], job["failed"]) == (len(names), 0)
    exported = [json.loads(line)["name"] for line in command(edge, "cache", "export").splitlines()]
    assert sorted(exported) == sorted(names)
    listed = json.loads(command(edge, "cache", "ls", "--limit", "5000", "--json"))
    assert sorted(one["name"] for one in listed) == sorted(names)


def test_terminal_shows_the_progress_of_long_work(edge: EdgeProcess, tmp_path: Path) -> None:
    config = ["-c", str(edge.folder / "config.toml")]
    shown = terminal_output(["warm", "/film", "/page", "--rate", "100", *config], tmp_path)
    assert re.search(rb"warm .*2/2", shown)
    shown = terminal_output(["cache", "verify", *config], tmp_path)
    assert re.search(rb"verify .*2/2", shown)


def test_commands_warm_and_verify(edge: EdgeProcess, tmp_path: Path) -> None:
    paths = tmp_path / "paths"
    paths.write_text("/film\n# not this\nhttps://www.example.com/page\n")
    assert "2 of 2 objects" in command(edge, "warm", "--list", str(paths), "--rate", "100")
    assert [get(edge, "film"), get(edge, "page")] == ["Hit", "Hit"]
    failed = command(edge, "warm", "/nothing", "/page", "--rate", "100", code=3)
    assert "/nothing: status 404" in failed
    assert "give paths" in command(edge, "warm", code=2)
    job = json.loads(command(edge, "cache", "verify", "--rate", "1GB", "--json"))
    assert (job["state"], job["failed"]) == ("done", 0)
