"""Damaged container files play to their end or are refused, and a helper does not break off."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamedge.errors import MediaError
from streamedge.media.containers.process import HelperLimits, HelperPool
from streamedge.media.library import MediaLibrary
from streamedge.media.medium import End, NeedData, Run, Skip
from tests.media.containers.test_medium import START, ready
from tests.media.test_library import asset
from tests.media.test_packager import edge_of
from tests.support.media.container_corpus import SEEDS, damaged

RUNS_MAX = 10_000  # of a file of a few seconds


@pytest.mark.parametrize("name", SEEDS)
async def test_damaged_file_plays_or_is_refused(
    cache_root: Path, name: str, corpus_size: int
) -> None:
    async with edge_of(cache_root) as (server, cache, origin):
        failures: list[tuple[str, str, str]] = []
        pool = HelperPool(HelperLimits(), lambda *failure: failures.append(failure))
        titles = MediaLibrary(
            cache, memory_bytes=64 << 20, index_bytes=64 << 20, moov_bytes=1 << 20, helpers=pool
        )
        plays = 0
        for number, data in enumerate(damaged(name, corpus_size)):
            server.put(str(number), data)
            try:
                medium = await titles.open(asset(origin, str(number)))
            except MediaError:
                continue
            plays += 1
            position = START
            for _ in range(RUNS_MAX):
                run = medium.next_run(position, 1000, None)
                if isinstance(run, End):
                    break
                if isinstance(run, NeedData):
                    await ready(medium, run)
                    continue
                assert isinstance(run, Run | Skip)
                assert run.following.position > position.position
                position = run.following
            else:
                pytest.fail(f"{number}: does not end")
            await medium.locate(medium.head.duration_ms // 2)
            medium.close()
        assert failures == []
        assert plays > corpus_size // 4
        await titles.close()
