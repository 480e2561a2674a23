"""``streamedge serve``: binds the sockets, starts the processes, replaces those that die.

    supervisor ──fork──▸ worker 0 … N-1   serve viewers
               ──fork──▸ control          admin address, eviction

The supervisor runs no event loop and starts no thread, so that it can fork at any time and its
children share what it has imported. It ends everything on SIGTERM or SIGINT: workers drain, then
the cache folder is marked clean. SIGHUP has the config file read anew (``reloading``). A child
that finds its supervisor gone drains by itself.
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamedge.access.countries import Countries, CountriesError
from streamedge.cache.store import WORKERS_MAX, close_folder, prepare_folder
from streamedge.config.schema import Config
from streamedge.control.recovery import prepare_control_database
from streamedge.edge.bells import Bells
from streamedge.edge.composition import writes_back
from streamedge.edge.generations import Generations
from streamedge.edge.listeners import WorkerListeners, bind_admin, bind_listeners
from streamedge.edge.reloading import Reloading
from streamedge.edge.roster import Roster
from streamedge.edge.shared import Shared
from streamedge.edge.worker import DRAIN_S, Post, run_worker
from streamedge.errors import StreamEdgeError
from streamedge.ops.log import Log, open_log
from streamedge.ops.log_output import LogTarget
from streamedge.ops.metrics import forget_process
from streamedge.writing.journal import prepare_journal
from streamedge.writing.rows import JournalError

if TYPE_CHECKING:
    from streamedge.edge.certificates import Certificates

RESTART_BACKOFF_S = (0.0, 0.1, 0.5, 2.0, 5.0)  # by how often it has died young
YOUNG_S = 5.0
CONTROL_WAIT_S = 2.0  # at most: a worker may not come up at all
CONTROL_LOOK_S = 0.01
LOG_RETRY_S = 0.05  # while the log's reader is slow
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}


@dataclass(slots=True)
class _Child:
    """A process that is to run: what it does, and how it has fared."""

    name: str
    main: Callable[[], None]
    worker: int | None = None
    pid: int = 0
    started_s: float = 0.0
    young_deaths: int = 0
    due_s: float | None = 0.0  # when to start it (again); None while it runs


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
        countries = Countries(config.countries.database)
    except CountriesError as exc:
        print(f"streamedge: cannot tell countries: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    except StreamEdgeError as exc:
        print(f"streamedge: cannot serve HTTPS: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    except OSError as exc:
        print(f"streamedge: {exc.strerror or exc}", file=sys.stderr)  # noqa: T201
        return 1
    _raise_file_limit()
    try:
        folder_is_ready = _prepare(config, log)
    except (OSError, JournalError) as exc:
        log.flush()
        print(f"streamedge: cannot keep writes: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    metrics_folder = Path(tempfile.mkdtemp(prefix="streamedge-metrics-"))
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    # What has been imported stays: children need not look at it for garbage, nor copy it.
    gc.freeze()
    gc.enable()  # the command turned it off while all this was imported
    generations, bells = Generations(config, workers), Bells(workers)
    reloading = Reloading(file, generations, certificates, countries, bells, log)
    roster = Roster(workers)
    shared = Shared(generations, bells, roster, metrics_folder, log_target, writes_back(config))
    try:
        _Supervisor(log, listeners, certificates, countries, admin, shared, reloading.reload).run()
    finally:
        shutil.rmtree(metrics_folder, ignore_errors=True)
        if folder_is_ready:
            close_folder(config.edge.cache)
        log.event("edge_down")
        log.finish()
    return 0


class _Supervisor:
    """The loop over signals and children."""

    def __init__(
        self,
        log: Log,
        listeners: list[WorkerListeners],
        certificates: Certificates | None,
        countries: Countries,
        admin: socket.socket,
        shared: Shared,
        reload: Callable[[], None],
    ) -> None:
        self._log = log
        self._shared = shared
        self._roster = shared.roster
        self._reload = reload
        self._welcomed = False
        # Children hold the reading end: it becomes readable when the writing end, here, closes.
        self._lifeline, self._life = os.pipe()
        self._children = []
        for number, own in enumerate(listeners):
            post = Post(number, own, certificates, countries, shared, self._lifeline)
            self._children.append(
                _Child(f"worker-{number}", lambda post=post: run_worker(post), number)  # type: ignore[misc]
            )
        self._children.append(
            _Child("control", lambda: _run_control(shared, admin, self._lifeline))
        )

    def run(self) -> None:
        """Until told to stop; returns when all children have ended."""
        while True:
            now_s = time.monotonic()
            for child in self._children:
                if child.due_s is not None and child.due_s <= now_s:
                    self._start(child)
            if not self._welcomed and self._roster.all_up:
                self._welcomed = True
                from streamedge.edge.welcome import welcome  # noqa: PLC0415  # viewers come first

                welcome(self._shared.generations.config)
            arrived = signal.sigtimedwait(_SIGNALS, self._pause_s())
            if arrived is None:
                self._log.flush()
                continue
            if arrived.si_signo == signal.SIGCHLD:
                self._reap(restart=True)
            elif arrived.si_signo == signal.SIGUSR1:
                self._reopen_log()
            elif arrived.si_signo == signal.SIGHUP:
                self._reopen_log()
                self._reload()
            else:
                break
        self._stop()

    def _reopen_log(self) -> None:
        """A log file that was renamed is left; each process opens the new one by itself."""
        self._shared.log_target.request_reopen()
        self._log.event("log_reopened")
        self._log.flush()

    def _pause_s(self) -> float:
        """Until the next child is due; short until all are up, to say so."""
        pause_s = 60.0 if self._welcomed else 0.02
        due = [child.due_s for child in self._children if child.due_s is not None]
        if self._log.unwritten_bytes:
            pause_s = min(pause_s, LOG_RETRY_S)
        if due:
            pause_s = min(pause_s, max(0.0, min(due) - time.monotonic()))
        return pause_s

    def _start(self, child: _Child) -> None:
        self._log.flush()
        child.due_s = None
        child.started_s = time.monotonic()
        child.pid = os.fork()
        if child.pid == 0:
            self._become(child)

    def _become(self, child: _Child) -> None:
        """The forked child's whole life."""
        code = 1
        try:
            os.close(self._life)
            # What a terminal sends goes to all processes: only the supervisor acts on it.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            self._log.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            child.main()
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it was, the copy of the supervisor ends here
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)

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
                    self._ended(child, status, restart=restart)

    def _ended(self, child: _Child, status: int, *, restart: bool) -> None:
        now_s = time.monotonic()
        forget_process(self._shared.metrics_folder, child.pid)
        if child.worker is not None:
            self._roster.down(child.worker)
        code = os.waitstatus_to_exitcode(status)
        if restart or code:
            self._log.event("process_ended", child=child.name, pid=child.pid, code=code)
        child.pid = 0
        if restart:
            young = now_s - child.started_s < YOUNG_S
            child.young_deaths = child.young_deaths + 1 if young else 0
            backoff = min(child.young_deaths, len(RESTART_BACKOFF_S) - 1)
            child.due_s = now_s + RESTART_BACKOFF_S[backoff]
        self._log.flush()

    def _stop(self) -> None:
        self._log.event("edge_draining")
        self._log.flush()
        for child in self._children:
            if child.pid and child.worker is not None:
                os.kill(child.pid, signal.SIGTERM)
        self._await_children(lambda child: child.worker is not None, DRAIN_S + 5.0)
        for child in self._children:
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)
        self._await_children(lambda child: True, 10.0)

    def _await_children(self, which: Callable[[_Child], bool], timeout_s: float) -> None:
        """Waits for some children to end; kills those that do not."""
        deadline_s = time.monotonic() + timeout_s
        while any(child.pid and which(child) for child in self._children):
            self._reap(restart=False)
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                for child in self._children:
                    if child.pid and which(child):
                        os.kill(child.pid, signal.SIGKILL)
                left_s = 1.0
            if any(child.pid and which(child) for child in self._children):
                signal.sigtimedwait({signal.SIGCHLD}, min(left_s, 0.5))


