"""What readers have to know of the journal: which objects are newer here than at their origin.

Owns one process's picture of that, brought up to date by what has changed since, so that a request
for an object that nobody writes costs a look into a set, however much waits.
"""

from __future__ import annotations

from pathlib import Path

from streamedge.write_back.rows import Row, connect, named_errors, newest_waiting

_KNOWN_ROWS_MAX = 4096


class PendingIndex:
    """The picture. For one thread alone; it never waits for a writer. Raises WriteQueueError."""

    def __init__(self, path: Path) -> None:
        with named_errors():
            self._connection = connect(path)
        self._seen = 0
        self._keys: set[str] = set()
        self._rows: dict[str, Row] = {}
        self._load()

    def close(self) -> None:
        self._connection.close()

    def refresh(self) -> None:
        """Takes in what has changed."""
        with named_errors():
            changes = self._connection.execute(
                "SELECT number, asset_key, EXISTS (SELECT 1 FROM writes WHERE"
                " writes.asset_key = changes.asset_key AND state IN ('queued', 'sending'))"
                " FROM changes WHERE number > ? ORDER BY number",
                (self._seen,),
            ).fetchall()
        if not changes:
            return
        if changes[0][0] != self._seen + 1:
            self._load()
            return
        for number, asset_key, is_waiting in changes:
            self._seen = number
            self._rows.pop(asset_key, None)
            if is_waiting:
                self._keys.add(asset_key)
            else:
                self._keys.discard(asset_key)

    def newest(self, asset_key: str) -> Row | None:
        """The newest waiting write of an object."""
        if asset_key not in self._keys:
            return None
        if asset_key not in self._rows:
            with named_errors():
                row = newest_waiting(self._connection, asset_key)
            if row is None:  # it has just ended, and will soon be said to have changed
                return None
            if len(self._rows) >= _KNOWN_ROWS_MAX:
                self._rows.clear()
            self._rows[asset_key] = row
        return self._rows[asset_key]

    def _load(self) -> None:
        with named_errors():
            self._connection.execute("BEGIN")
            try:
                query = "SELECT IFNULL(MAX(number), 0) FROM changes"
                self._seen = int(self._connection.execute(query).fetchone()[0])
                query = "SELECT DISTINCT asset_key FROM writes WHERE state IN ('queued', 'sending')"
                self._keys = {str(key) for (key,) in self._connection.execute(query)}
            finally:
                self._connection.execute("COMMIT")
        self._rows.clear()
