"""Heartbeats in shared memory, and when a process counts as hung."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from streamedge.coordination.heartbeats import (
    HUNG_S,
    STARTING_S,
    UPDATE_MAX_S,
    Heartbeats,
    Watch,
    is_traced,
    waited_for_processor_s,
)

SECONDS = st.floats(0, 10_000, allow_nan=False)


@given(st.lists(SECONDS, max_size=50))
def test_pause_between_checks_does_not_make_a_process_with_heartbeats_hung(
    pauses: list[float],
) -> None:
    watch = Watch()
    for beat, pause_s in enumerate(pauses, 1):
        watch.update(beat, pause_s)
        assert not watch.is_hung(is_draining=True)


@given(st.lists(st.tuples(SECONDS, SECONDS), max_size=50))
def test_silence_is_at_most_the_time_measured_by_the_supervisor(
    checks: list[tuple[float, float]],
) -> None:
    watch = Watch()
    watch.update(1, 1.0)
    for elapsed_s, waited_s in checks:
        watch.update(1, elapsed_s, waited_s)
    assert watch.silent_s <= min(len(checks) * UPDATE_MAX_S, sum(each[0] for each in checks))


def test_silence_grows_between_checks_that_come_late() -> None:
    """On an overloaded machine the supervisor and the process both wait for a processor."""
    watch = Watch()
    watch.update(1, 1.0)
    for _check in range(10):
        watch.update(1, 20.0, 15.0)
    assert watch.is_hung(is_draining=False)


def test_process_without_a_first_heartbeat_has_more_time() -> None:
    watch = Watch()
    for _second in range(round(STARTING_S) - 1):
        watch.update(0, 1.0)
    assert not watch.is_hung(is_draining=False)
    watch.update(0, 1.0)
    assert watch.is_hung(is_draining=False)


def test_silent_process_is_hung_sooner_while_draining() -> None:
    watch = Watch()
    watch.update(1, 1.0)
    for _second in range(5):
        watch.update(1, 1.0)
    assert watch.is_hung(is_draining=True)
    assert not watch.is_hung(is_draining=False)
    for _second in range(round(HUNG_S) - 5):
        watch.update(1, 1.0)
    assert watch.is_hung(is_draining=False)


def test_heartbeats_are_visible_in_other_processes() -> None:
    beats = Heartbeats(["worker-0", "control"])
    assert beats.last_beat(0) == 0

    async def run() -> None:
        beats.start_beating(0, asyncio.get_running_loop())

    asyncio.run(run())
    assert beats.last_beat(0) > 0
    child = os.fork()
    if child == 0:
        beats.beat(1)
        os._exit(0)
    os.waitpid(child, 0)
    assert beats.last_beat(1) > 0
    beats.reset(1)
    assert beats.last_beat(1) == 0
    assert beats.silent_s(1) == 0.0


def test_traced_process_is_recognized() -> None:
    assert not is_traced(os.getpid())
    assert not is_traced(2**22 + 1)  # no such process
    code = (
        "import ctypes, os, signal\n"
        "ctypes.CDLL(None).ptrace(0, 0, 0, 0)\n"  # PTRACE_TRACEME: the parent holds it
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as traced:
        os.waitid(os.P_PID, traced.pid, os.WSTOPPED | os.WNOWAIT)
        assert is_traced(traced.pid)
        traced.send_signal(signal.SIGKILL)


def test_time_waited_for_a_processor_grows() -> None:
    assert waited_for_processor_s(2**22 + 1) == 0.0
    before_s = waited_for_processor_s(os.getpid())
    assert 0.0 <= before_s <= waited_for_processor_s(os.getpid())
