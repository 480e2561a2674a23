"""The index of objects that have pending writes, in the memory of one process.

It is updated by the changes since the last update. A request for an object without a pending write
costs one lookup in a set, however long the queue is.
"""

from __future__ import annotations

from pathlib import Path

from streamedge.sqlite import last_change
from streamedge.write_back.rows import WAITING_SQL, Row, newest_pending, open_database

_CACHED_ROWS_MAX = 4096


class PendingIndex:
    """The index, for one thread. It never waits for a writer. Raises WriteQueueError."""

    def __init__(self, path: Path) -> None:
        self._database = open_database(path)
        self._last_change = 0
        self._keys: set[str] = set()
        self._rows: dict[str, Row] = {}
        self._load()

    def close(self) -> None:
        self._database.close()

    def refresh(self) -> None:
        """Applies the changes since the last call."""
        with self._database.read() as connection:
            changes = connection.execute(
                "SELECT number, asset_key, EXISTS (SELECT 1 FROM writes WHERE"  # noqa: S608
                f" writes.asset_key = changes.asset_key AND state IN {WAITING_SQL})"
                " FROM changes WHERE number > ? ORDER BY number",
                (self._last_change,),
            ).fetchall()
        if not changes:
            return
        if changes[0][0] != self._last_change + 1:
            self._load()
            return
        for number, asset_key, is_waiting in changes:
            self._last_change = number
            self._rows.pop(asset_key, None)
            if is_waiting:
                self._keys.add(asset_key)
            else:
                self._keys.discard(asset_key)

    def newest(self, asset_key: str) -> Row | None:
        """The newest pending write of an object, None when there is none."""
        if asset_key not in self._keys:
            return None
        if asset_key not in self._rows:
            with self._database.read() as connection:
                row = newest_pending(connection, asset_key)
            if row is None:  # the write has just ended; the next refresh applies the change
                return None
            if len(self._rows) >= _CACHED_ROWS_MAX:
                self._rows.clear()
            self._rows[asset_key] = row
        return self._rows[asset_key]

    def _load(self) -> None:
        with self._database.read() as connection:
            self._last_change = last_change(connection, "changes")
            query = f"SELECT DISTINCT asset_key FROM writes WHERE state IN {WAITING_SQL}"  # noqa: S608
            self._keys = {str(key) for (key,) in connection.execute(query)}
        self._rows.clear()
