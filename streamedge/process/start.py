"""``streamedge serve``: prepares the edge, then runs its supervisor.

After an upgrade (``process.handover``) the same steps use what the program before this one has
handed over; if one of them fails then, the processes from before go on. A trial takes only the
steps that change nothing.
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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from streamedge.access.geo import CountryDatabase, CountryDatabaseError
from streamedge.build.web_rules import writes_back
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
from streamedge.coordination.upgrade_status import UpgradeState, UpgradeStatus
from streamedge.coordination.viewer_rows import ViewerRows
from streamedge.coordination.wakeups import Wakeups
from streamedge.errors import StreamEdgeError
from streamedge.logs.batches import SPOOL_FOLDER, prepare_spool
from streamedge.ops.log import Log, open_log
from streamedge.ops.log_output import LogTarget
from streamedge.ops.malloc import limit_arenas
from streamedge.ops.metrics import SharedMetrics
from streamedge.ops.shared_words import SharedWords
from streamedge.ops.wakeup import Wakeup
from streamedge.process.child import Child
from streamedge.process.descriptors import descriptor_limit, open_descriptors, share_descriptors
from streamedge.process.handover import (
    HandedSockets,
    Handover,
    HandoverError,
    TrialRequest,
    free_slots,
    handed_children,
    receive,
    trial_request,
)
from streamedge.process.listeners import (
    LISTENER_KINDS,
    WorkerListeners,
    addresses_by_kind,
    bind_admin,
    bind_listeners,
    close_admin,
    with_bound_addresses,
)
from streamedge.process.reload import ConfigReloader
from streamedge.process.supervisor import SIGNALS, Supervisor
from streamedge.process.upgrade.transition import Previous, Transition
from streamedge.process.worker import WorkerContext, run_worker
from streamedge.write_back.queue import prepare_write_queue
from streamedge.write_back.rows import WriteQueueError

if TYPE_CHECKING:
    from streamedge.process.certificates import Certificates

CONTROL_WAIT_S = 2.0  # for the workers; one of them may never come up
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}  # of file systems without locks


class StartError(StreamEdgeError):
    """The edge cannot start; the message says why."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the processes of an edge are made of, when all that can fail was done."""

    listeners: list[WorkerListeners]
    slots: list[int]
    admin: socket.socket
    certificates: Certificates | None
    countries: CountryDatabase
    folder_lock: int | None


def serve(config: Config, file: Path) -> int:
    """Runs the edge until SIGTERM or SIGINT; returns the exit code.

    ``config`` is the content of ``file``, which is read again on SIGHUP.
    """
    try:
        request = trial_request(os.environ)
        if request is not None:
            return _try_out(config, request)
        handover = receive(os.environ)
        previous = None if handover is None else Previous(handover)
        log_target = _log_target(config, previous)
        log = open_log(log_target, "supervisor", config.limits.log_buffer)
    except StreamEdgeError as exc:
        return _refuse(str(exc))
    except OSError as exc:
        return _refuse(exc.strerror or str(exc))
    try:
        prepared = _prepare(config, log, previous)
    except StartError as exc:
        log.flush()
        if previous is None:
            return _refuse(str(exc))
        return _keep_previous(config, previous, log_target, log, str(exc))
    return _run(config, file, prepared, previous, log_target, log)


def _refuse(reason: str) -> int:
    print(f"streamedge: {reason}", file=sys.stderr)  # noqa: T201
    return 1


def _try_out(config: Config, request: TrialRequest) -> int:
    """What can be checked while another program of the edge serves. Raises HandoverError."""
    from streamedge.process.upgrade.all_modules import import_all  # noqa: PLC0415

    import_all()
    workers = _worker_count(config)
    request.check(config, workers)
    try:
        _certificates(config)
        CountryDatabase(config.countries.database)
    except StreamEdgeError as exc:
        return _refuse(str(exc))
    request.report(config)
    return 0


def _worker_count(config: Config) -> int:
    return min(config.edge.workers or len(os.sched_getaffinity(0)), WORKERS_MAX)


def _log_target(config: Config, previous: Previous | None) -> LogTarget:
    """The log; processes from before an upgrade that write to the same one share its lock."""
    target = str(config.edge.log)
    if previous is None or previous.handover.log != target:
        return LogTarget(target)
    return LogTarget(target, SharedWords.adopt(previous.handover.log_memory))


