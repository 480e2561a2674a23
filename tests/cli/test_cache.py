"""How ``streamedge cache`` draws an object."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from streamedge.cli import admin_client
from streamedge.cli.admin_client import Admin
from streamedge.cli.cache.commands import CacheObjectError, find_entries, range_bar
from streamedge.cli.main import app

ENTRIES: list[dict[str, Any]] = [
    {"id": "1" * 64, "name": "film.mp4", "origin": "films", "kind": "object", "details": []},
    {"id": "2" * 64, "name": "film.mp4", "origin": "films", "kind": "variant", "details": ["a"]},
    {"id": "3" * 64, "name": "film.mp4", "origin": "films", "kind": "variants", "details": []},
    {"id": "7" * 64, "name": "film.mp4", "origin": None, "kind": "object", "details": []},
    {"id": "4" * 64, "name": "film.mp4.txt", "origin": "films", "kind": "object", "details": []},
    {"id": "5" * 64, "name": "page", "origin": "site", "kind": "object", "details": []},
    {"id": "6" * 64, "name": "page", "origin": "other", "kind": "object", "details": []},
]


def cached(size_bytes: int | None, *ranges: tuple[int, int, str]) -> dict[str, Any]:
    return {"size_bytes": size_bytes, "ranges": [list(one) for one in ranges]}


def test_bar_shows_which_parts_are_here() -> None:
    assert range_bar(cached(100, (0, 50, "cached")), 10) == "█████·····"
    assert range_bar(cached(100, (50, 60, "filling"), (90, 100, "unchecked")), 10) == "·····░···▒"
    assert range_bar(cached(100), 4) == "····"
    assert range_bar(cached(None, (0, 10, "cached")), 4) == "████"


def test_small_range_of_a_large_object_is_seen() -> None:
    assert range_bar(cached(1 << 40, (1 << 39, (1 << 39) + 1, "cached")), 8) == "····█···"


@given(st.integers(0, 1000), st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000))))
def test_bar_has_its_width(size: int, pairs: list[tuple[int, int]]) -> None:
    ranges = [(min(pair), max(pair), "cached") for pair in pairs]
    assert len(range_bar(cached(size, *ranges), 20)) == 20


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The changing calls of an edge with ENTRIES in its cache."""
    changes: list[tuple[str, str]] = []

    def call(_admin: Admin, method: str, path: str, _body: object = None) -> dict[str, Any]:
        if path.startswith("/cache?"):
            origin = path.partition("origin=")[2].partition("&")[0]
            entries = [one for one in ENTRIES if origin in ("", one["origin"])]
            return {"objects": entries, "cursor": None}
        changes.append((method, path))
        return {"id": path.split("/")[2], "freed_bytes": 1_000, "pinned": method == "PUT"}

    monkeypatch.setattr(admin_client, "call", call)
    return changes


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["--admin", "http://127.0.0.1:1", "cache", *arguments])
    return result.exit_code, result.output


def test_name_means_all_entries_of_an_object(calls: list[tuple[str, str]]) -> None:
    one, two = (f"/cache/{digit * 64}" for digit in "12")
    assert run("purge", "film.mp4") == (0, "film.mp4 is purged: 2.0 kB are free.\n")
    assert run("pin", "/film.mp4") == (0, "/film.mp4 is pinned.\n")
    assert run("unpin", "film.mp4") == (0, "film.mp4 is not pinned.\n")
    expected = [("DELETE", one), ("DELETE", two), ("PUT", f"{one}/pin"), ("PUT", f"{two}/pin")]
    assert calls == [*expected, ("DELETE", f"{one}/pin"), ("DELETE", f"{two}/pin")]
    code, output = run("purge", "film.mp4", "--json")
    lines = [json.loads(line) for line in output.splitlines()]
    assert (code, [line["id"] for line in lines]) == (0, ["1" * 64, "2" * 64])
    assert {line["object"] for line in lines} == {"film.mp4"}


def test_name_of_several_origins_needs_the_origin(calls: list[tuple[str, str]]) -> None:
    code, output = run("purge", "page")
    assert code == 1
    assert "of the origins other, site: choose one by --origin" in output
    assert calls == []
    assert run("purge", "page", "--origin", "site")[0] == 0
    assert calls == [("DELETE", f"/cache/{'5' * 64}")]


def test_name_that_is_not_cached_is_an_error(calls: list[tuple[str, str]]) -> None:
    with pytest.raises(CacheObjectError, match="no cached object has the name 'film'"):
        find_entries(cast(Admin, None), "film", "")
    assert calls == []
