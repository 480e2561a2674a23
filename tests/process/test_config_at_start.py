"""A starting worker reads its config, and waits for the control database if it must."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamedge.config.schema.config import Config
from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.database import FILE_NAME, ControlDatabase
from streamedge.control.resources import Kind, Resource, ResourceStore
from streamedge.coordination.config_versions import ConfigVersions
from streamedge.coordination.effective_config import EffectiveConfig
from streamedge.ops.log import Log, open_log
from streamedge.process import worker
from streamedge.process.worker import read_config
from tests.support.patience import PATIENCE_S

SILENT = open_log(os.devnull, "test")
POLICY = Resource(
    Kind.CACHE_POLICY,
    "P1",
    "E1",
    "pages",
    {"Name": "pages", "MinTTL": 7},
    created_s=1.0,
    modified_s=1.0,
)


class CountingConfig(EffectiveConfig):
    """Counts its refreshes."""

    def __init__(self, folder: Path, config_versions: ConfigVersions, log: Log) -> None:
        super().__init__(config_versions, ControlDatabase(folder, busy_timeout_s=0.0), log)
        self.refreshes = asyncio.Semaphore(0)
        self._loop = asyncio.get_running_loop()

    def refresh(self) -> bool:
        changed = super().refresh()
        self._loop.call_soon_threadsafe(self.refreshes.release)
        return changed


@pytest.fixture(name="config_versions")
def _config_versions() -> Iterator[ConfigVersions]:
    versions = ConfigVersions(Config(), 1)
    yield versions
    versions.close()


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder whose database has a policy that the API made."""
    monkeypatch.setattr(worker, "CONTROL_PATIENCE_S", 0.0)
    monkeypatch.setattr(worker, "CONTROL_POLL_S", 0.01)
    database = ControlDatabase(tmp_path)
    with ResourceStore(database).change() as change:
        change.put(POLICY)
    database.close()
    return tmp_path


def lock(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    return connection


async def test_worker_waits_for_the_database_if_the_api_made_resources(
    folder: Path, config_versions: ConfigVersions
) -> None:
    head = AnnouncedHead(folder)
    head.record_resources(has_resources=True)
    lock_holder = lock(folder)
    effective = CountingConfig(folder, config_versions, SILENT)
    reading = asyncio.create_task(read_config(effective, head, asyncio.Event()))
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(3):
            await effective.refreshes.acquire()
        assert not reading.done()
        lock_holder.close()
        await reading
    assert len(effective.config.cache_policies) == 1


async def test_worker_serves_the_file_if_the_api_made_no_resources(
    folder: Path, config_versions: ConfigVersions
) -> None:
    lock_holder = lock(folder)
    effective = CountingConfig(folder, config_versions, SILENT)
    async with asyncio.timeout(PATIENCE_S):
        await read_config(effective, AnnouncedHead(folder), asyncio.Event())
    assert effective.config == Config()
    assert effective.fault is not None
    lock_holder.close()


async def test_worker_does_not_wait_for_a_damaged_database(
    folder: Path, config_versions: ConfigVersions
) -> None:
    head = AnnouncedHead(folder)
    head.record_resources(has_resources=True)
    (folder / FILE_NAME).write_bytes(b"no database" * 1000)
    effective = CountingConfig(folder, config_versions, SILENT)
    async with asyncio.timeout(PATIENCE_S):
        await read_config(effective, head, asyncio.Event())
    assert effective.config == Config()


async def test_stopping_worker_stops_waiting_for_the_database(
    folder: Path, config_versions: ConfigVersions
) -> None:
    head, stopping = AnnouncedHead(folder), asyncio.Event()
    head.record_resources(has_resources=True)
    lock_holder = lock(folder)
    effective = CountingConfig(folder, config_versions, SILENT)
    reading = asyncio.create_task(read_config(effective, head, stopping))
    async with asyncio.timeout(PATIENCE_S):
        await effective.refreshes.acquire()
        stopping.set()
        await reading
    lock_holder.close()