def _prepare(config: Config, log: Log, previous: Previous | None) -> _Prepared:
    """Raises StartError."""
    workers = _worker_count(config)
    try:
        slots = free_slots([] if previous is None else previous.slots, workers, WORKERS_MAX)
        certificates = _certificates(config)
        countries = CountryDatabase(config.countries.database)
        listeners = bind_listeners(
            addresses_by_kind(config),
            workers,
            slots=slots,
            handed=None if previous is None else previous.handed,
        )
        admin = _bind_admin(config, previous)
    except CountryDatabaseError as exc:
        raise StartError(f"cannot load the country database: {exc}") from exc
    except HandoverError as exc:
        raise StartError(str(exc)) from exc
    except StreamEdgeError as exc:
        raise StartError(f"cannot serve TLS: {exc}") from exc
    except OSError as exc:
        raise StartError(exc.strerror or str(exc)) from exc
    _raise_file_limit()
    os.umask(0o077)  # only the edge may read its files, unless a file's mode is set explicitly
    folder_lock = None if previous is None else previous.handover.folder_lock
    if folder_lock is None:
        try:
            folder_lock = _prepare_folder(config, log)
        except FolderInUseError as exc:
            raise StartError(str(exc)) from exc
        except (OSError, WriteQueueError) as exc:
            raise StartError(f"cannot store writes: {exc}") from exc
    elif writes_back(config):
        try:
            prepare_write_queue(config.edge.cache)  # the config before may have had none
        except (OSError, WriteQueueError) as exc:
            raise StartError(f"cannot store writes: {exc}") from exc
    return _Prepared(listeners, slots, admin, certificates, countries, folder_lock)


def _bind_admin(config: Config, previous: Previous | None) -> socket.socket:
    """The socket of the admin address. Raises OSError."""
    address = config.listen.admin
    if previous is None or previous.handover.admin[0] != str(address):
        return bind_admin(address)
    return socket.socket(fileno=os.dup(previous.handover.admin[1]))


def _run(
    config: Config,
    file: Path,
    prepared: _Prepared,
    previous: Previous | None,
    log_target: LogTarget,
    log: Log,
) -> int:
    _begin_supervision()
    workers = len(prepared.listeners)
    shared = _make_shared(config, workers, previous, log_target)
    certificates, countries = prepared.certificates, prepared.countries
    reloader = ConfigReloader(
        file, shared.config_versions, certificates, countries, shared.wakeups, log
    )
    bound = with_bound_addresses(config, prepared.listeners[0], prepared.admin)
    _log_start(bound, workers, log)
    processes = _Processes(config, prepared, shared, previous)
    children = processes.children()
    transition = None if previous is None else Transition(previous, children, shared, log)
    supervisor = Supervisor(
        log,
        shared,
        children,
        reloader.reload,
        bound,
        transition=transition,
        hand_over=processes.hand_over,
    )
    return _supervise(supervisor, config, prepared.folder_lock, prepared.admin, log)


def _keep_previous(
    config: Config, previous: Previous, log_target: LogTarget, log: Log, reason: str
) -> int:
    """Supervises the processes from before an upgrade that has failed."""
    _begin_supervision()
    shared = _make_shared(config, 0, previous, log_target)
    shared.upgrade.write(
        replace(shared.upgrade.read(), state=UpgradeState.FAILED, reasons=(reason,))
    )
    log.event("upgrade_failed", reasons=[reason])
    supervisor = Supervisor(
        log,
        shared,
        [],
        lambda: None,
        config,
        transition=Transition(previous, [], shared, log),
        hand_over=lambda _children, new: previous.handover_again(new),
    )
    admin = socket.socket(fileno=os.dup(previous.handover.admin[1]))
    return _supervise(supervisor, config, previous.handover.folder_lock, admin, log)


def _begin_supervision() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    limit_arenas()
    # Imported objects are never freed: children must neither collect nor copy them.
    gc.freeze()
    gc.enable()  # the command disabled it during the imports


def _supervise(
    supervisor: Supervisor,
    config: Config,
    folder_lock: int | None,
    admin: socket.socket,
    log: Log,
) -> int:
    try:
        supervisor.run()
    finally:
        if folder_lock is not None:
            _close_folder(config.edge.cache, log)
        close_admin(admin)
        log.event("edge_down")
        log.finish()
    return 0


def _log_start(bound: Config, workers: int, log: Log) -> None:
    budget = share_descriptors(bound, descriptor_limit(), open_descriptors())
    if budget.is_short:
        log.event(
            "descriptors_limited",
            limit=budget.limit,
            needed=budget.needed,
            connections=budget.connections,
            open_extents=budget.open_extents,
            advice="raise RLIMIT_NOFILE: ulimit -n, or LimitNOFILE= of a systemd unit",
        )
    addresses = {
        name: [format_address(address) for address in getattr(bound.listen, name)]
        for name in ("http", "https", "rtmp", "rtmps", "mixed")
    }
    admin = format_admin_address(bound.listen.admin)
    log.event("edge_starting", **addresses, admin=admin, workers=workers)


