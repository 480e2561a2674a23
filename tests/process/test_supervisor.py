"""The supervisor restarts processes that end, kills those that hang, and retries failed forks."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streamedge.config.schema.config import Config
from streamedge.coordination import heartbeats as heartbeats_module
from streamedge.coordination.heartbeats import HUNG_S, End
from streamedge.coordination.shared_state import SharedState
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts, Gauge
from streamedge.process import child as child_module
from streamedge.process import supervisor as supervisor_module
from streamedge.process.child import ABORT_TIMEOUT_S, EARLY_S, RESTART_BACKOFF_S, Child
from streamedge.process.notify import ServiceManager
from streamedge.process.supervisor import CHECK_INTERVAL_S, START_POLL_S, Supervisor
from tests.support.process.service_manager import NotifySocket
from tests.support.process.shared_memory import close_shared, make_shared

KILLED = signal.SIGKILL  # a wait status: ended by this signal
PID = 4242


class Clock:
    """A manual clock, and a ``kill`` that only records the signal."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.sent: list[signal.Signals] = []

    def monotonic(self) -> float:
        return self.now_s

    def kill(self, pid: int, number: signal.Signals) -> None:
        assert pid == PID
        self.sent.append(number)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (supervisor_module, child_module, heartbeats_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(os, "kill", clock.kill)
    return clock


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedState]:
    state = make_shared(1, log=tmp_path / "log")
    yield state
    close_shared(state)


@pytest.fixture
def worker() -> Iterator[Child]:
    child = Child("worker-0", 0, lambda: None, is_worker=True)
    yield child
    child.close()


@pytest.fixture
def supervisor(clock: Clock, shared: SharedState, worker: Child) -> Iterator[Supervisor]:
    """A supervisor of one worker that is not started."""
    log = open_log(shared.log_target, "supervisor")
    yield Supervisor(log, shared, [worker], lambda: None, Config())
    log.close()


def run_for(clock: Clock, child: Child, seconds: float) -> None:
    """The child starts now and runs for ``seconds``."""
    child.pid, child.started_s, child.due_s = PID, clock.now_s, None
    clock.now_s += seconds


def lines(tmp_path: Path, event: str | None = None) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    return [line for line in events if event is None or line["event"] == event]


def test_child_that_ends_early_repeatedly_is_restarted_with_backoff(
    supervisor: Supervisor, clock: Clock, worker: Child
) -> None:
    pauses = []
    for _death in range(7):
        run_for(clock, worker, EARLY_S / 2)
        supervisor.record_end(worker, KILLED, restart=True)
        assert worker.due_s is not None
        pauses.append(worker.due_s - clock.now_s)
    assert pauses == pytest.approx([*RESTART_BACKOFF_S[1:], *[RESTART_BACKOFF_S[-1]] * 3])


def test_child_that_ran_for_long_is_restarted_at_once(
    supervisor: Supervisor, clock: Clock, worker: Child
) -> None:
    run_for(clock, worker, EARLY_S / 2)
    supervisor.record_end(worker, KILLED, restart=True)
    run_for(clock, worker, EARLY_S * 2)
    supervisor.record_end(worker, KILLED, restart=True)
    assert worker.due_s == clock.now_s
    assert worker.failures == 0


def test_ended_worker_is_marked_down_and_counted(
    supervisor: Supervisor, clock: Clock, worker: Child, shared: SharedState, tmp_path: Path
) -> None:
    shared.worker_status.mark_up(0)
    run_for(clock, worker, 1.0)
    supervisor.record_end(worker, KILLED, restart=True)
    assert shared.worker_status.workers_up == 0
    assert worker.pid == 0
    (line,) = lines(tmp_path)
    assert (line["event"], line["child"], line["pid"]) == ("process_ended", "worker-0", PID)
    assert (line["code"], line["reason"]) == (-signal.SIGKILL, "killed")
    assert [shared.heartbeats.ends(0, end) for end in End] == [0, 1, 0]


def test_child_that_ends_normally_at_shutdown_is_not_logged(
    supervisor: Supervisor, clock: Clock, worker: Child, tmp_path: Path
) -> None:
    run_for(clock, worker, 1.0)
    supervisor.record_end(worker, 0, restart=False)
    assert worker.due_s is None
    assert lines(tmp_path) == []


def test_supervisor_sleeps_until_the_next_check_or_until_a_child_is_due(
    supervisor: Supervisor, clock: Clock, worker: Child
) -> None:
    worker.due_s = None
    assert supervisor.pause_s() == START_POLL_S
    worker.due_s = clock.now_s - 1
    assert supervisor.pause_s() == 0.0


def test_gauges_of_an_ended_process_are_removed(
    supervisor: Supervisor, clock: Clock, worker: Child, shared: SharedState
) -> None:
    counts = Counts()
    counts.publish_in(shared.metrics.part(0))
    counts.gauges[Gauge.VIEWERS] = 5
    counts.flush()
    assert b"streamedge_viewers 5.0" in shared.metrics.exposition()
    run_for(clock, worker, 1.0)
    supervisor.record_end(worker, KILLED, restart=True)
    assert b"streamedge_viewers" not in shared.metrics.exposition()


def pass_time(supervisor: Supervisor, clock: Clock, seconds: float) -> None:
    """Lets ``seconds`` pass, with a check in each."""
    for _look in range(round(seconds / CHECK_INTERVAL_S)):
        clock.now_s += CHECK_INTERVAL_S
        supervisor.check()


