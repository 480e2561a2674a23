"""``streamedge distributions``: tables, JSON and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamedge.api.operations.handlers import api_handlers
from streamedge.api.protocol.service import Call
from streamedge.cli.listings import NoDistributionError, distribution_tables, list_distributions
from streamedge.cli.main import app
from streamedge.config.load import load
from streamedge.control.database import FILE_NAME, ControlDatabase

SECRET = "hunter2-wJalrXUtnFEMI"
CONFIG = f"""\
[edge]
cache = "cache"
[origins.samples]
type = "directory"
path = "media"
[origins.site]
type = "http"
url = "https://www.example.org"
headers = {{ X-Key = "{SECRET}" }}
[[distributions]]
id = "EWEB"
type = "web"
origin = "samples"
aliases = ["www.example.com"]
cache_policy = "CachingOptimized"
[[distributions.behaviors]]
path = "api/*"
origin = "site"
[[distributions]]
id = "ESTREAM"
type = "rtmp"
origin = "samples"
enabled = false
"""
DOCUMENT: dict[str, Any] = {
    "CallerReference": "one",
    "Comment": "made by a script",
    "Enabled": True,
    "Aliases": {"Quantity": 1, "Items": ["made.example.com"]},
    "Origins": {
        "Quantity": 1,
        "Items": [
            {
                "Id": "samples",
                "DomainName": "samples",
                "S3OriginConfig": {"OriginAccessIdentity": ""},
            }
        ],
    },
    "DefaultCacheBehavior": {
        "TargetOriginId": "samples",
        "ViewerProtocolPolicy": "allow-all",
        "CachePolicyId": "4135ea2d-6df8-44a3-9df3-4b5a84be39ad",
    },
}

runner = CliRunner()


@pytest.fixture(name="path")
def _path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config in the working directory, whose edge has never run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "media").mkdir()
    (tmp_path / "cache").mkdir()
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


def make(path: Path, operation: str = "CreateDistribution", **members: Any) -> str:
    """Creates a resource through the API; returns its id."""
    config = load(path)
    database = ControlDatabase(config.edge.cache)
    handlers = api_handlers(database, lambda: config, lambda: None)
    members = members or {"DistributionConfig": DOCUMENT}
    output = handlers[operation](Call(operation, members, "AKIAEDGE", 1_790_000_000.0))
    database.close()
    (text,) = (value for name, value in output.items() if name not in {"ETag", "Location"})
    return str(text["Id"])


def test_distributions_of_the_file_and_the_api_are_listed(path: Path) -> None:
    assert [one["id"] for one in list_distributions(load(path))] == ["EWEB", "ESTREAM"]
    identifier = make(path)
    result = runner.invoke(app, ["distributions", "--json"])
    assert result.exit_code == 0
    web, stream, item = json.loads(result.stdout)
    assert (web["id"], web["made_in"], web["enabled"]) == ("EWEB", "config.toml", True)
    assert web["hosts"] == ["www.example.com"]
    assert web["origins"] == ["site", "samples"]
    assert [rules["path"] for rules in web["behaviors"]] == ["api/*", "*"]
    assert web["behaviors"][1]["policies"] == ["CachingOptimized"]
    assert (stream["type"], stream["enabled"]) == ("rtmp", False)
    assert stream["applications"] == ["cfx/st"]
    assert (item["id"], item["made_in"], item["problem"]) == (identifier, "API", None)
    assert item["hosts"] == [f"{identifier.lower()}.local.streamedge", "made.example.com"]
    assert item["comment"] == "made by a script"
    assert item["modified"] == "2026-09-21T14:13:20+00:00"


def test_distributions_are_shown_as_a_table(path: Path) -> None:
    identifier = make(path)
    result = runner.invoke(app, ["distributions"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for text in ("EWEB", "config.toml", "disabled", identifier, "API", "served"):
        assert text in result.stdout
    assert SECRET not in result.stdout
    assert "Behaviors" not in result.stdout
    alone = runner.invoke(app, ["distributions", "EWEB"], env={"COLUMNS": "200"})
    assert "ESTREAM" not in alone.stdout
    for text in ("Behaviors", "api/*", "CachingOptimized", "GET HEAD"):
        assert text in alone.stdout


def test_listing_without_a_database_creates_no_file(path: Path) -> None:
    runner.invoke(app, ["distributions"])
    assert list((path.parent / "cache").iterdir()) == []


def test_distribution_that_is_not_applied_is_listed_with_its_reason(path: Path) -> None:
    identifier = make(path)
    path.write_text(CONFIG.replace("samples", "renamed"))
    (item,) = list_distributions(load(path), identifier)
    assert "InvalidOrigin" in item["problem"]
    assert item["comment"] == "made by a script"
    (table,) = distribution_tables([item])
    assert table.row_count == 1
    result = runner.invoke(app, ["distributions"], env={"COLUMNS": "300"})
    assert "not applied: InvalidOrigin" in result.stdout


def test_unknown_id_and_damaged_database_exit_with_1_and_a_reason(path: Path) -> None:
    with pytest.raises(NoDistributionError):
        list_distributions(load(path), "ENONE")
    result = runner.invoke(app, ["distributions", "ENONE"])
    assert result.exit_code == 1
    assert "no distribution has the id ENONE; known: EWEB, ESTREAM" in result.stderr
    (path.parent / "cache" / FILE_NAME).write_bytes(b"no database" * 100)
    result = runner.invoke(app, ["distributions"])
    assert result.exit_code == 1
    assert "the control database" in result.stderr


def test_distributions_help_has_options_and_an_example(path: Path) -> None:
    result = runner.invoke(app, ["distributions", "--help"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    for text in ("--config", "--json", "ID", "Example:", "streamedge reload"):
        assert text in result.stdout
