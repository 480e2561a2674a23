"""``streamedge config`` shows, compares and explains configs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamedge.cli.main import app
from streamedge.config.as_toml import config_as_toml
from streamedge.config.load import load

CONFIG = """
[edge]
cache = "cache"
[listen]
http = ["127.0.0.1:8081", "[::1]:8081"]
proxies = ["10.0.0.0/8"]
[limits]
url = "4KiB"
[origins.main]
type = "directory"
path = "media"
[origins.web]
type = "http"
url = "https://a.example"
headers = { X-Key = "a-secret", "X-Other" = "another" }
[origins."s3-1"]
type = "s3"
bucket = "b"
access_key_id = "AKIA"
secret_access_key = "bucket-secret"
[cache_policies.p]
headers = ["Accept"]
query_strings = { only = ["page"] }
[[distributions]]
id = "EWEB"
type = "web"
origin = "main"
aliases = ["a.example"]
[[distributions.behaviors]]
path = "/x/*"
cache_policy = "p"
[[distributions]]
id = "E2"
type = "web"
origin = "web"
countries = { deny = ["AQ"] }
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.replace('countries = { deny = ["AQ"] }\n', ""))
    return path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["config", *arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("options", [[], ["--all"]])
def test_what_is_shown_is_the_same_config(path: Path, options: list[str]) -> None:
    output = run("show", "--config", str(path), *options)
    assert "secret" not in output.replace("secret_access_key", "")
    again = path.parent / "again.toml"
    again.write_text(output)
    shown, loaded = load(again), load(path)
    assert config_as_toml(shown) == config_as_toml(loaded)
    assert shown.distributions == loaded.distributions
    assert shown.cache_policies == loaded.cache_policies
    assert shown.listen == loaded.listen


def test_keys_are_shown_as_json(path: Path) -> None:
    values = json.loads(run("show", "--config", str(path), "--json"))
    assert values["limits.url"] == '"4KiB"'
    assert values["origins.s3-1.secret_access_key"] == '"********"'
    assert "edge.workers" not in values


def test_difference_says_what_needs_a_restart(path: Path) -> None:
    other = path.parent / "other.toml"
    text = path.read_text().replace('url = "4KiB"', 'url = "8KiB"\nlog_buffer = "1MiB"')
    other.write_text(text.replace('["127.0.0.1:8081", "[::1]:8081"]', '["127.0.0.1:8082"]'))
    assert run("diff", str(path), "--config", str(path)) == ""
    rows = json.loads(run("diff", str(path), "--config", str(other), "--json", code=1))
    applies = {row["key"]: row["applies"] for row in rows}
    assert applies["listen.http"] == "restart"
    assert applies["limits.url"] == "live"


def test_changed_secret_is_named_without_its_values(path: Path) -> None:
    other = path.parent / "other.toml"
    other.write_text(path.read_text().replace("bucket-secret", "rotated"))
    output = run("diff", str(path), "--config", str(other), code=1)
    assert output.startswith("origins.s3-1")
    assert "rotated" not in output
    assert "bucket-secret" not in output


def test_key_is_explained() -> None:
    output = run("reference", "listen.alt_svc")
    assert "listen.alt_svc  string" in output
    assert "Alt-Svc" in output
    rows = json.loads(run("reference", "edge.", "restart", "--json"))
    assert {"edge.cache", "edge.workers"} <= {row["key"] for row in rows}
    assert "no key has" in run("reference", "nonsense-word", code=2)
