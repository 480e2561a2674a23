"""Runs a load generator in a separate process and returns its result.

A load generator of our own is a module that can be run: the plan is a JSON argument, the result is
JSON on standard output. Others are programs, such as wrk. A load generator never shares a process
with what it measures.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.machine import LOAD_CORE, cpu_s, pinned
from bench.servers.server import BenchError

GRACE_S = 60.0
"""A load generator may take this much longer than its plan."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Complete responses in ``seconds``, and the CPU-seconds of the server and of the load."""

    requests: int
    seconds: float
    server_cpu_s: float
    load_cpu_s: float


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """What a program printed, how long it ran, and the CPU-seconds of the server and its own."""

    output: str
    seconds: float
    server_cpu_s: float
    load_cpu_s: float


def run_load(
    module: str, plan: dict[str, Any], *, limit_s: float, core: int | None = LOAD_CORE
) -> Any:
    """The JSON that ``python -m module PLAN`` printed. Raises BenchError when it failed."""
    with pinned(core):
        child = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(plan)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        output, errors = child.communicate(timeout=limit_s + GRACE_S)
    except subprocess.TimeoutExpired as error:
        child.kill()
        child.communicate()
        raise BenchError(f"{module} did not end in {limit_s + GRACE_S:.0f} s") from error
    if child.returncode != 0:
        last = errors.strip().splitlines()[-1:] or ["without output"]
        raise BenchError(f"{module} failed: {last[0]}")
    return json.loads(output)


def run_program(command: Sequence[str], *, server_pid: int, limit_s: float) -> ProgramRun:
    """Runs a load generator that is not ours on its core. Raises BenchError when it fails."""
    if shutil.which(command[0]) is None:
        raise BenchError(f"{command[0]} is not installed; tools/install_programs.sh installs it")
    began_s, server_s, load_s = time.monotonic(), cpu_s(server_pid), ended_children_cpu_s()
    with pinned(LOAD_CORE):
        try:
            completed = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=limit_s + GRACE_S
            )
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{command[0]} did not end in {limit_s + GRACE_S:.0f} s") from error
    run = ProgramRun(
        completed.stdout,
        time.monotonic() - began_s,
        cpu_s(server_pid) - server_s,
        ended_children_cpu_s() - load_s,
    )
    if completed.returncode != 0:
        lines = (completed.stderr + completed.stdout).strip().splitlines() or ["without output"]
        raise BenchError(f"{command[0]} failed: {lines[0]}")
    return run


def ended_children_cpu_s() -> float:
    """CPU-seconds of all child processes of this one that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
