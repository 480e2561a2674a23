"""Rules for the whole tree: the direction of imports, make targets, scripts, the changelog."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_imports_go_one_way() -> None:
    """The contracts of pyproject.toml: layers, rtmp and web apart, origins named by edge alone."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_make_target_is_explained() -> None:
    text = (ROOT / "Makefile").read_text()
    declared = set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split())
    explained = set(re.findall(r"^([a-z]+):.*  ## ", text, re.MULTILINE))
    assert declared - explained == {"programs"}
    assert {"install", "run", "test", "bench", "lint", "clean", "help"} <= explained


@pytest.mark.parametrize("script", [".ci/run", "tools/make_venv.sh", "tools/install_programs.sh"])
def test_scripts_are_bash_that_stops_at_a_failure(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=10)


def test_the_changelog_has_a_place_for_what_comes() -> None:
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text()
