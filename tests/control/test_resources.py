"""The resource store: transactions, durability, and the rows in the control log."""

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
from tests.support.patience import PATIENCE_S
from tests.support.process import resource_process

POLICY = Resource(
    Kind.CACHE_POLICY, "one", "E1", "name", {"Name": "name", "List": [1]}, 1.5, 2.5, {"k": "v"}
)


def test_committed_resource_is_read_after_reopening(tmp_path: Path) -> None:
    database = ControlDatabase(tmp_path)
    store = ResourceStore(database)
    later = Resource(Kind.KEY_GROUP, "one", "E2", "name", {}, 0.5, 0.5)
    with store.change() as transaction:
        transaction.put(POLICY)
        transaction.put(later)
        assert transaction.resources() == (later, POLICY)  # the oldest first
    assert store.resources() == (later, POLICY)
    database.close()
    reopened = ControlDatabase(tmp_path)
    assert ResourceStore(reopened).resources() == (later, POLICY)
    rows = ControlLog(reopened).read_after(0).rows
    assert [(row.kind, row.scope) for row in rows] == [(RowKind.CONFIGURATION, "one")] * 2
    with ResourceStore(reopened).change() as transaction:
        transaction.remove(later)
    assert ResourceStore(reopened).resources() == (POLICY,)
    reopened.close()


def test_failed_transaction_changes_nothing(tmp_path: Path) -> None:
    database = ControlDatabase(tmp_path)
    store = ResourceStore(database)

    def fail() -> None:
        with store.change() as transaction:
            transaction.put(POLICY)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert store.resources() == ()
    assert epoch_of(ControlLog(database).position()) == 0
    with store.change():
        pass
    assert epoch_of(ControlLog(database).position()) == 0  # nothing changed, so there is no row
    database.close()


def test_name_is_unique_among_its_kind(tmp_path: Path) -> None:
    database = ControlDatabase(tmp_path)
    store = ResourceStore(database)
    with store.change() as transaction:
        transaction.put(POLICY)
    other = Resource(Kind.CACHE_POLICY, "two", "E1", "name", {}, 1.0, 1.0)
    with pytest.raises(ControlError), store.change() as transaction:
        transaction.put(other)
    assert store.resources() == (POLICY,)
    database.close()


def test_read_resources_changes_nothing(tmp_path: Path) -> None:
    assert read_resources(tmp_path) == ()
    assert list(tmp_path.iterdir()) == []
    database = ControlDatabase(tmp_path)
    with ResourceStore(database).change() as transaction:
        transaction.put(POLICY)
    assert read_resources(tmp_path) == (POLICY,)
    database.close()
    assert read_resources(tmp_path) == (POLICY,)
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 100)
    with pytest.raises(ControlError):
        read_resources(tmp_path)


@pytest.mark.parametrize("changes_before_kill", [1, 17, 60])
def test_acknowledged_change_survives_kill(tmp_path: Path, changes_before_kill: int) -> None:
    program = [sys.executable, resource_process.__file__, str(tmp_path)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [json.loads(process.stdout.readline()) for _ in range(changes_before_kill)]
    process.kill()
    # Lines that it wrote before it died count too; an incomplete line does not.
    acknowledged += [
        json.loads(line) for line in process.stdout.read().splitlines() if line.endswith("}")
    ]
    process.stdout.close()
    process.wait(PATIENCE_S)

    database = ControlDatabase(tmp_path)
    resources = {one.id: one for one in ResourceStore(database).resources()}
    newest = {line["id"]: line["number"] for line in acknowledged}
    assert resources.keys() >= newest.keys()
    last = acknowledged[-1]["number"]
    for identifier, number in newest.items():
        resource = resources[identifier]
        # One more change may have been committed but not reported.
        assert resource.document["number"] in {number, last + 1}
        assert resource == resource_process.resource(resource.document["number"])
    assert epoch_of(ControlLog(database).position()) in {last + 1, last + 2}
    database.close()
