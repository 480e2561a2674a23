"""Hit-for-miss: which keys have responses that cannot be stored, so that waiting is in vain.

Without the marks, requests for such a key would wait for each other one by one. Pure: ``now_s`` is
seconds since 1970. A mark ends after ``HIT_FOR_MISS_S``, with a response that can be stored, or if
the clock went backwards.

A mark also keeps how many lookups of the key had ended (in all workers) when nothing was stored
under it. While that number is the same, nothing is stored, and the disk need not be read.
"""

from __future__ import annotations

from collections import OrderedDict

HIT_FOR_MISS_S = 60.0
PROLONGED_AFTER_S = 1.0
HIT_FOR_MISS_KEYS_MAX = 8192  # each takes about 250 bytes


class HitForMiss:
    """A worker's marks, by the hash of the key: a mark counts for another key with that hash."""

    def __init__(self) -> None:
        # By the hash of the key, in the order of their beginning.
        self._marks: OrderedDict[int, tuple[float, int | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._marks)

    def holds(self, key: str, now_s: float) -> bool:
        """Whether requests for the key do not wait for each other now."""
        if not self._marks:
            return False
        mark = self._marks.get(hash(key))
        return mark is not None and now_s < mark[0] <= now_s + HIT_FOR_MISS_S

    def is_empty(self, key: str, now_s: float, lookups_ended: int) -> bool:
        """Whether the mark holds, and still shows that nothing is stored under the key."""
        mark = self._marks.get(hash(key))
        return (
            mark is not None
            and mark[1] == lookups_ended
            and now_s < mark[0] <= now_s + HIT_FOR_MISS_S
        )

    def begin(self, key: str, now_s: float, lookups_ended: int | None = None) -> None:
        """Marks a key from now on; removes the oldest mark if there are too many.

        ``lookups_ended``: how many had ended when nothing was stored; None: something may be. A
        mark that is less than ``PROLONGED_AFTER_S`` old stays as it is.
        """
        mark = self._marks.get(hash(key))
        if mark is not None and mark[1] == lookups_ended:
            age_s = now_s + HIT_FOR_MISS_S - mark[0]
            if 0 <= age_s < PROLONGED_AFTER_S:
                return
        self.end(key)
        if len(self._marks) >= HIT_FOR_MISS_KEYS_MAX:
            self._marks.popitem(last=False)
        self._marks[hash(key)] = now_s + HIT_FOR_MISS_S, lookups_ended

    def end(self, key: str) -> None:
        """Removes the mark of a key, if it has one."""
        self._marks.pop(hash(key), None)
