"""The index of objects that have pending writes, in the memory of one process.

It is updated by the changes since the last update. A request for an object without a pending write
costs one lookup in a set, however long the queue is.
"""

from __future__ import annotations

from pathlib import Path

from streamedge.write_back.rows import Row, connect, named_errors, newest_pending

_CACHED_ROWS_MAX = 4096


class PendingIndex:
    """The index, for one thread. It never waits for a writer. Raises WriteQueueError."""

    def __init__(self, path: Path) -> None:
        with named_errors():
            self._connection = connect(path)
        self._last_change = 0
        self._keys: set[str] = set()
        self._rows: dict[str, Row] = {}
        self._load()

    def close(self) -> None:
        self._connection.close()

    def refresh(self) -> None:
        """Applies the changes since the last call."""
        with named_errors():
            changes = self._connection.execute(
                "SELECT number, asset_key, EXISTS (SELECT 1 FROM writes WHERE"
                " writes.asset_key = changes.asset_key AND state IN ('queued', 'sending'))"
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
            with named_errors():
                row = newest_pending(self._connection, asset_key)
            if row is None:  # it has just ended; its change will be applied at the next refresh
                return None
            if len(self._rows) >= _CACHED_ROWS_MAX:
                self._rows.clear()
            self._rows[asset_key] = row
        return self._rows[asset_key]

    def _load(self) -> None:
        with named_errors():
            self._connection.execute("BEGIN")
            try:
                query = "SELECT IFNULL(MAX(number), 0) FROM changes"
                self._last_change = int(self._connection.execute(query).fetchone()[0])
                query = "SELECT DISTINCT asset_key FROM writes WHERE state IN ('queued', 'sending')"
                self._keys = {str(key) for (key,) in self._connection.execute(query)}
            finally:
                self._connection.execute("COMMIT")
        self._rows.clear()
