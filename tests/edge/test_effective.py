"""What a process serves by follows both the file and the API."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamedge.config.schema import Config
from streamedge.control.database import FILE_NAME, ControlDatabase
from streamedge.control.registry import Kind, Registry, Resource
from streamedge.edge.control import look_and_tell
from streamedge.edge.effective import EffectiveConfig, open_control_database
from streamedge.edge.generations import Generations
from streamedge.ops.log import Log
from streamedge.ops.log_output import LogTarget

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
def generations() -> Iterator[Generations]:
    made = Generations(Config(), 1)
    yield made
    made.close()


class HeardLog(Log):
    """A log whose events a test reads."""

    def __init__(self) -> None:
        super().__init__(LogTarget(os.devnull).open(), "test")
        self.events: list[str] = []

    def event(self, event: str, **fields: object) -> None:
        self.events.append(event)


def test_a_look_finds_each_change_once(tmp_path: Path, generations: Generations) -> None:
    database = ControlDatabase(tmp_path)
    effective = EffectiveConfig(generations, database, HeardLog())
    assert effective.look()
    assert not effective.look()
    generations.accept(Config.model_validate({"limits": {"url": 4096}}))
    assert effective.look()
    assert (effective.generation, effective.config.limits.url) == (1, 4096)
    with Registry(database).change() as change:
        change.put(POLICY)
    assert effective.look()
    (name,) = effective.config.cache_policies
    assert "P1" in name
    assert effective.declared == generations.config
    assert not effective.look()
    with Registry(database).change() as change:
        change.remove(POLICY)
    assert effective.look()
    assert effective.config == generations.config
    database.close()


def test_what_names_what_there_is_not_is_left_out(tmp_path: Path, generations: Generations) -> None:
    database, log = ControlDatabase(tmp_path), HeardLog()
    effective = EffectiveConfig(generations, database, log)
    with Registry(database).change() as change:
        change.put(POLICY)
        change.put(GROUP)
    look_and_tell(effective, log)
    assert [problem.id for problem in effective.left_out] == ["G1"]
    assert len(effective.config.cache_policies) == 1
    assert log.events == ["resource_left_out"]
    look_and_tell(effective, log)
    assert log.events == ["resource_left_out"]
    with Registry(database).change() as change:
        change.remove(GROUP)
    look_and_tell(effective, log)
    assert effective.left_out == ()
    assert log.events == ["resource_left_out"]
    database.close()


def test_without_a_database_what_is_declared_is_served(
    tmp_path: Path, generations: Generations
) -> None:
    log = HeardLog()
    (tmp_path / FILE_NAME).mkdir()
    assert open_control_database(tmp_path, log) is None
    effective = EffectiveConfig(generations, None, log)
    assert effective.look()
    assert effective.config == Config()
    assert log.events == ["control_database_refused"]


def test_a_database_that_fails_keeps_nobody_from_a_new_file(
    tmp_path: Path, generations: Generations
) -> None:
    log, database = HeardLog(), ControlDatabase(tmp_path)
    with Registry(database).change() as change:
        change.put(POLICY)
    effective = EffectiveConfig(generations, database, log)
    effective.look()
    database.close()
    generations.accept(Config.model_validate({"limits": {"url": 4096}}))
    assert effective.look()
    assert log.events == ["config_not_read"]
    assert effective.config.limits.url == 4096
    assert len(effective.config.cache_policies) == 1  # as it was read last
    assert not effective.look()