def _make_shared(
    config: Config, workers: int, previous: Previous | None, log_target: LogTarget
) -> SharedState:
    names = [*(f"worker-{number}" for number in range(workers)), "control"]
    wakeups, heartbeats, upgrade = Wakeups(workers), Heartbeats(names), UpgradeStatus()
    metrics = SharedMetrics(workers + 1)
    fleet = live_edges = None
    if config.fleet.engine:
        fleet, live_edges = FleetStatus(), SharedLiveEdges()
    if previous is not None:
        before = previous.handover
        wakeups = Wakeups(
            workers, [Wakeup(each) for each in before.wakeups], Wakeup(before.replicator)
        )
        heartbeats.continue_counts(previous.heartbeats)
        metrics = SharedMetrics(workers + 1, previous.metrics)
        upgrade = UpgradeStatus(before.upgrade_status)
        if fleet is not None and before.fleet is not None:
            fleet = FleetStatus(SharedWords.adopt(before.fleet))
            live_edges = SharedLiveEdges(before.live_edges)
    shared = SharedState(
        ConfigVersions(config, workers),
        wakeups,
        WorkerStatus(workers),
        heartbeats,
        metrics,
        ViewerRows(workers),
        log_target,
        upgrade,
        writes_back(config),
        fleet,
        live_edges,
    )
    if previous is None:
        return shared
    history = SharedWords.adopt(previous.handover.history)
    return replace(
        shared,
        history_memory=history,
        started_s=previous.handover.started_s,
        previous_viewer_rows=previous.viewer_rows,
    )


class _Processes:
    """The main functions of the forked processes, and what they are handed over as."""

    def __init__(
        self,
        config: Config,
        prepared: _Prepared,
        shared: SharedState,
        previous: Previous | None,
    ) -> None:
        self._config = config
        self._prepared = prepared
        self._shared = shared
        self._previous = previous
        # Children hold the reading end, which becomes readable when the supervisor's end closes.
        self._lifeline, self._supervisor_end = os.pipe()

    def children(self) -> list[Child]:
        """All processes to fork; the control process is the last."""
        workers = [
            Child(
                f"worker-{number}",
                number,
                partial(self._work, number),
                is_worker=True,
                slot=slot,
            )
            for number, slot in enumerate(self._prepared.slots)
        ]
        control = len(workers)
        return [*workers, Child("control", control, self._control, is_worker=False)]

    def _work(self, number: int) -> None:
        self._close_supervisor_descriptors()
        prepared = self._prepared
        run_worker(
            WorkerContext(
                number,
                prepared.slots[number],
                prepared.listeners[number],
                prepared.certificates,
                prepared.countries,
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

        run_control(self._shared, self._prepared.admin, self._lifeline)

    def _close_supervisor_descriptors(self) -> None:
        """Closes descriptors that must close when the supervisor ends, while its children drain."""
        os.close(self._supervisor_end)
        if self._prepared.folder_lock is not None:
            os.close(self._prepared.folder_lock)
        if self._previous is not None:
            self._previous.close_lifeline()

    def hand_over(self, children: Sequence[Child], config: int) -> Handover:
        """What the next program gets; ``config``: the memory in which its trial left its config."""
        shared, prepared, listen = self._shared, self._prepared, self._config.listen
        if self._previous is not None and not self._previous.is_empty:  # the last one has failed
            return self._previous.handover_again(config)
        workers, tunnel = len(prepared.listeners), prepared.listeners[0].tunnel
        kinds = {kind: getattr(listen, kind) for kind in LISTENER_KINDS if kind != "fleet"}
        kinds["fleet"] = [listen.fleet] if prepared.listeners[0].fleet else []
        parts = [part.descriptors for part in shared.metrics.parts()]
        return Handover(
            cache=str(self._config.edge.cache),
            log=shared.log_target.target,
            folder_lock=prepared.folder_lock,
            lifeline=self._supervisor_end,
            admin=(str(listen.admin), prepared.admin.fileno()),
            sockets=tuple(
                HandedSockets(
                    kind,
                    address[0],
                    address[1],
                    tuple(getattr(own, kind)[number].fileno() for own in prepared.listeners),
                )
                for kind, addresses in kinds.items()
                for number, address in enumerate(addresses)
            ),
            tunnel_addresses=None if tunnel is None else tunnel.addresses.descriptor,
            children=handed_children(children),
            heartbeat_names=shared.heartbeats.names,
            heartbeats=shared.heartbeats.descriptor,
            log_memory=shared.log_target.descriptor,
            wakeups=tuple(shared.wakeups.descriptors()),
            replicator=shared.wakeups.replicator.descriptor,
            metrics=tuple(parts[: workers + 1]),
            past_metrics=tuple(parts[workers + 1 :]),
            fleet=None if shared.fleet is None else shared.fleet.descriptor,
            live_edges=() if shared.live_edges is None else shared.live_edges.descriptors,
            upgrade_status=shared.upgrade.descriptors,
            history=shared.history_memory.descriptor,
            viewers=shared.viewer_rows.descriptors,
            started_s=shared.started_s,
            config=config,
        )


def _certificates(config: Config) -> Certificates | None:
    """The certificates of all workers; None without listeners for TLS."""
    if not config.serves_tls:
        return None
    from streamedge.process.certificates import Certificates, configured_files, http2_hosts  # noqa: PLC0415  # plain HTTP starts without it

    return Certificates(configured_files(config), http2_hosts(config))


def _prepare_folder(config: Config, log: Log) -> int | None:
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
