"""Hit-for-miss: which keys have responses that cannot be stored, so that waiting is in vain.

Without the marks, requests for such a key would wait for each other one by one. Pure: ``now_s`` is
seconds since 1970. A mark ends after ``HIT_FOR_MISS_S``, with a response that can be stored, or if
the clock went backwards.
"""

from __future__ import annotations

HIT_FOR_MISS_S = 60.0
HIT_FOR_MISS_KEYS_MAX = 8192  # each takes about 200 bytes


class HitForMiss:
    """A worker's marks, by the hash of the key; another key with that hash only does not wait."""

    def __init__(self) -> None:
        self._until_s: dict[int, float] = {}  # in the order of their beginning

    def __len__(self) -> int:
        return len(self._until_s)

    def holds(self, key: str, now_s: float) -> bool:
        """Whether requests for the key do not wait for each other now."""
        if not self._until_s:
            return False
        return now_s < self._until_s.get(hash(key), 0.0) <= now_s + HIT_FOR_MISS_S

    def begin(self, key: str, now_s: float) -> None:
        """Marks a key from now on; removes the oldest mark if there are too many."""
        self.end(key)
        if len(self._until_s) >= HIT_FOR_MISS_KEYS_MAX:
            del self._until_s[next(iter(self._until_s))]
        self._until_s[hash(key)] = now_s + HIT_FOR_MISS_S

    def end(self, key: str) -> None:
        """Removes the mark of a key, if it has one."""
        self._until_s.pop(hash(key), None)
