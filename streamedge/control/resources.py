"""The durable store of resources of the API: one row for each.

This module manages the table ``resources`` of the control database. ``api`` interprets documents
and checks names and permissions. A change is one transaction; a row of the control log makes other
processes reload. All methods block and may be called from any thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from streamedge.control.database import FILE_NAME, ControlDatabase, ControlError
from streamedge.control.log import ControlLog, RowKind
from streamedge.sqlite import open_read_only

_COLUMNS = "kind, id, etag, name, document, created_s, modified_s, tags"
_ALL_QUERY = f"SELECT {_COLUMNS} FROM resources ORDER BY created_s, rowid"  # noqa: S608
_TABLE_QUERY = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'resources'"


class Kind(StrEnum):
    """The kind of a resource."""

    DISTRIBUTION = "distribution"
    STREAMING_DISTRIBUTION = "streaming-distribution"
    ORIGIN_ACCESS_CONTROL = "origin-access-control"
    ORIGIN_ACCESS_IDENTITY = "origin-access-identity"
    CACHE_POLICY = "cache-policy"
    ORIGIN_REQUEST_POLICY = "origin-request-policy"
    RESPONSE_HEADERS_POLICY = "response-headers-policy"
    PUBLIC_KEY = "public-key"
    KEY_GROUP = "key-group"


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of the API. ``document`` is its whole configuration in boto3's form.

    ``name`` is unique among its kind: a CallerReference or a name. Times are in seconds
    since the epoch; ``etag`` changes with each change of the document.
    """

    kind: Kind
    id: str
    etag: str
    name: str
    document: Mapping[str, Any]
    created_s: float
    modified_s: float
    tags: Mapping[str, str] = field(default_factory=dict)


class ResourceTransaction:
    """An open transaction: it sees its own writes and no later writes of others."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.changed: list[str] = []

    def resources(self) -> tuple[Resource, ...]:
        """All resources, oldest first."""
        return _all(self._connection)

    def put(self, resource: Resource) -> None:
        """Creates or replaces ``resource``. Raises ControlError if its name is in use."""
        _put(self._connection, resource)
        self.changed.append(resource.id)

    def remove(self, resource: Resource) -> None:
        """Removes ``resource``."""
        _remove(self._connection, resource.kind.value, resource.id)
        self.changed.append(resource.id)


class CollectedChanges(ResourceTransaction):
    """A transaction in a fleet: changes are collected, and nothing is written here.

    It reads all resources when it is made, and does not hold the connection afterwards. ``changes``
    has the resources before and after, by kind and id.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._before = {(one.kind, one.id): one for one in super().resources()}
        self.changes: dict[tuple[Kind, str], tuple[Resource | None, Resource | None]] = {}

    def resources(self) -> tuple[Resource, ...]:
        return tuple(self._before.values())

    def put(self, resource: Resource) -> None:
        for key, other in self._before.items():
            other_now = self.changes[key][1] if key in self.changes else other
            is_other = other_now is not None and key != (resource.kind, resource.id)
            if is_other and (key[0], other.name) == (resource.kind, resource.name):
                raise ControlError(f"{other.id} has the name {resource.name!a}")
        self._change(resource.kind, resource.id, resource)

    def remove(self, resource: Resource) -> None:
        self._change(resource.kind, resource.id, None)

    def _change(self, kind: Kind, identifier: str, after: Resource | None) -> None:
        before = self._before.get((kind, identifier))
        self.changes[kind, identifier] = before, after
        self.changed.append(identifier)


class SharedChanges(Protocol):
    """Puts changes of resources into the one order that all edges of a fleet share.

    ``append`` is called in a thread and returns when the changes are in effect here. ``expected``
    is what ``expected_position`` returned in the transaction that the changes were made from.
    Raises ConflictError if other changes came first: then the operation is run again. Raises
    UnavailableError if the order cannot be decided now.
    """

    def expected_position(self, connection: sqlite3.Connection) -> int: ...

    def append(
        self,
        changes: Mapping[tuple[Kind, str], tuple[Resource | None, Resource | None]],
        expected: int,
    ) -> None: ...


class ConflictError(ControlError):
    """Another edge changed resources first; nothing was changed."""


class UnavailableError(ControlError):
    """The fleet cannot decide on a change now; the text says why, and what is known."""


