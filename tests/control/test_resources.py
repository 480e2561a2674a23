"""The registry: what is committed stays, what is not never was, and the log tells of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from streamedge.control.database import FILE_NAME, ControlDatabase, ControlError
from streamedge.control.log import ControlLog, RowKind
from streamedge.control.position import epoch_of
from streamedge.control.resources import Kind, Resource, ResourceStore, read_resources
from tests.support import resource_process

POLICY = Resource(
    Kind.CACHE_POLICY, "one", "E1", "name", {"Name": "name", "List": [1]}, 1.5, 2.5, {"k": "v"}
)


def test_what_is_put_is_found_again(tmp_path: Path) -> None:
    database = ControlDatabase(tmp_path)
    registry = ResourceStore(database)
    later = Resource(Kind.KEY_GROUP, "one", "E2", "name", {}, 0.5, 0.5)
    with registry.change() as change:
        change.put(POLICY)
        change.put(later)
        assert change.resources() == (later, POLICY)  # the oldest first
    assert registry.resources() == (later, POLICY)
    database.close()
    again = ControlDatabase(tmp_path)
    assert ResourceStore(again).resources() == (later, POLICY)
    rows = ControlLog(again).read_after(0).rows
    assert [(row.kind, row.scope) for row in rows] == [(RowKind.CONFIGURATION, "one")] * 2
    with ResourceStore(again).change() as change:
        change.remove(later)
    assert ResourceStore(again).resources() == (POLICY,)
    again.close()


def test_what_raises_was_never_there(tmp_path: Path) -> None:
    database = ControlDatabase(tmp_path)
    registry = ResourceStore(database)

    def break_off() -> None:
        with registry.change() as change:
            change.put(POLICY)
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert registry.resources() == ()
    assert epoch_of(ControlLog(database).position()) == 0
    with registry.change():
        pass
    assert epoch_of(ControlLog(database).position()) == 0  # nothing changed, nothing to tell
    database.close()


def test_a_name_is_had_by_one_of_a_kind(tmp_path: Path) -> None:
    database = ControlDatabase(tmp_path)
    registry = ResourceStore(database)
    with registry.change() as change:
        change.put(POLICY)
    other = Resource(Kind.CACHE_POLICY, "two", "E1", "name", {}, 1.0, 1.0)
    with pytest.raises(ControlError), registry.change() as change:
        change.put(other)
    assert registry.resources() == (POLICY,)
    database.close()


def test_reading_changes_nothing(tmp_path: Path) -> None:
    assert read_resources(tmp_path) == ()
    assert list(tmp_path.iterdir()) == []
    database = ControlDatabase(tmp_path)
    with ResourceStore(database).change() as change:
        change.put(POLICY)
    assert read_resources(tmp_path) == (POLICY,)
    database.close()
    assert read_resources(tmp_path) == (POLICY,)
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 100)
    with pytest.raises(ControlError):
        read_resources(tmp_path)


@pytest.mark.parametrize("changes_before_kill", [1, 17, 60])
def test_every_acknowledged_change_survives_kill(tmp_path: Path, changes_before_kill: int) -> None:
    program = [sys.executable, resource_process.__file__, str(tmp_path)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [json.loads(process.stdout.readline()) for _ in range(changes_before_kill)]
    process.kill()
    # What was said before it died counts too; a line that it could not finish was not said.
    acknowledged += [
        json.loads(line) for line in process.stdout.read().splitlines() if line.endswith("}")
    ]
    process.stdout.close()
    process.wait(30)

    database = ControlDatabase(tmp_path)
    resources = {one.id: one for one in ResourceStore(database).resources()}
    newest = {said["id"]: said["number"] for said in acknowledged}
    assert resources.keys() >= newest.keys()
    last = acknowledged[-1]["number"]
    for identifier, number in newest.items():
        found = resources[identifier]
        # One more may have been committed and not been told any more.
        assert found.document["number"] in {number, last + 1}
        assert found == resource_process.resource(found.document["number"])
    assert epoch_of(ControlLog(database).position()) in {last + 1, last + 2}
    database.close()
