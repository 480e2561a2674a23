"""What the supervisor does about a process that ends; the rest is for the journeys."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streamedge.access.countries import Countries
from streamedge.config.schema import Config
from streamedge.edge import supervisor as module
from streamedge.edge.bells import Bells
from streamedge.edge.generations import Generations
from streamedge.edge.listeners import WorkerListeners
from streamedge.edge.roster import Roster
from streamedge.edge.shared import Shared
from streamedge.edge.supervisor import RESTART_BACKOFF_S, YOUNG_S, _Child, _Supervisor
from streamedge.ops.log import open_log
from streamedge.ops.log_output import LogTarget

KILLED = signal.SIGKILL  # a wait status: ended by this signal


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def supervisor(tmp_path: Path, clock: Clock) -> Iterator[_Supervisor]:
    """A supervisor of one worker that starts nobody."""
    target = LogTarget(str(tmp_path / "log"))
    log = open_log(target, "supervisor")
    bells = Bells(1)
    shared = Shared(Generations(Config(), 1), bells, Roster(1), tmp_path, target)
    with socket.socket() as admin:
        made = _Supervisor(
            log, [WorkerListeners((), ())], None, Countries(None), admin, shared, lambda: None
        )
        yield made
    bells.close()
    shared.generations.close()
    os.close(made._life)
    os.close(made._lifeline)
    log.close()
    target.close()


def worker_of(supervisor: _Supervisor) -> _Child:
    (worker,) = [child for child in supervisor._children if child.worker is not None]
    return worker


def live(clock: Clock, child: _Child, seconds: float) -> None:
    """The child starts now and lives for so long."""
    child.pid, child.started_s, child.due_s = 4242, clock.now_s, None
    clock.now_s += seconds


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def test_a_child_that_keeps_dying_young_is_restarted_ever_later(
    supervisor: _Supervisor, clock: Clock
) -> None:
    worker = worker_of(supervisor)
    pauses = []
    for _death in range(7):
        live(clock, worker, YOUNG_S / 2)
        supervisor._ended(worker, KILLED, restart=True)
        assert worker.due_s is not None
        pauses.append(worker.due_s - clock.now_s)
    assert pauses == pytest.approx([*RESTART_BACKOFF_S[1:], *[RESTART_BACKOFF_S[-1]] * 3])


def test_a_child_that_lived_is_restarted_at_once(supervisor: _Supervisor, clock: Clock) -> None:
    worker = worker_of(supervisor)
    live(clock, worker, YOUNG_S / 2)
    supervisor._ended(worker, KILLED, restart=True)
    live(clock, worker, YOUNG_S * 2)
    supervisor._ended(worker, KILLED, restart=True)
    assert worker.due_s == clock.now_s
    assert worker.young_deaths == 0


def test_a_dead_worker_is_not_up(supervisor: _Supervisor, clock: Clock, tmp_path: Path) -> None:
    worker = worker_of(supervisor)
    supervisor._roster.up(0)
    live(clock, worker, 1.0)
    supervisor._ended(worker, KILLED, restart=True)
    assert supervisor._roster.workers_up == 0
    assert worker.pid == 0
    (line,) = lines(tmp_path)
    assert (line["event"], line["child"], line["pid"]) == ("process_ended", "worker-0", 4242)
    assert line["code"] == -signal.SIGKILL


def test_a_child_that_ends_well_at_the_end_is_no_news(
    supervisor: _Supervisor, clock: Clock, tmp_path: Path
) -> None:
    worker = worker_of(supervisor)
    live(clock, worker, 1.0)
    supervisor._ended(worker, 0, restart=False)
    assert worker.due_s is None
    assert lines(tmp_path) == []


def test_it_sleeps_until_the_next_child_is_due(supervisor: _Supervisor, clock: Clock) -> None:
    supervisor._welcomed = True
    for child in supervisor._children:
        child.due_s = None
    assert supervisor._pause_s() == pytest.approx(60.0)
    worker_of(supervisor).due_s = clock.now_s + 2.0
    assert supervisor._pause_s() == pytest.approx(2.0)
    clock.now_s += 3.0
    assert supervisor._pause_s() == 0.0


def test_numbers_of_the_dead_are_forgotten(
    supervisor: _Supervisor, clock: Clock, tmp_path: Path
) -> None:
    gone, living = tmp_path / "gauge_livesum_4242.db", tmp_path / "gauge_livesum_4243.db"
    counter = tmp_path / "counter_4242.db"
    for file in (gone, living, counter):
        file.touch()
    worker = worker_of(supervisor)
    live(clock, worker, 1.0)
    supervisor._ended(worker, KILLED, restart=True)
    assert not gone.exists()
    assert living.exists()
    assert counter.exists()  # what was counted stays counted
