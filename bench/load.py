"""Runs a load generator in a separate process and returns its result.

The plan is a JSON argument, the result is JSON on standard output. A load generator is a module
that can be run; it never shares a process with what it measures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from bench.machine import LOAD_CORE, pinned
from bench.server import BenchError

GRACE_S = 60.0
"""A load generator may take this much longer than its plan."""


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
