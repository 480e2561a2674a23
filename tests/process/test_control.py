"""The control process: health, metrics, accepted host names and a clean end."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from streamedge.admin.app import create_admin_app
from streamedge.cache.storage.store import prepare_folder
from streamedge.config.schema.config import Config
from streamedge.coordination import heartbeats
from streamedge.coordination.heartbeats import LATE_S, End
from streamedge.coordination.shared_state import SharedState
from streamedge.process.control import run_control
from tests.support.admin.access import open_access
from tests.support.http.asgi_call import call
from tests.support.patience import PATIENCE_S
from tests.support.process.shared_memory import close_shared, make_shared


@pytest.fixture
def shared() -> Iterator[SharedState]:
    state = make_shared(2)
    yield state
    close_shared(state)


async def get_from_app(shared: SharedState, path: str) -> tuple[int, bytes]:
    """Status and body of a GET."""
    return await call(create_admin_app("fra-1", shared, open_access(shared)), "GET", path)


async def test_healthz_is_503_until_all_workers_are_up(shared: SharedState) -> None:
    worker_status = shared.worker_status
    for up, status in ((0, 503), (1, 503), (2, 200)):
        actual, body = await get_from_app(shared, "/healthz")
        assert actual == status
        expected: dict[str, object] = {"edge": "fra-1", "ready": status == 200, "workers": up}
        if up < 2:
            expected["problems"] = [f"worker-{number} is not up" for number in range(up, 2)]
        assert json.loads(body) == expected
        if up < 2:
            worker_status.mark_up(up)
    worker_status.mark_down(0)
    assert (await get_from_app(shared, "/healthz"))[0] == 503


async def test_healthz_is_503_while_a_worker_sends_no_heartbeat(
    shared: SharedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    for worker in range(2):
        shared.worker_status.mark_up(worker)
        shared.heartbeats.beat(worker)
    assert (await get_from_app(shared, "/healthz"))[0] == 200
    later_s = time.monotonic() + LATE_S + 1
    monkeypatch.setattr(heartbeats, "time", SimpleNamespace(monotonic=lambda: later_s))
    shared.heartbeats.beat(0)
    status, body = await get_from_app(shared, "/healthz")
    assert status == 503
    assert json.loads(body)["workers"] == 1
    assert json.loads(body)["problems"] == ["worker-1 has not run its event loop for 6 s"]
    shared.heartbeats.beat(1)
    assert (await get_from_app(shared, "/healthz"))[0] == 200


async def test_healthz_names_a_worker_without_the_cache_folder(shared: SharedState) -> None:
    for worker in range(2):
        shared.worker_status.mark_up(worker)
        shared.heartbeats.note_folder(worker, lacks=worker != 0)
    status, body = await get_from_app(shared, "/healthz")
    assert status == 200  # it serves, though without a cache
    assert json.loads(body)["problems"] == [
        "worker-1 cannot use the cache folder: the log says why"
    ]


async def test_metrics_show_ends_heartbeats_and_folders_of_processes(shared: SharedState) -> None:
    shared.heartbeats.count_end(1, End.HUNG)
    shared.heartbeats.note_folder(0, lacks=True)
    _status, body = await get_from_app(shared, "/metrics")
    lines = body.decode().splitlines()
    assert 'streamedge_process_ends_total{process="worker-1",reason="hung"} 1.0' in lines
    assert 'streamedge_process_ends_total{process="control",reason="killed"} 0.0' in lines
    assert 'streamedge_cache_folder_usable{process="worker-0"} 0.0' in lines
    assert 'streamedge_process_silent_seconds{process="worker-0"} 0.0' in lines


async def test_unknown_path_is_404(shared: SharedState) -> None:
    assert (await get_from_app(shared, "/"))[0] == 404


@contextmanager
def control_process(folder: Path) -> Iterator[tuple[int, int, int]]:
    """A control process: its pid, its port, and the pipe end that keeps it running."""
    root = folder / "cache"
    prepare_folder(root)
    config = Config.model_validate({"edge": {"cache": str(root), "log": str(folder / "log")}})
    shared = make_shared(0, config=config, log=folder / "log")
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
        close_shared(shared)


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as response:
        body: bytes = response.read()
        return body


@pytest.mark.parametrize("by_signal", [True, False])
def test_control_process_ends_cleanly_on_sigterm_or_when_the_supervisor_ends(
    tmp_path: Path, by_signal: bool
) -> None:
    with control_process(tmp_path) as (pid, port, life):
        assert json.loads(get(port, "/healthz"))["ready"]
        if by_signal:
            os.kill(pid, signal.SIGTERM)
        else:
            os.close(life)
        _pid, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert "Traceback" not in (tmp_path / "stderr").read_text()


def test_control_process_serves_after_sigint_until_sigterm(tmp_path: Path) -> None:
    with control_process(tmp_path) as (pid, port, _life):
        get(port, "/healthz")
        os.kill(pid, signal.SIGINT)
        assert json.loads(get(port, "/healthz"))["ready"]
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (pending,) = [line.split()[1] for line in lines if line.startswith("ShdPnd:")]
        assert int(pending, 16) & 1 << (signal.SIGINT - 1)  # no handler has run
        os.kill(pid, signal.SIGTERM)
        _pid, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0


def test_control_process_refuses_unknown_host_names(tmp_path: Path) -> None:
    with control_process(tmp_path) as (pid, port, _life):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/healthz")
        request.add_header("Host", f"attacker.example:{port}")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=PATIENCE_S)
        with refused.value:
            assert refused.value.code == 421
            assert "attacker.example" in json.load(refused.value)["error"]
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def test_control_process_counts_its_start(tmp_path: Path) -> None:
    with control_process(tmp_path) as (pid, port, _life):
        expected = b'streamedge_worker_starts_total{process="control"} 1.0'
        while expected not in get(port, "/metrics"):
            pass  # it publishes its counts once a second
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
