"""The end of an upgrade, in the new program: its processes take over from those before it.

    STARTING            the new workers start; those from before serve
    REPLACING_CONTROL   all new workers serve, too; the control process from before ends
    RETIRING            the new control process runs; workers from before serve only their viewers
    DONE                the processes from before have ended
    FAILED              the new workers do not come up: those from before go on as if nothing had
                        happened, and the next SIGUSR2 tries again

The supervisor calls ``step`` after each signal and each pause.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum, auto

from streamedge.coordination.heartbeats import Heartbeats
from streamedge.coordination.shared_state import SharedState
from streamedge.coordination.upgrade_status import UpgradeState
from streamedge.coordination.viewer_rows import ViewerRows
from streamedge.delivery.rtmp.tunnel.peers import TunnelAddresses
from streamedge.ops.log import Log
from streamedge.ops.metrics import fold_totals
from streamedge.ops.shared_buffer import SharedBuffer
from streamedge.ops.shared_words import SharedWords
from streamedge.process.child import Child
from streamedge.process.handover import Handover, handed_children
from streamedge.process.listeners import Address, Handed

START_TIMEOUT_S = 60.0  # for all new workers to come up
FAILURES_MAX = 3  # of one new worker in a row
CONTROL_ENDS_S = 20.0  # it delivers the access logs


class Phase(Enum):
    """A step of an upgrade; the module's docstring has the order."""

    STARTING = auto()
    REPLACING_CONTROL = auto()
    RETIRING = auto()
    DONE = auto()
    FAILED = auto()


class Previous:
    """The processes from before an upgrade, and what they use. They are not started again."""

    def __init__(self, handover: Handover) -> None:
        """Raises OSError."""
        self._handover = handover
        self.children = [
            Child.adopt(
                each.name, each.index, each.slot, each.pid, each.stack, is_worker=each.is_worker
            )
            for each in handover.children
        ]
        self.heartbeats = Heartbeats(
            handover.heartbeat_names, SharedWords.adopt(handover.heartbeats)
        )
        sockets: dict[tuple[str, Address], list[list[socket.socket]]] = {}
        for each in handover.sockets:
            place = each.kind, (each.host, each.port)
            held = [socket.socket(fileno=descriptor) for descriptor in each.descriptors]
            sockets.setdefault(place, []).append(held)
        tunnels = None
        if handover.tunnel_addresses is not None:
            tunnels = TunnelAddresses(SharedWords.adopt(handover.tunnel_addresses))
        self.handed = Handed(sockets, tunnels)
        self.viewer_rows = ViewerRows.adopt(handover.viewers)
        past = [SharedBuffer.adopt(part) for part in handover.past_metrics]
        self.metrics = [
            fold_totals(past),
            *(SharedBuffer.adopt(part) for part in handover.metrics),
        ]
        self._has_ended = False

    @property
    def handover(self) -> Handover:
        """What was handed over."""
        return self._handover

    def handover_again(self, config: int) -> Handover:
        """The handover for another attempt, with the processes that still run."""
        return replace(self._handover, children=handed_children(self.children), config=config)

    @property
    def workers(self) -> list[Child]:
        """The workers that still run."""
        return [child for child in self.children if child.is_worker and child.pid]

    @property
    def control(self) -> Child | None:
        """The control process, while it runs."""
        running = [child for child in self.children if not child.is_worker and child.pid]
        return running[0] if running else None

    @property
    def is_empty(self) -> bool:
        """Whether all of them have ended."""
        return not any(child.pid for child in self.children)

    @property
    def slots(self) -> list[int]:
        """The slots of the workers that still run."""
        return [child.slot for child in self.workers]

    def close_lifeline(self) -> None:
        """In the supervisor and its children: they are not what these processes live by."""
        if not self._has_ended:
            self._has_ended = True
            os.close(self._handover.lifeline)


class Transition:
    """Moves from ``previous`` to ``children``; the latter are started by the supervisor."""

    def __init__(
        self, previous: Previous, children: Sequence[Child], shared: SharedState, log: Log
    ) -> None:
        """Without ``children`` the transition has failed already."""
        self.previous = previous
        self.phase = Phase.STARTING if children else Phase.FAILED
        self._children = children
        self._shared = shared
        self._log = log
        self._began_s = time.monotonic()
        self._control_ends_s = 0.0
        for child in children:
            if not child.is_worker:
                child.due_s = None  # two control processes would evict and publish at a time

    @property
    def allows_upgrade(self) -> bool:
        """Whether another upgrade may begin; processes of at most two programs run at a time."""
        return self.phase in {Phase.DONE, Phase.FAILED}

    def step(self) -> None:
        """Goes on as far as possible now."""
        if self.phase is Phase.STARTING:
            self._check_start()
        if self.phase is Phase.REPLACING_CONTROL:
            self._replace_control()
        if self.phase is Phase.RETIRING and self.previous.is_empty:
            self.previous.close_lifeline()
            self._enter(Phase.DONE, UpgradeState.DONE)
            self._log.event("upgrade_finished")

    def previous_ended(self) -> None:
        """A process from before has ended. Where it served on, the new ones are tried again."""
        if self.phase is Phase.FAILED and self._children:
            self._began_s = time.monotonic()
            self._enter(Phase.STARTING, UpgradeState.STARTING)
            for child in self._children:
                if child.is_worker and not child.pid:
                    child.due_s, child.failures = time.monotonic(), 0

    def _check_start(self) -> None:
        if self._shared.worker_status.all_up:
            self.phase = Phase.REPLACING_CONTROL
            self._control_ends_s = time.monotonic() + CONTROL_ENDS_S
            control = self.previous.control
            if control is not None:
                control.signal(signal.SIGTERM)
            return
        failing = [child.name for child in self._children if child.failures >= FAILURES_MAX]
        if failing:
            self._fail(
                f"{failing[0]} ended {FAILURES_MAX} times; process_ended in the log says why"
            )
        elif time.monotonic() - self._began_s > START_TIMEOUT_S:
            self._fail(f"not all workers came up within {START_TIMEOUT_S:.0f} s")

    def _replace_control(self) -> None:
        before = self.previous.control
        if before is not None:
            if time.monotonic() > self._control_ends_s:
                before.signal(signal.SIGKILL)
            return
        for control in self._children:
            if control.is_worker:
                continue
            if not control.pid and control.due_s is None:
                control.due_s = time.monotonic()
            elif control.is_alive(self._shared.heartbeats):
                self._retire()

    def _retire(self) -> None:
        self._enter(Phase.RETIRING, UpgradeState.RETIRING)
        workers = self.previous.workers
        for worker in workers:
            worker.signal(signal.SIGUSR2)
        self._log.event("upgraded", retiring=[worker.pid for worker in workers])

    def _fail(self, reason: str) -> None:
        self._enter(Phase.FAILED, UpgradeState.FAILED, reason)
        for child in self._children:
            child.due_s = None
            child.signal(signal.SIGKILL)
        self._log.event("upgrade_failed", reasons=[reason])

    def _enter(self, phase: Phase, state: UpgradeState, *reasons: str) -> None:
        self.phase = phase
        upgrade = self._shared.upgrade
        upgrade.write(replace(upgrade.read(), state=state, reasons=reasons))