def test_worker_without_heartbeats_is_aborted_for_its_stack_and_then_killed(
    supervisor: Supervisor, clock: Clock, worker: Child, shared: SharedState, tmp_path: Path
) -> None:
    run_for(clock, worker, 1.0)
    shared.heartbeats.beat(0)
    pass_time(supervisor, clock, HUNG_S)
    assert clock.sent == []
    pass_time(supervisor, clock, 1)
    assert clock.sent == [signal.SIGABRT]
    pass_time(supervisor, clock, ABORT_TIMEOUT_S)
    assert clock.sent == [signal.SIGABRT, signal.SIGKILL]
    supervisor.record_end(worker, KILLED, restart=True)
    hung, ended = lines(tmp_path)
    assert (hung["event"], hung["child"], hung["silent_s"]) == ("process_hung", "worker-0", HUNG_S)
    assert ended["reason"] == "hung"
    assert shared.heartbeats.ends(0, End.HUNG) == 1
    assert worker.due_s == clock.now_s


def test_supervisor_that_was_suspended_kills_no_worker(
    supervisor: Supervisor, clock: Clock, worker: Child, shared: SharedState
) -> None:
    run_for(clock, worker, 1.0)
    for _suspended in range(4):
        shared.heartbeats.beat(0)
        pass_time(supervisor, clock, 3)
        clock.now_s += 3600
        supervisor.check()
    assert clock.sent == []


def test_time_waiting_for_a_processor_does_not_count_as_silence(
    supervisor: Supervisor,
    clock: Clock,
    worker: Child,
    shared: SharedState,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child_module, "waited_for_processor_s", lambda _pid: clock.now_s)
    run_for(clock, worker, 1.0)
    shared.heartbeats.beat(0)
    pass_time(supervisor, clock, 100)
    assert clock.sent == []


def test_worker_under_a_debugger_is_not_killed(
    supervisor: Supervisor,
    clock: Clock,
    worker: Child,
    shared: SharedState,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child_module, "is_traced", lambda _pid: True)
    run_for(clock, worker, 1.0)
    shared.heartbeats.beat(0)
    pass_time(supervisor, clock, 100)
    assert clock.sent == []


def test_failed_fork_is_retried_later(
    supervisor: Supervisor,
    clock: Clock,
    worker: Child,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    pauses = []
    for _attempt in range(6):
        supervisor.start(worker)
        assert worker.pid == 0
        assert worker.due_s is not None
        pauses.append(worker.due_s - clock.now_s)
    assert pauses == pytest.approx([*RESTART_BACKOFF_S[1:], *[RESTART_BACKOFF_S[-1]] * 2])
    assert [line["child"] for line in lines(tmp_path, "process_not_started")] == ["worker-0"] * 6
    monkeypatch.setattr(os, "fork", lambda: PID)
    supervisor.start(worker)
    assert (worker.pid, worker.due_s) == (PID, None)


def test_watchdog_is_kept_alive_only_while_control_and_a_worker_are(
    clock: Clock, shared: SharedState, worker: Child, tmp_path: Path
) -> None:
    manager = NotifySocket(tmp_path / "notify")
    control = Child("control", 1, lambda: None, is_worker=False)
    variables = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "1000000"}
    log = open_log(shared.log_target, "supervisor")
    supervisor = Supervisor(
        log, shared, [worker, control], lambda: None, Config(), ServiceManager(variables)
    )

    def is_kept_alive() -> bool:
        clock.now_s += 1
        supervisor.notify_manager()
        return {"WATCHDOG": "1"} in manager.take_waiting()

    assert not is_kept_alive()
    for child in (worker, control):
        run_for(clock, child, 1.0)
        assert not is_kept_alive()
        shared.heartbeats.beat(child.index)
        supervisor.check()
    assert is_kept_alive()
    control.pid = 0  # it has ended, and is due to be started again
    assert not is_kept_alive()
    control.pid = PID
    assert is_kept_alive()
    pass_time(supervisor, clock, HUNG_S + 1)
    assert not is_kept_alive()
    control.close()
    manager.close()
    log.close()


def _fail() -> None:
    raise RuntimeError("of ours")


def _crash() -> None:
    os.abort()


@pytest.mark.parametrize(
    ("main", "expected"), [(_fail, "RuntimeError: of ours"), (_crash, "in _crash")]
)
def test_stack_of_a_failed_process_is_in_the_log(
    shared: SharedState, tmp_path: Path, main: Callable[[], None], expected: str
) -> None:
    child = Child("worker-0", 0, main, is_worker=True)
    log = open_log(shared.log_target, "supervisor")
    supervisor = Supervisor(log, shared, [child], lambda: None, Config())
    supervisor.start(child)
    _pid, status = os.waitpid(child.pid, 0)
    supervisor.record_end(child, status, restart=True)
    (line,) = lines(tmp_path, "process_ended")
    assert expected in "\n".join(line["stack"])
    child.close()
    log.close()


def test_process_that_cannot_be_killed_does_not_block_the_shutdown(
    supervisor: Supervisor,
    clock: Clock,
    worker: Child,
    shared: SharedState,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wait(_signals: object, seconds: float) -> None:
        clock.now_s += seconds
        shared.heartbeats.beat(0)

    monkeypatch.setattr(signal, "sigtimedwait", wait)
    run_for(clock, worker, 1.0)
    began_s = clock.now_s
    supervisor.stop()
    assert clock.now_s - began_s < 70
    assert clock.sent[0] is signal.SIGTERM
    assert set(clock.sent) == {signal.SIGTERM, signal.SIGKILL}
    expected = lines(tmp_path, "process_not_ended")
    assert {line["child"] for line in expected} == {"worker-0"}
