"""A worker that writes lines of an access log until it is killed, as a process.

spool_process.py FOLDER PROCESS DISTRIBUTION    appends the lines "PROCESS-0", "PROCESS-1", …
"""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path

from streamedge.logs.spool import Lines, SpoolWriter
from streamedge.logs.spool_names import LogFormat, SpoolTarget
from streamedge.ops.log import open_log
from streamedge.ops.metrics import Counts

INTERVAL_S = 1.0  # of the log's delivery
PAUSE_S = 0.01  # between two lines


async def write_lines(folder: Path, process: str, distribution: str) -> None:
    spool = SpoolWriter(folder, process, open_log(f"{folder}.{process}.log", process), Counts())
    target = SpoolTarget(distribution, LogFormat.WEB, INTERVAL_S)

    def make_lines(text: str) -> Lines:
        return [(target, f"{text}\n".encode())]

    for number in count():
        spool.add(1, time.time(), partial(make_lines, f"{process}-{number}"))
        await asyncio.sleep(PAUSE_S)


if __name__ == "__main__":
    asyncio.run(write_lines(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
