"""The allocator's arenas in the processes of a real edge."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

from streamedge.ops.malloc import ARENAS_MAX
from tests.support.process.edge_process import run_edge

_ARENA_BYTES = 64 << 20  # of addresses that glibc reserves for an arena that is not the first
TOML = '[origins.main]\ntype = "directory"\npath = "media"\n'


def count_arenas(pid: int) -> int:
    """The arenas of a process: the first, and each reservation of which a part is in use."""
    rows = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    count = 1
    for (used, used_mode, *_), (rest, rest_mode, *_) in pairwise(rows):
        begin, used_end = (int(address, 16) for address in used.split("-"))
        rest_begin, end = (int(address, 16) for address in rest.split("-"))
        is_adjacent = used_end == rest_begin and (used_mode, rest_mode) == ("rw-p", "---p")
        if is_adjacent and begin % _ARENA_BYTES == 0 and end - begin == _ARENA_BYTES:
            count += 1
    return count


async def test_threads_of_a_worker_share_arenas(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    with run_edge(tmp_path, TOML) as edge:
        await asyncio.to_thread(edge.await_log, "worker_up")
        assert max(count_arenas(pid) for pid in edge.worker_pids()) <= ARENAS_MAX
