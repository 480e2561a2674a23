"""The kernel's floor: a C program that sends media over RTMP by ``sendfile``, and no more."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.servers.server import BenchError, Server, accepts, free_port, process, scratch_folder

FLOOR = "sendfile in C"
RUN_BYTES = 520_000
BYTES_PER_S = 500_000  # 4 Mb/s, as the titles
_SOURCE = Path(__file__).with_suffix(".c")
_COMPILE_TIMEOUT_S = 60


@contextmanager
def sendfile_floor(file: Path, *, core: int | None) -> Iterator[Server]:
    """Sends each viewer runs of ``file`` in real time. Raises BenchError without a C compiler."""
    port = free_port()
    run_ms = 1000 * RUN_BYTES // BYTES_PER_S
    with scratch_folder() as folder:
        program = folder / "sendfile_floor"
        try:
            subprocess.run(
                ["cc", "-O2", "-o", str(program), str(_SOURCE)],
                check=True,
                capture_output=True,
                text=True,
                timeout=_COMPILE_TIMEOUT_S,
            )
        except (OSError, subprocess.SubprocessError) as exc:
            raise BenchError(f"{_SOURCE.name} cannot be compiled: {exc}") from exc
        command = [str(program), str(port), str(file), str(RUN_BYTES), str(run_ms)]
        log = folder / "log"
        with process(command, log=log, ready=lambda: accepts(port), core=core) as pid:
            yield Server(FLOOR, pid, rtmp_port=port)
