"""Journeys: the edge under a service manager, by the protocol that systemd speaks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.process.service_manager import NotifySocket

DIRECTORY = '[origins.main]\ntype = "directory"\npath = "media"\n'


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[NotifySocket]:
    (tmp_path / "media").mkdir()
    manager = NotifySocket(tmp_path / "notify")
    yield manager
    manager.close()


def variables(manager: NotifySocket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(manager.path), **more}


def children_of(edge: EdgeProcess) -> list[int]:
    """The pids of all processes of an edge but the supervisor."""
    text = Path(f"/proc/{edge.pid}/task/{edge.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


def test_manager_learns_of_start_reload_and_stop(tmp_path: Path, manager: NotifySocket) -> None:
    environment = variables(manager)
    with run_edge(tmp_path, DIRECTORY, workers=2, environment=environment) as edge:
        ready = manager.await_variable("READY")
        assert ready["STATUS"] == "2 of 2 workers serve"
        assert len(edge.log("worker_up")) <= 2
        assert len(children_of(edge)) == 3
        edge.process.send_signal(signal.SIGHUP)
        assert "reads the config file" in manager.await_variable("RELOADING")["STATUS"]
        manager.await_variable("READY")
        assert edge.stop() == 0
        manager.await_variable("STOPPING")
    names = [set(message) & {"READY", "RELOADING", "STOPPING"} for message in manager.messages]
    expected = [{"READY"}, {"RELOADING"}, {"READY"}, {"STOPPING"}]
    assert [name for name in names if name] == expected


def test_edge_is_not_ready_before_every_process_is_up(
    tmp_path: Path, manager: NotifySocket
) -> None:
    release = tmp_path / "release"
    late_worker = (
        "import streamedge.process.worker as worker, pathlib, time\n"
        "plain = worker._serve_viewers\n"
        "async def late(process):\n"
        f"    while process.context.number == 1 and not pathlib.Path({str(release)!r}).exists():\n"
        "        import asyncio; await asyncio.sleep(0.01)\n"
        "    await plain(process)\n"
        "worker._serve_viewers = late\n"
    )
    states: list[list[dict[str, str]]] = []

    # In a thread: ``run_edge`` waits until all workers are up.
    def release_when_the_first_worker_is_up() -> None:
        log = tmp_path / "edge.log"
        while not log.exists() or "worker_up" not in log.read_text():
            pause()
        states.append(manager.take_waiting())
        release.touch()

    thread = Thread(target=release_when_the_first_worker_is_up)
    thread.start()
    environment = variables(manager)
    with run_edge(tmp_path, DIRECTORY, workers=2, environment=environment, prelude=late_worker):
        thread.join()
        manager.await_variable("READY")
    assert not any("READY" in message for message in states[0])


def test_watchdog_is_kept_alive_again_after_a_hung_process_is_replaced(
    tmp_path: Path, manager: NotifySocket
) -> None:
    environment = variables(manager, WATCHDOG_USEC="800000")
    with run_edge(tmp_path, DIRECTORY, environment=environment) as edge:
        for _message in range(5):
            manager.await_variable("WATCHDOG")
        (worker,) = edge.worker_pids()
        (control,) = [pid for pid in children_of(edge) if pid != worker]
        os.kill(control, signal.SIGSTOP)
        (ended,) = edge.await_log("process_ended", timeout_s=60)
        assert (ended["child"], ended["reason"]) == ("control", "hung")
        manager.take_waiting()
        manager.await_variable("WATCHDOG")
