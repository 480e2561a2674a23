"""``streamedge serve``: binds sockets, forks the processes, replaces those that end or hang.

    supervisor ──fork──▸ worker 0 … N-1   serve viewers
               ──fork──▸ control          admin address, eviction

The supervisor has no event loop and no threads, so that it can fork at any time and its children
share the modules that it has imported. SIGTERM or SIGINT ends the edge: workers drain, then the
cache folder is marked clean; a second one ends it without waiting for viewers. SIGHUP reloads the
config file (``process.reload``); SIGHUP and SIGUSR1 reopen the log file. A child whose supervisor
has ended drains by itself.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from streamedge.access.geo import CountryDatabase, CountryDatabaseError
from streamedge.build.origins_and_web import writes_back
from streamedge.cache.storage.folder import WORKERS_MAX, FolderInUseError, lock_folder
from streamedge.cache.storage.store import close_folder, prepare_folder
from streamedge.config.schema.config import Config
from streamedge.config.schema.units import format_address, format_admin_address
from streamedge.control.recovery import prepare_control_database
from streamedge.coordination.config_versions import ConfigVersions
from streamedge.coordination.fleet_status import FleetStatus
from streamedge.coordination.heartbeats import Heartbeats
from streamedge.coordination.live_edges import SharedLiveEdges
from streamedge.coordination.shared_state import SharedState, WorkerStatus
from streamedge.coordination.viewer_rows import ViewerRows
from streamedge.coordination.wakeups import Wakeups
from streamedge.errors import StreamEdgeError
from streamedge.logs.batches import SPOOL_FOLDER, prepare_spool
from streamedge.ops.background import stack_of
from streamedge.ops.log import Log, open_log
from streamedge.ops.log_output import LogTarget
from streamedge.ops.metrics import SharedMetrics
from streamedge.process.child import Child
from streamedge.process.descriptors import descriptor_limit, open_descriptors, share_descriptors
from streamedge.process.listeners import (
    WorkerListeners,
    bind_admin,
    bind_listeners,
    close_admin,
    with_bound_addresses,
)
from streamedge.process.notify import ServiceManager
from streamedge.process.reload import ConfigReloader
from streamedge.process.worker import DRAIN_S, WorkerContext, run_worker
from streamedge.write_back.queue import prepare_write_queue
from streamedge.write_back.rows import WriteQueueError

if TYPE_CHECKING:
    from streamedge.process.certificates import Certificates

CONTROL_WAIT_S = 2.0  # for the workers; one of them may never come up
LOG_RETRY_S = 0.05  # while the reader of the log is slow
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}  # of file systems without locks
CHECK_INTERVAL_S = 1.0
# Until all workers are up: the supervisor waits for signals, and a worker sends it none.
START_POLL_S = 0.02
CONTROL_ENDS_S = 20.0  # it delivers the access logs
KILL_TIMEOUT_S = 5.0  # after SIGKILL
ABORT_S = 3.0  # for children to end after a second signal
SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}


def serve(config: Config, file: Path) -> int:
    """Runs the edge until SIGTERM or SIGINT; returns the exit code.

    ``config`` is the content of ``file``, which is read again on SIGHUP.
    """
    try:
        log_target = LogTarget(str(config.edge.log))
        log = open_log(log_target, "supervisor", config.limits.log_buffer)
        workers = min(config.edge.workers or len(os.sched_getaffinity(0)), WORKERS_MAX)
        listen = config.listen
        listeners = bind_listeners(
            listen.http,
            listen.rtmp,
            workers,
            listen.https,
            [listen.fleet] if listen.fleet is not None and config.fleet.engine else [],
            listen.rtmps,
            listen.mixed,
        )
        admin = bind_admin(config.listen.admin)
        certificates = _certificates(config)
        countries = CountryDatabase(config.countries.database)
    except CountryDatabaseError as exc:
        print(f"streamedge: cannot load the country database: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    except StreamEdgeError as exc:
        print(f"streamedge: cannot serve TLS: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    except OSError as exc:
        print(f"streamedge: {exc.strerror or exc}", file=sys.stderr)  # noqa: T201
        return 1
    _raise_file_limit()
    os.umask(0o077)  # only the edge may read its files, unless a file's mode is set explicitly
    try:
        folder_lock = _prepare(config, log)
    except FolderInUseError as exc:
        print(f"streamedge: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    except (OSError, WriteQueueError) as exc:
        log.flush()
        print(f"streamedge: cannot store writes: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # Imported objects are never freed: children must neither collect nor copy them.
    gc.freeze()
    gc.enable()  # the command disabled it during the imports
    config_versions, wakeups = ConfigVersions(config, workers), Wakeups(workers)
    reloader = ConfigReloader(file, config_versions, certificates, countries, wakeups, log)
    shared = SharedState(
        config_versions,
        wakeups,
        WorkerStatus(workers),
        Heartbeats([*(f"worker-{number}" for number in range(workers)), "control"]),
        SharedMetrics(workers + 1),
        ViewerRows(workers),
        log_target,
        writes_back(config),
        FleetStatus() if config.fleet.engine else None,
        SharedLiveEdges() if config.fleet.engine else None,
    )
    budget = share_descriptors(config, descriptor_limit(), open_descriptors())
    if budget.is_short:
        log.event(
            "descriptors_limited",
            limit=budget.limit,
            needed=budget.needed,
            connections=budget.connections,
            open_extents=budget.open_extents,
            advice="raise RLIMIT_NOFILE: ulimit -n, or LimitNOFILE= of a systemd unit",
        )
    processes = _Processes(shared, listeners, admin, certificates, countries, folder_lock)
    bound = with_bound_addresses(config, listeners[0], admin)
    addresses = {
        name: [format_address(address) for address in getattr(bound.listen, name)]
        for name in ("http", "https", "rtmp", "rtmps", "mixed")
    }
    admin_address = format_admin_address(bound.listen.admin)
    log.event("edge_starting", **addresses, admin=admin_address, workers=workers)
    try:
        Supervisor(log, shared, processes.children(), reloader.reload, bound).run()
    finally:
        if folder_lock is not None:
            _close_folder(config.edge.cache, log)
        close_admin(admin)
        log.event("edge_down")
        log.finish()
    return 0


class _Processes:
    """The main functions of the forked processes."""

    def __init__(
        self,
        shared: SharedState,
        listeners: Sequence[WorkerListeners],
        admin: socket.socket,
        certificates: Certificates | None,
        countries: CountryDatabase,
        folder_lock: int | None,
    ) -> None:
        self._shared = shared
        self._listeners = listeners
        self._admin = admin
        self._certificates = certificates
        self._countries = countries
        # Children hold the reading end, which becomes readable when the supervisor's end closes.
        self._lifeline, supervisor_end = os.pipe()
        self._supervisor_only = [supervisor_end]
        if folder_lock is not None:
            self._supervisor_only.append(folder_lock)

    def children(self) -> list[Child]:
        """All processes to fork; the control process is the last."""
        control = len(self._listeners)
        return [
            *(
                Child(f"worker-{number}", number, partial(self._work, number), is_worker=True)
                for number in range(control)
            ),
            Child("control", control, self._control, is_worker=False),
        ]

    def _work(self, number: int) -> None:
        self._close_supervisor_descriptors()
        listeners = self._listeners[number]
        run_worker(
            WorkerContext(
                number,
                listeners,
                self._certificates,
                self._countries,
                self._shared,
                self._lifeline,
            )
        )

    def _control(self) -> None:
        """Waits for the workers first, then imports the modules of the admin address."""
        self._close_supervisor_descriptors()
        until_s = time.monotonic() + CONTROL_WAIT_S
        wakeups = self._shared.wakeups
        while not self._shared.worker_status.all_up and time.monotonic() < until_s:
            wakeups.wait(wakeups.control, until_s - time.monotonic())
        from streamedge.process.control import run_control  # noqa: PLC0415

        run_control(self._shared, self._admin, self._lifeline)

    def _close_supervisor_descriptors(self) -> None:
        """Closes descriptors that must close when the supervisor ends, while its children drain."""
        for descriptor in self._supervisor_only:
            os.close(descriptor)


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
    ) -> None:
        """``bound``: the config with the bound addresses in place of port 0.

        ``manager``: the service manager; by default the one that started this process.
        """
        self._log = log
        self._bound = bound
        self._manager = ServiceManager(os.environ) if manager is None else manager
        self._shared = shared
        self._worker_status = shared.worker_status
        self._children = children
        self._reload = reload
        self._has_printed_banner = False
        self._is_ready = False
        self._checked_s = time.monotonic()

    def run(self) -> None:
        """Runs until SIGTERM or SIGINT; returns when all children have ended."""
        while True:
            for child in self._children:
                if child.due_s is not None and child.due_s <= time.monotonic():
                    self.start(child)
            if not self._has_printed_banner and self._worker_status.all_up:
                self._has_printed_banner = True
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
            else:
                break
        self.stop()

    def pause_s(self) -> float:
        """Seconds until the next check or a child is due; short until all workers are up."""
        is_up = self._has_printed_banner and (self._is_ready or not self._manager.is_present)
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
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
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
        for child in self._children:
            if child.pid:
                child.check(self._shared.heartbeats, elapsed_s, self._log, is_draining=is_draining)

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
        if self._is_ready:
            self._manager.status(self._status())
        elif self._worker_status.all_up and all(
            heartbeats.last_beat(child.index) for child in self._children
        ):
            self._is_ready = True
            self._manager.ready(self._status())
        alive = [child.is_worker for child in self._children if child.is_alive(heartbeats)]
        if True in alive and False in alive:
            self._manager.keep_alive(time.monotonic())

    def _status(self) -> str:
        """One line about the edge, for ``systemctl status``."""
        status = self._worker_status
        return f"{status.workers_up} of {len(status.workers)} workers serve"

    def record_end(self, child: Child, status: int, *, restart: bool) -> None:
        """Records and logs that a child has ended."""
        pid, code = child.pid, os.waitstatus_to_exitcode(status)
        end = child.record_end(status, restart=restart)
        try:
            self._shared.metrics.forget_gauges(child.index)
        except OSError as exc:
            self._log.event("metrics_not_written", error=str(exc))
        if child.is_worker:
            self._worker_status.mark_down(child.index)
            self._shared.wakeups.notify_at(self._shared.wakeups.control)
        if restart:
            self._shared.heartbeats.count_end(child.index, end)
        if restart or code:
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
        self._manager.stopping("lets viewers finish")
        if self._shared.fleet is not None:
            self._shared.fleet.note_stopping()
        self._end([child for child in self._children if child.is_worker], DRAIN_S + 5.0)
        self._end(self._children, CONTROL_ENDS_S)

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
            for child in self._children:
                if child.pid == pid:
                    self.record_end(child, status, restart=restart)

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


def _certificates(config: Config) -> Certificates | None:
    """The certificates of all workers; None without listeners for TLS."""
    if not config.serves_tls:
        return None
    from streamedge.process.certificates import Certificates, configured_files, http2_hosts  # noqa: PLC0415  # plain HTTP starts without it

    return Certificates(configured_files(config), http2_hosts(config))


def _prepare(config: Config, log: Log) -> int | None:
    """Locks and prepares the cache folder; returns the descriptor of the lock.

    Returns None if the folder cannot be used: objects are then fetched for each viewer. If a
    behavior writes back, which needs the folder, raises OSError, WriteQueueError. Raises
    FolderInUseError.
    """
    folder = config.edge.cache
    lock = None
    try:
        try:
            lock = lock_folder(folder)
        except OSError as exc:
            if exc.errno not in _NO_LOCKS:
                raise
            log.event("cache_folder_not_locked", folder=str(folder), error=str(exc))
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for repair in prepare_folder(folder):
            log.event("cache_folder_repaired", folder=str(folder), repair=repair)
        prepare_spool(folder / SPOOL_FOLDER)
        prepare_control_database(folder, log)
        if writes_back(config):
            prepare_write_queue(folder)
    except (OSError, WriteQueueError) as exc:
        log.event("cache_folder_refused", folder=str(folder), error=str(exc))
        if lock is not None:
            os.close(lock)
        if writes_back(config):
            raise
        return None
    return lock


def _close_folder(folder: Path, log: Log) -> None:
    try:
        close_folder(folder)
    except OSError as exc:
        log.event("cache_folder_not_closed", folder=str(folder), error=str(exc))


def _raise_file_limit() -> None:
    """Raises the limit of open files to the hard limit."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
