"""``streamedge serve``: binds the sockets, starts the processes, replaces those that die or hang.

    supervisor ──fork──▸ worker 0 … N-1   serve viewers
               ──fork──▸ control          admin address, eviction

The supervisor runs no event loop and starts no thread, so that it can fork at any time and its
children share what it has imported. SIGTERM or SIGINT ends the edge: workers drain, then the cache
folder is marked clean; a second one ends it without waiting for viewers. SIGHUP has the config file
read again (``reloading``), SIGHUP and SIGUSR1 have the log file opened anew. A child that finds its
supervisor gone drains by itself.
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
from streamedge.control.recovery import prepare_control_database
from streamedge.coordination.config_versions import ConfigVersions
from streamedge.coordination.heartbeats import Heartbeats
from streamedge.coordination.shared_state import SharedState, WorkerStatus
from streamedge.coordination.wakeups import Wakeups
from streamedge.errors import StreamEdgeError
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
    spelled,
    with_bound_addresses,
)
from streamedge.process.reload import ConfigReloader
from streamedge.process.worker import DRAIN_S, WorkerContext, run_worker
from streamedge.write_back.queue import prepare_write_queue
from streamedge.write_back.rows import WriteQueueError

if TYPE_CHECKING:
    from streamedge.process.certificates import Certificates

CONTROL_WAIT_S = 2.0  # at most: a worker may not come up at all
CONTROL_LOOK_S = 0.01
LOG_RETRY_S = 0.05  # while the log's reader is slow
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}  # of file systems without locks
LOOK_INTERVAL_S = 1.0
START_LOOK_S = 0.02  # until all are up
CONTROL_ENDS_S = 10.0
GIVE_UP_S = 5.0  # after SIGKILL
HURRY_S = 3.0  # for children to end once they were told a second time
SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}


def serve(config: Config, file: Path) -> int:
    """Runs the edge until SIGTERM or SIGINT; returns the process's exit code.

    ``config`` is what ``file`` says; SIGHUP has it read anew.
    """
    try:
        log_target = LogTarget(str(config.edge.log))
        log = open_log(log_target, "supervisor", config.limits.log_buffer)
        workers = min(config.edge.workers or len(os.sched_getaffinity(0)), WORKERS_MAX)
        listeners = bind_listeners(
            config.listen.http, config.listen.rtmp, workers, config.listen.https
        )
        admin = bind_admin(config.listen.admin)
        certificates = _certificates(config)
        countries = CountryDatabase(config.countries.database)
    except CountryDatabaseError as exc:
        print(f"streamedge: cannot tell countries: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    except StreamEdgeError as exc:
        print(f"streamedge: cannot serve HTTPS: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    except OSError as exc:
        print(f"streamedge: {exc.strerror or exc}", file=sys.stderr)  # noqa: T201
        return 1
    _raise_file_limit()
    os.umask(0o077)  # what the edge makes is its own to read, but for a file that says otherwise
    try:
        folder_lock = _prepare(config, log)
    except FolderInUseError as exc:
        print(f"streamedge: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    except (OSError, WriteQueueError) as exc:
        log.flush()
        print(f"streamedge: cannot keep writes: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # What has been imported stays: children need not look at it for garbage, nor copy it.
    gc.freeze()
    gc.enable()  # the command turned it off while all this was imported
    config_versions, wakeups = ConfigVersions(config, workers), Wakeups(workers)
    reloading = ConfigReloader(file, config_versions, certificates, countries, wakeups, log)
    shared = SharedState(
        config_versions,
        wakeups,
        WorkerStatus(workers),
        Heartbeats([*(f"worker-{number}" for number in range(workers)), "control"]),
        SharedMetrics(workers + 1),
        log_target,
        writes_back(config),
    )
    budget = share_descriptors(config, descriptor_limit(), open_descriptors())
    if budget.is_short:
        log.event(
            "descriptors_limited",
            limit=budget.limit,
            wanted=budget.wanted,
            connections=budget.connections,
            open_extents=budget.open_extents,
            advice="raise RLIMIT_NOFILE: ulimit -n, or LimitNOFILE= of a systemd unit",
        )
    processes = _Processes(shared, listeners, admin, certificates, countries, folder_lock)
    bound = with_bound_addresses(config, listeners[0], admin)
    addresses = {
        name: [spelled(address) for address in getattr(bound.listen, name)]
        for name in ("http", "https", "rtmp")
    }
    log.event("edge_starting", **addresses, admin=spelled(bound.listen.admin), workers=workers)
    try:
        Supervisor(log, shared, processes.children(), reloading.reload, bound).run()
    finally:
        if folder_lock is not None:
            _close_folder(config.edge.cache, log)
        log.event("edge_down")
        log.finish()
    return 0


class _Processes:
    """What the edge's processes do once they are forked."""

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
        # Children hold the reading end: it becomes readable when the writing end, here, closes.
        self._lifeline, life = os.pipe()
        self._supervisors_own = [life] if folder_lock is None else [life, folder_lock]

    def children(self) -> list[Child]:
        """All of them; the control process is the last."""
        control = len(self._listeners)
        return [
            *(
                Child(f"worker-{number}", number, partial(self._work, number), is_worker=True)
                for number in range(control)
            ),
            Child("control", control, self._control, is_worker=False),
        ]

    def _work(self, number: int) -> None:
        self._leave_supervisor()
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
        """Viewers come first: what the admin address needs is imported once they are served."""
        self._leave_supervisor()
        until_s = time.monotonic() + CONTROL_WAIT_S
        while not self._shared.worker_status.all_up and time.monotonic() < until_s:
            time.sleep(CONTROL_LOOK_S)
        from streamedge.process.control import run_control  # noqa: PLC0415

        run_control(self._shared, self._admin, self._lifeline)

    def _leave_supervisor(self) -> None:
        """Closes what has to go when the supervisor goes, though its children drain for a while."""
        for descriptor in self._supervisors_own:
            os.close(descriptor)