class ResourceStore:
    """One process's access to the resources. Raises ControlError.

    ``shared``: the order of changes in a fleet; None in a fleet of one.
    """

    def __init__(self, database: ControlDatabase, shared: SharedChanges | None = None) -> None:
        self._database = database
        self._shared = shared
        self._log = ControlLog(database)

    def resources(self) -> tuple[Resource, ...]:
        """All committed resources, oldest first."""
        with self._database.read() as connection:
            return _all(connection)

    def resources_within(self, connection: sqlite3.Connection) -> tuple[Resource, ...]:
        """As ``resources``, within a transaction of the database."""
        return _all(connection)

    def put_within(self, connection: sqlite3.Connection, resource: Resource) -> None:
        """Creates or replaces a resource, within a transaction of the database.

        If another one has its name, that one goes: the later of two entries of the shared log wins.
        """
        connection.execute(
            "DELETE FROM resources WHERE kind = ? AND name = ? AND id <> ?",
            (resource.kind.value, resource.name, resource.id),
        )
        _put(connection, resource)

    def remove_within(self, connection: sqlite3.Connection, kind: str, identifier: str) -> None:
        """Removes a resource, if there is one, within a transaction of the database."""
        _remove(connection, kind, identifier)

    def unreadable(self) -> tuple[str, ...]:
        """The ids of rows that cannot be read: another version or a damaged disk left them."""
        with self._database.read() as connection:
            rows = connection.execute(_ALL_QUERY).fetchall()
        return tuple(str(row[1]) for row in rows if _resource(row) is None)

    def has(self, kind: Kind, identifier: str) -> bool:
        """Whether a resource has this id."""
        query = "SELECT 1 FROM resources WHERE kind = ? AND id = ?"
        with self._database.read() as connection:
            return connection.execute(query, (kind.value, identifier)).fetchone() is not None

    @contextmanager
    def change(self) -> Iterator[ResourceTransaction]:
        """Opens a transaction: on disk when the block ends, undone if the block raises.

        A row of the kind CONFIGURATION is added to the log for each changed resource. In a fleet
        the changes take effect when they come back in the shared log, which is before this returns.
        Raises ConflictError and UnavailableError in a fleet.
        """
        if self._shared is not None:
            with self._database.read() as connection:
                collected = CollectedChanges(connection)
                expected = self._shared.expected_position(connection)
            yield collected
            if collected.changes:
                self._shared.append(collected.changes, expected)
            return
        with self._database.transaction() as connection:
            transaction = ResourceTransaction(connection)
            yield transaction
            for identifier in transaction.changed:
                self._log.append_within(connection, RowKind.CONFIGURATION, identifier, {})


def encode_resource(resource: Resource) -> dict[str, Any]:
    """A resource as JSON's types, for the shared log."""
    return {
        "kind": resource.kind.value,
        "id": resource.id,
        "etag": resource.etag,
        "name": resource.name,
        "document": resource.document,
        "created_s": resource.created_s,
        "modified_s": resource.modified_s,
        "tags": dict(resource.tags),
    }


def decode_resource(text: str) -> Resource | None:
    """A resource from JSON; None if it is not one."""
    try:
        members = json.loads(text)
        document, tags = json.dumps(members["document"]), json.dumps(members["tags"])
        columns = [members[name] for name in ("kind", "id", "etag", "name")]
        times = [members[name] for name in ("created_s", "modified_s")]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return _resource((*columns, document, *times, tags))


def read_resources(folder: Path) -> tuple[Resource, ...]:
    """The resources in the control database of ``folder``, if there is one; changes nothing.

    Raises ControlError.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return ()
    try:
        with open_read_only(path) as connection:
            if connection.execute(_TABLE_QUERY).fetchone() is None:
                return ()
            return _all(connection)
    except sqlite3.Error as exc:
        raise ControlError(f"the control database {path}: {exc}") from exc


def _put(connection: sqlite3.Connection, resource: Resource) -> None:
    connection.execute(
        f"INSERT INTO resources ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
        " ON CONFLICT (kind, id) DO UPDATE SET etag = excluded.etag, name = excluded.name,"
        " document = excluded.document, modified_s = excluded.modified_s, tags = excluded.tags",
        (
            resource.kind.value,
            resource.id,
            resource.etag,
            resource.name,
            json.dumps(resource.document),
            resource.created_s,
            resource.modified_s,
            json.dumps(dict(resource.tags)),
        ),
    )


def _remove(connection: sqlite3.Connection, kind: str, identifier: str) -> None:
    connection.execute("DELETE FROM resources WHERE kind = ? AND id = ?", (kind, identifier))


def _all(connection: sqlite3.Connection) -> tuple[Resource, ...]:
    resources = (_resource(row) for row in connection.execute(_ALL_QUERY))
    return tuple(one for one in resources if one is not None)


def _resource(row: tuple[Any, ...]) -> Resource | None:
    """A resource from its columns, which may hold anything; None for invalid columns.

    A resource that cannot be read counts as missing for those that refer to it.
    """
    kind, identifier, etag, name, document, created_s, modified_s, tags = row
    try:
        resource = Resource(
            kind=Kind(kind),
            id=str(identifier),
            etag=str(etag),
            name=str(name),
            document=json.loads(document),
            created_s=float(created_s),
            modified_s=float(modified_s),
            tags=json.loads(tags),
        )
    except (ValueError, TypeError, RecursionError):
        return None
    is_valid = isinstance(resource.document, dict) and isinstance(resource.tags, dict)
    return resource if is_valid else None