def _run_control(shared: Shared, admin: socket.socket, lifeline: int) -> None:
    """Viewers come first: what the admin address needs is imported once they are served."""
    until_s = time.monotonic() + CONTROL_WAIT_S
    while not shared.roster.all_up and time.monotonic() < until_s:
        time.sleep(CONTROL_LOOK_S)
    from streamedge.edge.control import run_control  # noqa: PLC0415

    run_control(shared, admin, lifeline)


def _certificates(config: Config) -> Certificates | None:
    """What all workers show to viewers; None where nothing is served over TLS."""
    if not config.listen.https:
        return None
    from streamedge.edge.certificates import (  # noqa: PLC0415  # plain HTTP starts without it
        CertificateFiles,
        Certificates,
    )

    return Certificates(
        [CertificateFiles(declared.certificate, declared.key) for declared in config.certificates]
    )


def _prepare(config: Config, log: Log) -> bool:
    """Makes the cache folder ready; whether it can be used.

    Without it objects are fetched for each viewer, but nobody's write could be kept: where there
    are any to keep, raises OSError, JournalError.
    """
    try:
        prepare_folder(config.edge.cache)
        prepare_control_database(config.edge.cache, log)
        if writes_back(config):
            prepare_journal(config.edge.cache)
    except (OSError, JournalError) as exc:
        log.event("cache_folder_refused", folder=str(config.edge.cache), error=str(exc))
        if writes_back(config):
            raise
        return False
    return True


def _raise_file_limit() -> None:
    """As many open files as the system lets this process have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
