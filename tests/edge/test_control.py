"""The admin address: health, numbers, and an end without noise."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asgi_call import call

from streamedge.cache.store import prepare_folder
from streamedge.config.schema import Config
from streamedge.edge.bells import Bells
from streamedge.edge.control import create_admin_app, run_control
from streamedge.edge.generations import Generations
from streamedge.edge.roster import Roster
from streamedge.edge.shared import Shared
from streamedge.ops.log_output import LogTarget


async def ask(roster: Roster, folder: Path, path: str) -> tuple[int, bytes]:
    """Status and body of a GET."""
    return await call(create_admin_app("fra-1", roster, folder), "GET", path)


async def test_healthz_is_503_until_all_are_up(tmp_path: Path) -> None:
    roster = Roster(2)
    for up, status in ((0, 503), (1, 503), (2, 200)):
        said, body = await ask(roster, tmp_path, "/healthz")
        assert said == status
        assert json.loads(body) == {"edge": "fra-1", "ready": status == 200, "workers": up}
        if up < 2:
            roster.up(up)
    roster.down(0)
    assert (await ask(roster, tmp_path, "/healthz"))[0] == 503


async def test_nothing_else_is_there(tmp_path: Path) -> None:
    assert (await ask(Roster(0), tmp_path, "/"))[0] == 404


@contextmanager
def control_process(folder: Path) -> Iterator[tuple[int, int, int]]:
    """A control process: its pid, its port, and the end that keeps it alive."""
    root, metrics = folder / "cache", folder / "metrics"
    metrics.mkdir()
    prepare_folder(root)
    config = Config.model_validate({"edge": {"cache": str(root), "log": str(folder / "log")}})
    shared = Shared(
        Generations(config, 0), Bells(0), Roster(0), metrics, LogTarget(str(folder / "log"))
    )
    lifeline, life = os.pipe()
    listener = socket.create_server(("127.0.0.1", 0))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(life)
            os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT), 2)
            run_control(shared, listener, lifeline)
            code = 0
        finally:
            os._exit(code)
    try:
        yield pid, listener.getsockname()[1], life
    finally:
        for descriptor in (lifeline, life):
            try:
                os.close(descriptor)
            except OSError:
                continue  # a test has closed it
        listener.close()
        shared.bells.close()
        shared.generations.close()


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as response:
        body: bytes = response.read()
        return body


@pytest.mark.parametrize("by_signal", [True, False])
def test_it_ends_well_when_told_or_when_left_alone(tmp_path: Path, by_signal: bool) -> None:
    with control_process(tmp_path) as (pid, port, life):
        assert json.loads(get(port, "/healthz"))["ready"]
        if by_signal:
            os.kill(pid, signal.SIGTERM)
        else:
            os.close(life)
        _pid, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert "Traceback" not in (tmp_path / "stderr").read_text()


def test_it_answers_to_its_own_names_alone(tmp_path: Path) -> None:
    with control_process(tmp_path) as (pid, port, _life):
        rebound = urllib.request.Request(f"http://127.0.0.1:{port}/healthz")
        rebound.add_header("Host", f"attacker.example:{port}")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(rebound, timeout=20)
        with refused.value:
            assert refused.value.code == 421
            assert "attacker.example" in json.load(refused.value)["error"]
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def test_it_counts_itself(tmp_path: Path) -> None:
    with control_process(tmp_path) as (pid, port, _life):
        expected = b'streamedge_worker_starts_total{process="control"} 1.0'
        while expected not in get(port, "/metrics"):
            pass  # it hands its numbers over a few times a second
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
