"""A worker with a write queue, as a process: a program for ``test_queue_processes.py``.

    queue_process.py accept ROOT POINT     accepts a PUT of "film" and blocks at POINT for ever:
                                             "body" is on disk, "row" is committed, "answer" is sent
    queue_process.py replicate ROOT SLOT   sends pending writes to the folder ROOT/origin
    queue_process.py stick ROOT SLOT       the same, but no attempt ever ends
    queue_process.py silent ROOT SLOT      the same, but the cache is never notified

Each prints events as lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from streamedge.ops.log import Log
from streamedge.ops.log_output import LogTarget
from streamedge.ops.metrics import Counts
from streamedge.origin.directory.origin import DirectoryOrigin
from streamedge.origin.directory.writing import DirectoryWriter
from streamedge.origin.writing import Write, WriteResponse
from streamedge.write_back import replicator
from streamedge.write_back.bodies import NewBody
from streamedge.write_back.queue import WriteQueue
from streamedge.write_back.replicator import Replicator
from streamedge.write_back.rows import Row, Rows
from tests.support.origins.scripted_writer import REPLICATOR, body_of, put

LIMIT_BYTES = 1 << 24


class StdoutLog(Log):
    """Prints each event at once."""

    def event(self, event: str, **fields: Any) -> None:
        report({"event": event, "pid": os.getpid(), **fields})


class BlockingWriter(DirectoryWriter):
    """Does the write, but never returns the response."""

    async def write(self, write: Write, body: AsyncIterator[bytes] | None) -> WriteResponse:
        await super().write(write, body)
        report({"event": "stuck"})
        return await asyncio.Future()


def report(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def block_for_ever(point: str) -> None:
    """Prints ``point``, then blocks."""
    report({"event": point})
    threading.Event().wait()


async def accept(root: Path, point: str) -> None:
    sync, insert = NewBody.sync, Rows.insert

    async def sync_and_block(body: NewBody) -> None:
        await sync(body)
        block_for_ever("body")

    def insert_and_block(rows: Rows, row: Row, limit_bytes: int, *, is_judged: bool) -> Row:
        insert(rows, row, limit_bytes, is_judged=is_judged)
        block_for_ever("row")
        return row

    if point == "body":
        patch.object(NewBody, "sync", sync_and_block).start()
    if point == "row":
        patch.object(Rows, "insert", insert_and_block).start()
    write_queue = WriteQueue(root, 0, LIMIT_BYTES, REPLICATOR)
    answer = await write_queue.accept("key", "main", put("film"), body_of(b"hello"))
    assert answer.status == 200
    block_for_ever("answer")


async def replicate(
    root: Path, slot: int, kind: type[DirectoryWriter], *, silent: bool = False
) -> None:
    async def notify(key: str) -> None:
        if silent:
            block_for_ever("silent")
        report({"event": "notified", "key": key})

    await Replicator(
        WriteQueue(root, slot, LIMIT_BYTES, REPLICATOR),
        {"main": kind(root / "origin")},
        {"main": DirectoryOrigin(root / "origin")},
        notify,
        StdoutLog(LogTarget(os.devnull).open(), str(slot)),
        Counts(),
    ).run()


if __name__ == "__main__":
    # As the processes of a killed supervisor, these share no wake-up with the test.
    patch.object(replicator, "RECHECK_S", 0.05).start()
    task, folder, argument = sys.argv[1:]
    if task == "accept":
        asyncio.run(accept(Path(folder), argument))
    else:
        writer = BlockingWriter if task == "stick" else DirectoryWriter
        asyncio.run(replicate(Path(folder), int(argument), writer, silent=task == "silent"))
