"""Journeys: how many system calls a miss costs, counted by strace in a worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.http.http_viewer import open_viewer
from tests.support.origins.scripted_origin import Reply, ScriptedOrigin
from tests.support.process.edge_process import run_edge
from tests.support.process.system_calls import count_calls

BODY = b"x" * 1000
# In one piece: a head without its body would cost another read, and another write of the file.
RESPONSE = b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: "1"\r\n\r\n' + BODY
MISSES = 100
FOLDERS = 1500  # so many random names leave none of the 256 folders of the cache to be made
# For each miss.
COSTS = {
    "openat": 2,  # no record is there; the new file
    "write": 2,  # the file: the record and the body; the request to the origin
    "close": 1,  # of the file that was used longest ago, as long as the limit is reached
    "fcntl": 2,  # the key's lock
    "poll": 1,  # whether the origin's connection is still open
    "read": 2,  # the viewer's request, the origin's response
    "pread64": 1,  # the body, from the new file
    "writev": 1,  # head and body
}
TOLERANCE = 0.3


async def test_miss_of_a_small_object_costs_few_system_calls(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.script(Reply(raw=RESPONSE, keeps_open=True), times=FOLDERS + MISSES)
        toml = f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n'
        with run_edge(tmp_path, toml) as edge:
            (worker,) = await asyncio.to_thread(edge.worker_pids)
            async with open_viewer(edge.http_port) as viewer:
                for number in range(FOLDERS):
                    assert (await viewer.get(f"/page-{number}")).body == BODY
                with count_calls(worker, tmp_path / "calls") as calls:
                    for number in range(FOLDERS, FOLDERS + MISSES):
                        response = await viewer.get(f"/page-{number}")
                        assert (response.body, response.cache) == (BODY, "Miss")
        costs = calls.for_each(MISSES)
        too_many = {
            name: cost for name, cost in costs.items() if cost > COSTS.get(name, 0) + TOLERANCE
        }
        assert too_many == {}
        assert costs["openat"] >= 1  # the calls were counted
        assert len(list((tmp_path / "cache" / "assets").glob("*/*"))) == FOLDERS + MISSES
