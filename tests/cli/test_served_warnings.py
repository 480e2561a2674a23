"""``streamedge check`` warns of files of the edge that viewers can get."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamedge.cli.main import app

ORIGIN = '[origins.main]\ntype = "directory"\npath = "{}"\nprefix = "{}"\n'


@pytest.mark.parametrize(
    ("path", "prefix", "contained"),
    [
        (".", "", "this config file, edge.cache, edge.log"),
        ("cache", "", "edge.cache"),
        ("logs", "", "edge.log"),
        (".", "logs/", "edge.log"),
        ("link", "", "edge.log"),
        ("log", "", ""),
        ("media", "", ""),
        (".", "media/", ""),
    ],
)
def test_folder_with_files_of_the_edge_is_warned_of(
    tmp_path: Path, path: str, prefix: str, contained: str
) -> None:
    for name in ("cache", "log", "logs", "media"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("logs")
    config = tmp_path / "config.toml"
    edge = '[edge]\ncache = "cache"\nlog = "logs/edge.log"\n'
    config.write_text(edge + ORIGIN.format(path, prefix))
    result = CliRunner().invoke(app, ["check", "--config", str(config)])
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    warning = f"Warning: viewers can get {contained}, which origins.main.path contains"
    assert (warning in output) is bool(contained)
    assert ("viewers can get" in output) is bool(contained)
