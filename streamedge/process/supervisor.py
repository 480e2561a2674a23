"""The supervisor of the edge: forks the processes, replaces those that end or hang.

    supervisor ──fork──▸ worker 0 … N-1   serve viewers
               ──fork──▸ control          admin address, eviction

The supervisor has no event loop and no threads, so that it can fork at any time and its children
share the modules that it has imported. SIGTERM or SIGINT ends the edge: workers drain, then the
cache folder is marked clean; a second one ends it without waiting for viewers. SIGHUP reloads the
config file (``process.reload``); SIGHUP and SIGUSR1 reopen the log file. SIGUSR2 replaces the
program (``process.handover``). A child whose supervisor has ended drains by itself.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from streamedge.config.schema.config import Config
from streamedge.coordination.heartbeats import Heartbeats
from streamedge.coordination.shared_state import SharedState
from streamedge.coordination.upgrade_status import Upgrade, UpgradeState
from streamedge.ops.background import stack_of
from streamedge.ops.log import Log
from streamedge.process.child import Child
from streamedge.process.handover import Handover, Trial, execute
from streamedge.process.notify import ServiceManager
from streamedge.process.upgrade.transition import Phase, Transition
from streamedge.process.worker_end import DRAIN_S

LOG_RETRY_S = 0.05  # while the reader of the log is slow
CHECK_INTERVAL_S = 1.0
# Until all workers are up: the supervisor waits for signals, and a worker sends it none.
START_POLL_S = 0.02
CONTROL_ENDS_S = 20.0  # it delivers the access logs
KILL_TIMEOUT_S = 5.0  # after SIGKILL
ABORT_S = 3.0  # for children to end after a second signal
TRIAL_TIMEOUT_S = 60.0
SIGNALS = {
    signal.SIGCHLD,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
}

HandOver = Callable[[Sequence[Child], int], Handover]
"""What the next program gets, of the running children and the memory with its config."""


class Supervisor:
    """The loop that handles signals and children."""

    def __init__(
        self,
        log: Log,
        shared: SharedState,
        children: Sequence[Child],
        reload: Callable[[], None],
        bound: Config,
        manager: ServiceManager | None = None,
        *,
        transition: Transition | None = None,
        hand_over: HandOver | None = None,
    ) -> None:
        """``bound``: the config with the bound addresses in place of port 0.

        ``manager``: the service manager; by default the one that started this process.
        ``transition``: from processes before an upgrade, if there are any.
        """
        self._log = log
        self._bound = bound
        self._manager = ServiceManager(os.environ) if manager is None else manager
        self._shared = shared
        self._worker_status = shared.worker_status
        self._children = children
        self._reload = reload
        self._transition = transition
        self._hand_over = hand_over
        self._trial: Trial | None = None
        self._trial_until_s = 0.0
        self._has_printed_banner = False
        self._is_ready = False
        self._checked_s = time.monotonic()

    def run(self) -> None:
        """Runs until SIGTERM or SIGINT; returns when all children have ended."""
        self._reap(restart=True)  # those that have ended while the program was replaced
        while self._children or self._previous_children:
            if self._transition is not None:
                self._transition.step()
            for child in self._children:
                if child.due_s is not None and child.due_s <= time.monotonic():
                    self.start(child)
            if not self._has_printed_banner and self._children and self._worker_status.all_up:
                self._has_printed_banner = True
                if self._transition is None:
                    self._print_banner()
            self.notify_manager()
            siginfo = signal.sigtimedwait(SIGNALS, self.pause_s())
            self.check()
            if siginfo is None:
                self._log.flush()
            elif siginfo.si_signo == signal.SIGCHLD:
                self._reap(restart=True)
            elif siginfo.si_signo == signal.SIGUSR1:
                self._reopen_log()
            elif siginfo.si_signo == signal.SIGHUP:
                self._reopen_log()
                self._reload_config()
            elif siginfo.si_signo == signal.SIGUSR2:
                self._guard("upgrade", self._try_upgrade)
            else:
                break
        self.stop()

    def pause_s(self) -> float:
        """Seconds until the next check or a child is due; short until all workers are up."""
        is_up = self._has_printed_banner and (self._is_ready or not self._manager.is_present)
        if self._transition is not None:
            is_up = self._transition.phase in {Phase.RETIRING, Phase.DONE, Phase.FAILED}
        pause_s = CHECK_INTERVAL_S if is_up else START_POLL_S
        if self._manager.watchdog_interval_s is not None:
            pause_s = min(pause_s, self._manager.watchdog_interval_s)
        if self._log.unwritten_bytes:
            pause_s = min(pause_s, LOG_RETRY_S)
        due = [child.due_s for child in self._children if child.due_s is not None]
        if due:
            pause_s = min(pause_s, max(0.0, min(due) - time.monotonic()))
        return pause_s

    def start(self, child: Child) -> None:
        """Forks a child; a failed fork is retried later while the others serve."""
        self._log.flush()
        try:
            is_child = child.fork(self._shared.heartbeats)
        except OSError as exc:
            self._log.event("process_not_started", child=child.name, error=str(exc))
            self._log.flush()
            return
        if is_child:
            # A terminal signals all processes; only the supervisor acts on it.
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            self._log.close()
            child.run_forked()

    def check(self, *, is_draining: bool = False) -> None:
        """Ends children that hang; does nothing right after the previous check."""
        now_s = time.monotonic()
        elapsed_s = now_s - self._checked_s
        if elapsed_s < CHECK_INTERVAL_S / 2:
            return
        self._checked_s = now_s
        for child, heartbeats in self._running():
            child.check(heartbeats, elapsed_s, self._log, is_draining=is_draining)
        if self._trial is not None and now_s > self._trial_until_s:
            os.kill(self._trial.pid, signal.SIGKILL)

    @property
    def _previous_children(self) -> list[Child]:
        """Processes from before an upgrade that still run."""
        if self._transition is None:
            return []
        return [child for child in self._transition.previous.children if child.pid]

    def _running(self) -> list[tuple[Child, Heartbeats]]:
        """The running processes, with the memory in which each writes its heartbeats."""
        running = [(child, self._shared.heartbeats) for child in self._children if child.pid]
        if self._transition is not None:
            heartbeats = self._transition.previous.heartbeats
            running += [(child, heartbeats) for child in self._previous_children]
        return running

    def _reload_config(self) -> None:
        self._manager.reloading("reads the config file")
        self._guard("reload", self._reload)
        if self._is_ready:
            self._manager.ready(self._status())

    def notify_manager(self) -> None:
        """Reports to the service manager that all processes are up; later, that they are alive."""
        if not self._manager.is_present:
            return
        heartbeats = self._shared.heartbeats
        has_failed = self._transition is not None and self._transition.phase is Phase.FAILED
        if self._is_ready:
            self._manager.status(self._status())
        elif has_failed or (
            self._worker_status.all_up
            and all(heartbeats.last_beat(child.index) for child in self._children)
        ):
            self._is_ready = True
            self._manager.ready(self._status())
        alive = [child.is_worker for child, beats in self._running() if child.is_alive(beats)]
        if True in alive and False in alive:
            self._manager.keep_alive(time.monotonic())

    def _status(self) -> str:
        """One line about the edge, for ``systemctl status``."""
        status = self._worker_status
        if self._transition is not None and self._transition.phase is Phase.FAILED:
            return "an upgrade has failed: the workers from before it serve"
        text = f"{status.workers_up} of {len(status.workers)} workers serve"
        if retiring := sum(child.is_worker for child in self._previous_children):
            text += f"; {retiring} from before the upgrade serve their last viewers"
        return text

    def record_end(self, child: Child, status: int, *, restart: bool) -> None:
        """Records and logs that a child has ended."""
        pid, code, shared = child.pid, os.waitstatus_to_exitcode(status), self._shared
        is_previous = child not in self._children
        end = child.record_end(status, restart=restart and not is_previous)
        own_parts = len(self._children) + 1  # and one for the totals of earlier processes
        try:
            shared.metrics.forget_gauges(child.index + own_parts * is_previous)
        except OSError as exc:
            self._log.event("metrics_not_written", error=str(exc))
        if child.is_worker and not is_previous:
            self._worker_status.mark_down(child.index)
            shared.wakeups.notify_at(shared.wakeups.control)
        rows = shared.previous_viewer_rows if is_previous else shared.viewer_rows
        if child.is_worker and rows is not None:
            rows.forget(child.index)
        if restart and not is_previous:
            shared.heartbeats.count_end(child.index, end)
        if code or (restart and not is_previous):
            self._log.event(
                "process_ended",
                child=child.name,
                pid=pid,
                code=code,
                reason=end.name.lower(),
                stack=child.stack(),
            )
        self._log.flush()

    def stop(self) -> None:
        """Ends the workers, then the control process; another signal aborts the drain."""
        self._log.event("edge_draining")
        self._log.flush()
        if self._trial is not None:
            os.kill(self._trial.pid, signal.SIGKILL)
        self._manager.stopping("lets viewers finish")
        if self._shared.fleet is not None:
            self._shared.fleet.note_stopping()
        children = [*self._children, *self._previous_children]
        self._end([child for child in children if child.is_worker], DRAIN_S + 5.0)
        self._end(children, CONTROL_ENDS_S)

    def _end(self, children: Sequence[Child], timeout_s: float) -> None:
        """Sends SIGTERM and waits for the children; kills those that take too long."""
        for child in children:
            child.signal(signal.SIGTERM)
        deadline_s = time.monotonic() + timeout_s
        while True:
            self._reap(restart=False)
            if not any(child.pid for child in children):
                return
            late_s = time.monotonic() - deadline_s
            if late_s > KILL_TIMEOUT_S:
                for child in children:
                    if child.pid:  # blocked in the kernel, such as by a disk that does not respond
                        self._log.event("process_not_ended", child=child.name, pid=child.pid)
                return
            if late_s > 0:
                for child in children:
                    child.signal(signal.SIGKILL)
            self.check(is_draining=True)
            self._manager.keep_alive(time.monotonic())
            siginfo = signal.sigtimedwait(SIGNALS - {signal.SIGHUP}, CHECK_INTERVAL_S / 2)
            if siginfo is None:
                self._log.flush()
            elif siginfo.si_signo == signal.SIGUSR1:
                self._reopen_log()
            elif siginfo.si_signo != signal.SIGCHLD:
                self._log.event("edge_drain_aborted")
                deadline_s = min(deadline_s, time.monotonic() + ABORT_S)
                for child in children:
                    child.signal(signal.SIGTERM)

    def _reap(self, *, restart: bool) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._trial is not None and self._trial.pid == pid:
                self._end_trial(status, may_upgrade=restart)
            has_failed = self._transition is not None and self._transition.phase is Phase.FAILED
            for child in self._children:
                if child.pid == pid:
                    self.record_end(child, status, restart=restart and not has_failed)
            for child in self._previous_children:
                if child.pid == pid:
                    self.record_end(child, status, restart=restart)
                    if self._transition is not None and restart:
                        self._transition.previous_ended()

    # --- upgrades -----------------------------------------------------------------------------

    def _try_upgrade(self) -> None:
        """Starts a trial of the new program, unless an upgrade is not possible now."""
        attempts = self._shared.upgrade.read().attempts + 1
        reason = self._upgrade_obstacle()
        if reason:
            self._refuse_upgrade(attempts, [reason])
            return
        self._shared.upgrade.write(Upgrade(attempts, UpgradeState.TRYING))
        workers = len(self._worker_status.workers)
        if self._transition is not None and self._transition.phase is Phase.FAILED:
            workers = len(self._transition.previous.slots)
        try:
            self._trial = Trial(self._bound.edge.cache, workers)
        except OSError as exc:
            self._refuse_upgrade(attempts, [f"the new program cannot be started: {exc}"])
            return
        self._trial_until_s = time.monotonic() + TRIAL_TIMEOUT_S

    def _upgrade_obstacle(self) -> str:
        """Why there can be no upgrade now; "" if there can."""
        if self._trial is not None:
            return "another upgrade is being tried"
        if self._transition is not None and not self._transition.allows_upgrade:
            return (
                "workers from before the last upgrade still serve viewers: wait until they have"
                " ended (edge.drain), or restart the edge"
            )
        if self._hand_over is None or not (self._worker_status.all_up or self._transition):
            return "the edge is starting"
        return ""

    def _refuse_upgrade(self, attempts: int, reasons: Sequence[str]) -> None:
        self._shared.upgrade.write(Upgrade(attempts, UpgradeState.REFUSED, tuple(reasons)))
        self._log.event("upgrade_refused", reasons=list(reasons))
        self._log.flush()

    def _end_trial(self, status: int, *, may_upgrade: bool) -> None:
        """The trial has ended: replaces this program, or reports why not."""
        trial, self._trial = self._trial, None
        if trial is None or self._hand_over is None:
            return
        code, reasons = os.waitstatus_to_exitcode(status), trial.reasons()
        upgrade = self._shared.upgrade.read()
        if code == 0 and may_upgrade:
            self._shared.upgrade.write(replace(upgrade, state=UpgradeState.STARTING))
            self._log.event("upgrade_started")
            self._log.finish()
            self._manager.reloading("starts the new program")
            try:
                execute(self._hand_over(self._children, trial.config))
            except OSError as exc:
                reasons = [f"the new program cannot be started: {exc}"]
                self._manager.ready(self._status())
        if code == -signal.SIGKILL:
            reasons = [*reasons, f"its trial was ended after {TRIAL_TIMEOUT_S:.0f} s"]
        self._refuse_upgrade(upgrade.attempts, reasons or [f"its trial ended with code {code}"])
        trial.close()

    def _reopen_log(self) -> None:
        """Makes each process reopen the log file, which may have been renamed."""
        self._shared.log_target.request_reopen()
        self._log.event("log_reopened")
        self._log.flush()

    def _print_banner(self) -> None:
        from streamedge.process.banner import print_banner  # noqa: PLC0415  # after the workers are up

        self._guard("banner", lambda: print_banner(self._bound))

    def _guard(self, task: str, work: Callable[[], None]) -> None:
        """Runs ``work``; a failure is logged and does not end the edge."""
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - viewers are served whatever fails here
            self._log.event("supervisor_failed", task=task, error=repr(exc), stack=stack_of(exc))
            self._log.flush()
