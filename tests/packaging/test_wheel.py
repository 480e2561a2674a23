"""A wheel installs without a network, and its command makes a config and serves."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import pause
from tests.support.process.ports import free_ports

ROOT = Path(__file__).parents[2]


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, timeout=4 * PATIENCE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(folder: Path) -> Path:
    """Installs a wheel of this tree into a new environment; returns its command.

    As pipx does, but without a network: the packages that it depends on are those of the tests.
    """
    source = folder / "source"
    run("git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", str(source))
    offline = ["--no-index", "--no-deps", "--disable-pip-version-check"]
    wheels = folder / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", *offline, "--no-build-isolation"]
    run(*build, "--wheel-dir", str(wheels), str(source))
    environment = folder / "environment"
    run(sys.executable, "-m", "venv", str(environment))
    (wheel,) = wheels.glob("streamedge-*.whl")
    run(str(environment / "bin" / "pip"), "install", "--quiet", *offline, str(wheel))
    (packages,) = (environment / "lib").glob("python*/site-packages")
    others = next(path for path in sys.path if path.endswith("site-packages"))
    # Only the packages, not the .pth file of this tree.
    (packages / "others.pth").write_text(f"{others}\n")
    return environment / "bin" / "streamedge"


def test_wheel_makes_a_working_command(tmp_path: Path) -> None:
    command = str(install(tmp_path))
    edge = tmp_path / "edge"
    (edge / "media").mkdir(parents=True)
    (edge / "media" / "a.txt").write_text("content")
    assert run(command, "--version", cwd=edge).startswith("streamedge 0.")
    http, rtmp, admin = free_ports(3)
    addresses = [f"127.0.0.1:{port}" for port in (http, rtmp, admin)]
    options = ["--http", addresses[0], "--rtmp", addresses[1], "--admin", addresses[2]]
    run(command, "init", "--origin", "media", *options, cwd=edge)
    run(command, "check", cwd=edge)
    with open(edge / "log", "wb") as log:
        process = subprocess.Popen([command, "serve"], cwd=edge, stdout=log, stderr=log)
    try:
        assert await_body(process, f"http://{addresses[2]}/healthz").startswith(b"{")
        assert await_body(process, f"http://{addresses[0]}/a.txt") == b"content"
        modules = Path(f"/proc/{process.pid}/maps").read_text()
        assert str(ROOT / "streamedge") + os.sep not in modules
        # Data files of the package: the page, rules, scripts.
        assert b"<html" in await_body(process, f"http://{addresses[2]}/").lower()
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def await_body(process: subprocess.Popen[bytes], url: str) -> bytes:
    for _attempt in range(int(PATIENCE_S / 0.02)):
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
                body: bytes = response.read()
                return body
        except OSError:
            assert process.poll() is None
            pause()
    raise TimeoutError(url)
