"""The Debian package: lintian accepts it, and everything is in its place.

The packages that the edge depends on are left out here: installing them takes minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("debian")
    options = "--no-deps --no-build-isolation --no-index"
    environment = {**os.environ, "PYTHON": sys.executable, "PIP_OPTIONS": options}
    built = subprocess.run(
        [ROOT / "packaging" / "debian" / "build.sh", folder],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=10 * PATIENCE_S,
    )
    assert built.returncode == 0, built.stderr
    (package,) = folder.glob("streamedge_*.deb")
    return package


def run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=4 * PATIENCE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_lintian_finds_nothing(package: Path) -> None:
    assert run("lintian", "--fail-on=error,warning", "--allow-root", str(package)) == ""


def test_files_are_in_their_places(package: Path) -> None:
    lines = run("dpkg-deb", "--contents", str(package)).splitlines()
    files = {line.split(maxsplit=5)[5].split(" -> ")[0]: line for line in lines}
    for path in (
        "./opt/streamedge/bin/streamedge",
        "./usr/bin/streamedge",
        "./usr/lib/systemd/system/streamedge.service",
        "./usr/lib/sysusers.d/streamedge.conf",
        "./usr/lib/tmpfiles.d/streamedge.conf",
        "./usr/share/man/man1/streamedge.1.gz",
        "./usr/share/bash-completion/completions/streamedge",
        "./usr/share/zsh/vendor-completions/_streamedge",
        "./usr/share/fish/vendor_completions.d/streamedge.fish",
        "./etc/streamedge/config.toml",
    ):
        assert path in files
    assert files["./etc/streamedge/config.toml"].startswith("-rw-r-----")
    assert not [path for path in files if "/pip/" in path or path.endswith(".pyc")]


def test_installed_command_has_the_paths_of_the_installation(package: Path, tmp_path: Path) -> None:
    run("dpkg-deb", "--extract", str(package), str(tmp_path))
    command = (tmp_path / "opt/streamedge/bin/streamedge").read_text()
    assert command.startswith("#!/opt/streamedge/bin/python3\n")
    settings = (tmp_path / "opt/streamedge/pyvenv.cfg").read_text()
    assert str(tmp_path) not in settings
    assert "home = /usr/bin" in settings


def test_config_of_the_package_has_no_mistakes(tmp_path: Path) -> None:
    text = (ROOT / "packaging/debian/config.toml").read_text()
    (tmp_path / "media").mkdir()
    (tmp_path / "config.toml").write_text(text.replace("/srv/streamedge", "media"))
    run(sys.executable, "-m", "streamedge", "check", "--config", str(tmp_path / "config.toml"))