class Supervisor:
    """The loop over signals and children."""

    def __init__(
        self,
        log: Log,
        shared: SharedState,
        children: Sequence[Child],
        reload: Callable[[], None],
        bound: Config,
    ) -> None:
        """``bound``: the config with the addresses that are listened on, port 0 replaced."""
        self._log = log
        self._bound = bound
        self._shared = shared
        self._worker_status = shared.worker_status
        self._children = children
        self._reload = reload
        self._welcomed = False
        self._looked_s = time.monotonic()

    def run(self) -> None:
        """Until told to stop; returns when all children have ended."""
        while True:
            for child in self._children:
                if child.due_s is not None and child.due_s <= time.monotonic():
                    self.start(child)
            if not self._welcomed and self._worker_status.all_up:
                self._welcomed = True
                self._welcome()
            arrived = signal.sigtimedwait(SIGNALS, self.pause_s())
            self.look()
            if arrived is None:
                self._log.flush()
            elif arrived.si_signo == signal.SIGCHLD:
                self._reap(restart=True)
            elif arrived.si_signo == signal.SIGUSR1:
                self._reopen_log()
            elif arrived.si_signo == signal.SIGHUP:
                self._reopen_log()
                self._guard("reload", self._reload)
            else:
                break
        self.stop()

    def pause_s(self) -> float:
        """Until the next look, or until a child is due; short until all are up, to say so."""
        pause_s = LOOK_INTERVAL_S if self._welcomed else START_LOOK_S
        if self._log.unwritten_bytes:
            pause_s = min(pause_s, LOG_RETRY_S)
        due = [child.due_s for child in self._children if child.due_s is not None]
        if due:
            pause_s = min(pause_s, max(0.0, min(due) - time.monotonic()))
        return pause_s

    def start(self, child: Child) -> None:
        """Forks a child; where that fails, it is tried again later and the others go on."""
        self._log.flush()
        try:
            is_child = child.fork(self._shared.heartbeats)
        except OSError as exc:
            self._log.event("process_not_started", child=child.name, error=str(exc))
            self._log.flush()
            return
        if is_child:
            # What a terminal sends goes to all processes: only the supervisor acts on it.
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            self._log.close()
            child.become()

    def look(self, *, is_draining: bool = False) -> None:
        """Ends children that hang; does nothing when the last look was a moment ago."""
        now_s = time.monotonic()
        elapsed_s = now_s - self._looked_s
        if elapsed_s < LOOK_INTERVAL_S / 2:
            return
        self._looked_s = now_s
        for child in self._children:
            if child.pid:
                child.look(self._shared.heartbeats, elapsed_s, self._log, is_draining=is_draining)

    def ended(self, child: Child, status: int, *, restart: bool) -> None:
        """Takes note of a child that has ended."""
        pid, code = child.pid, os.waitstatus_to_exitcode(status)
        end = child.ended(status, restart=restart)
        try:
            self._shared.metrics.forget_gauges(child.place)
        except OSError as exc:
            self._log.event("metrics_not_written", error=str(exc))
        if child.is_worker:
            self._worker_status.mark_down(child.place)
        if restart:
            self._shared.heartbeats.count_end(child.place, end)
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
        """Ends the workers, then the control process; a further signal has them hurry."""
        self._log.event("edge_draining")
        self._log.flush()
        self._end([child for child in self._children if child.is_worker], DRAIN_S + 5.0)
        self._end(self._children, CONTROL_ENDS_S)

    def _end(self, children: Sequence[Child], timeout_s: float) -> None:
        """Tells children to end and waits for it; kills those that take too long."""
        for child in children:
            child.signal(signal.SIGTERM)
        deadline_s = time.monotonic() + timeout_s
        while True:
            self._reap(restart=False)
            if not any(child.pid for child in children):
                return
            late_s = time.monotonic() - deadline_s
            if late_s > GIVE_UP_S:
                for child in children:
                    if child.pid:  # the kernel holds it, as where a disk does not answer
                        self._log.event("process_not_ended", child=child.name, pid=child.pid)
                return
            if late_s > 0:
                for child in children:
                    child.signal(signal.SIGKILL)
            self.look(is_draining=True)
            arrived = signal.sigtimedwait(SIGNALS - {signal.SIGHUP}, LOOK_INTERVAL_S / 2)
            if arrived is None:
                self._log.flush()
            elif arrived.si_signo == signal.SIGUSR1:
                self._reopen_log()
            elif arrived.si_signo != signal.SIGCHLD:
                self._log.event("edge_stops_at_once")
                deadline_s = min(deadline_s, time.monotonic() + HURRY_S)
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
                    self.ended(child, status, restart=restart)

    def _reopen_log(self) -> None:
        """A log file that was renamed is left; each process opens the new one by itself."""
        self._shared.log_target.request_reopen()
        self._log.event("log_reopened")
        self._log.flush()

    def _welcome(self) -> None:
        from streamedge.process.banner import print_banner  # noqa: PLC0415  # viewers come first

        self._guard("welcome", lambda: print_banner(self._bound))

    def _guard(self, what: str, work: Callable[[], None]) -> None:
        """Does what may fail without ending the edge; a failure leaves a line."""
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - whatever it was, viewers are still served
            self._log.event("supervisor_failed", what=what, error=repr(exc), stack=stack_of(exc))
            self._log.flush()


def _certificates(config: Config) -> Certificates | None:
    """What all workers show to viewers; None where nothing is served over TLS."""
    if not config.listen.https:
        return None
    from streamedge.process.certificates import CertificateFiles, Certificates  # noqa: PLC0415  # plain HTTP starts without it

    return Certificates(
        [CertificateFiles(declared.certificate, declared.key) for declared in config.certificates]
    )


def _prepare(config: Config, log: Log) -> int | None:
    """Takes the cache folder and makes it ready: a descriptor that holds it, or None without one.

    Without it objects are fetched for each viewer, but nobody's write could be kept: where there
    are any to keep, raises OSError, WriteQueueError. Raises FolderInUseError.
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
    """As many open files as the system lets this process have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
