"""One process of the edge, as its supervisor sees it: fork, watch, end, restart with backoff.

A process that fails leaves its stack in a memory file that the supervisor reads: the traceback of
an exception, or the output of ``faulthandler`` on a fatal signal. SIGABRT is such a signal; it ends
a process that hangs and shows where it hangs, even if the event loop is stuck.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from streamedge.callbacks import do_nothing
from streamedge.coordination.heartbeats import (
    LATE_S,
    End,
    Heartbeats,
    Watch,
    is_traced,
    waited_for_processor_s,
)
from streamedge.ops.log import Log

RESTART_BACKOFF_S = (
    0.0,
    0.1,
    0.5,
    2.0,
    5.0,
)  # by failures in a row: early ends, failed forks
EARLY_S = 5.0
ABORT_TIMEOUT_S = 2.0  # to write the stack; a stopped process (SIGSTOP) does not react
STACK_BYTES = 64 << 10


@dataclass(slots=True)
class Child:
    """A process that the supervisor keeps running."""

    name: str
    index: int  # in Heartbeats, metrics and the worker status
    main: Callable[[], None]
    is_worker: bool
    slot: int = 0  # of a worker, among all that run
    pid: int = 0  # 0 while it is not running
    started_s: float = 0.0
    failures: int = 0  # in a row
    due_s: float | None = 0.0  # when to start it; None while it runs
    aborted_s: float | None = None  # when SIGABRT was sent because it hung
    watch: Watch = field(default_factory=Watch)
    _stack: int = field(default_factory=lambda: os.memfd_create("streamedge-stack"))
    _waited_s: float | None = None

    def fork(self, heartbeats: Heartbeats) -> bool:
        """Forks; returns whether this is the child. On an OSError it is due again later."""
        os.ftruncate(self._stack, 0)
        os.lseek(self._stack, 0, os.SEEK_SET)
        heartbeats.reset(self.index)
        self.watch, self.aborted_s, self._waited_s = Watch(), None, None
        self.started_s = time.monotonic()
        try:
            pid = os.fork()
        except OSError:
            self._fail()
            raise
        if pid == 0:
            return True
        self.pid, self.due_s = pid, None
        return False

    def run_forked(self) -> None:
        """Runs ``main`` in the forked child; does not return."""
        code = 1
        try:
            faulthandler.enable(self._stack)
            self.main()
            code = 0
        except BaseException:  # noqa: BLE001 - the copy of the supervisor must end here
            os.write(self._stack, traceback.format_exc().encode(errors="backslashreplace"))
        finally:
            os._exit(code)

    def check(
        self, heartbeats: Heartbeats, elapsed_s: float, log: Log, *, is_draining: bool = False
    ) -> None:
        """Ends the process if it hangs: with SIGABRT, later with SIGKILL."""
        now_s = time.monotonic()
        if self.aborted_s is not None:
            if now_s - self.aborted_s >= ABORT_TIMEOUT_S:
                self.signal(signal.SIGKILL)
            return
        waited_s = 0.0
        if self.watch.silent_s >= LATE_S:
            before, self._waited_s = self._waited_s, waited_for_processor_s(self.pid)
            waited_s = 0.0 if before is None else self._waited_s - before
        else:
            self._waited_s = None
        self.watch.update(heartbeats.last_beat(self.index), elapsed_s, waited_s)
        if self.watch.is_hung(is_draining=is_draining) and not is_traced(self.pid):
            self.aborted_s = now_s
            log.event(
                "process_hung", child=self.name, pid=self.pid, silent_s=round(self.watch.silent_s)
            )
            self.signal(signal.SIGABRT)

    @property
    def stack_descriptor(self) -> int:
        """The memory for the stack."""
        return self._stack

    @classmethod
    def adopt(
        cls, name: str, index: int, slot: int, pid: int, stack: int, *, is_worker: bool
    ) -> Child:
        """A process that runs already, and is not started again."""
        child = cls(name, index, do_nothing, is_worker, slot, _stack=stack)
        child.pid, child.due_s, child.started_s = pid, None, time.monotonic()
        return child

    def is_alive(self, heartbeats: Heartbeats) -> bool:
        """Whether the process runs, and its event loop has run lately."""
        has_beaten = bool(self.pid) and heartbeats.last_beat(self.index) > 0
        return has_beaten and not self.watch.is_hung(is_draining=False)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal if the process is running."""
        if self.pid:
            os.kill(self.pid, number)

    def record_end(self, status: int, *, restart: bool) -> End:
        """Records the end of the process and returns its kind. ``status`` is from waitpid."""
        end = End.KILLED if os.WIFSIGNALED(status) else End.EXITED
        if self.aborted_s is not None:
            end = End.HUNG
        self.pid = 0
        if restart:
            if time.monotonic() - self.started_s < EARLY_S:
                self._fail()
            else:
                self.failures = 0
                self.due_s = time.monotonic()
        return end

    def stack(self) -> list[str] | None:
        """The stack that the ended process left; None if there is none."""
        text = os.pread(self._stack, STACK_BYTES, 0).decode(errors="replace")
        return text.splitlines() or None

    def close(self) -> None:
        os.close(self._stack)

    def _fail(self) -> None:
        self.failures += 1
        backoff = min(self.failures, len(RESTART_BACKOFF_S) - 1)
        self.due_s = time.monotonic() + RESTART_BACKOFF_S[backoff]
