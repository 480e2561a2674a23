"""The effective config follows the config file and the API."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamedge.config.schema.config import Config
from streamedge.control.announced_head import AnnouncedHead
from streamedge.control.database import FILE_NAME, ControlDatabase
from streamedge.control.resources import Kind, Resource, ResourceStore
from streamedge.coordination import config_watch
from streamedge.coordination.config_versions import ConfigVersions
from streamedge.coordination.config_watch import ConfigWatch
from streamedge.coordination.effective_config import EffectiveConfig
from streamedge.ops.log import Log
from streamedge.ops.log_output import LogTarget
from tests.support.patience import PATIENCE_S

POLICY = Resource(
    Kind.CACHE_POLICY,
    "P1",
    "E1",
    "pages",
    {"Name": "pages", "MinTTL": 7},
    created_s=1.0,
    modified_s=1.0,
)
GROUP = Resource(
    Kind.KEY_GROUP,
    "G1",
    "E1",
    "group",
    {"Name": "group", "Items": ["KNOWHERE"]},
    created_s=1.0,
    modified_s=1.0,
)


@pytest.fixture
def config_versions() -> Iterator[ConfigVersions]:
    versions = ConfigVersions(Config(), 1)
    yield versions
    versions.close()


class RecordingLog(Log):
    """A log whose events a test reads."""

    def __init__(self) -> None:
        super().__init__(LogTarget(os.devnull).open(), "test")
        self.events: list[str] = []

    def event(self, event: str, **fields: object) -> None:
        self.events.append(event)


def test_refresh_reads_each_change_once(tmp_path: Path, config_versions: ConfigVersions) -> None:
    database = ControlDatabase(tmp_path)
    effective = EffectiveConfig(config_versions, database, RecordingLog())
    assert effective.refresh()
    assert not effective.refresh()
    config_versions.publish(Config.model_validate({"limits": {"url": 4096}}))
    assert effective.refresh()
    assert (effective.generation, effective.config.limits.url) == (1, 4096)
    with ResourceStore(database).change() as change:
        change.put(POLICY)
    assert effective.refresh()
    (name,) = effective.config.cache_policies
    assert "P1" in name
    assert effective.from_file == config_versions.config
    assert not effective.refresh()
    with ResourceStore(database).change() as change:
        change.remove(POLICY)
    assert effective.refresh()
    assert effective.config == config_versions.config
    database.close()


async def test_resource_with_an_unknown_reference_is_not_applied(
    tmp_path: Path, config_versions: ConfigVersions
) -> None:
    database, log = ControlDatabase(tmp_path), RecordingLog()
    effective = EffectiveConfig(config_versions, database, log)
    head = AnnouncedHead(tmp_path)
    watch = ConfigWatch(effective, head, log)
    with ResourceStore(database).change() as change:
        change.put(POLICY)
        change.put(GROUP)
    watch.refresh()
    assert [problem.id for problem in effective.not_applied] == ["G1"]
    assert len(effective.config.cache_policies) == 1
    assert log.events == ["resource_not_applied"]
    watch.refresh()
    assert log.events == ["resource_not_applied"]
    with ResourceStore(database).change() as change:
        change.remove(GROUP)
    watch.refresh()
    assert effective.not_applied == ()
    assert log.events == ["resource_not_applied"]
    assert head.has_resources
    with ResourceStore(database).change() as change:
        change.remove(POLICY)
    watch.refresh()
    assert not head.has_resources
    database.close()


def refresh_and_notify(effective: EffectiveConfig, refreshed: asyncio.Event) -> bool:
    """Refreshes, and sets the event."""
    changed = EffectiveConfig.refresh(effective)
    refreshed.set()
    return changed


async def test_failed_read_of_the_database_is_retried(
    tmp_path: Path, config_versions: ConfigVersions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_watch, "RETRY_S", 0.01)
    log = RecordingLog()
    (tmp_path / FILE_NAME).mkdir()
    database = ControlDatabase(tmp_path)
    effective = EffectiveConfig(config_versions, database, log)
    watch = ConfigWatch(effective, AnnouncedHead(tmp_path), log)
    watch.refresh()
    assert effective.config == Config()
    assert effective.fault is not None
    (tmp_path / FILE_NAME).rmdir()
    with ResourceStore(database).change() as change:
        change.put(POLICY)
    refreshed = asyncio.Event()
    monkeypatch.setattr(effective, "refresh", lambda: refresh_and_notify(effective, refreshed))
    async with asyncio.timeout(PATIENCE_S):
        await refreshed.wait()
    assert len(effective.config.cache_policies) == 1
    assert log.events == ["config_not_read"]  # once, however many attempts
    watch.close()
    database.close()


def test_new_file_is_read_although_the_database_fails(
    tmp_path: Path, config_versions: ConfigVersions
) -> None:
    log, database = RecordingLog(), ControlDatabase(tmp_path)
    with ResourceStore(database).change() as change:
        change.put(POLICY)
    effective = EffectiveConfig(config_versions, database, log)
    effective.refresh()
    database.close()
    data = (tmp_path / FILE_NAME).read_bytes()
    (tmp_path / FILE_NAME).write_bytes(b"no database".ljust(len(data)))
    config_versions.publish(Config.model_validate({"limits": {"url": 4096}}))
    assert effective.refresh()
    assert log.events == ["config_not_read"]
    assert effective.config.limits.url == 4096
    assert len(effective.config.cache_policies) == 1  # as it was read last
    assert not effective.refresh()


def test_unreadable_resource_does_not_hide_others(
    tmp_path: Path, config_versions: ConfigVersions
) -> None:
    log, database = RecordingLog(), ControlDatabase(tmp_path)
    with ResourceStore(database).change() as change:
        change.put(GROUP)
        change.put(POLICY)
    with database.transaction() as connection:
        connection.execute("UPDATE resources SET document = '{' WHERE id = 'G1'")
    effective = EffectiveConfig(config_versions, database, log)
    assert effective.refresh()
    assert len(effective.config.cache_policies) == 1
    assert log.events == ["resource_unreadable"]
    database.close()
