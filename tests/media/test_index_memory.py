"""streamedge/media/index_memory.py: cached values and values in use, counted together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamedge.errors import CacheFullError
from streamedge.media.index_memory import IndexMemory, Lease

LIMIT_BYTES = 100


def test_least_recently_used_value_is_dropped_first() -> None:
    memory = IndexMemory[str, int](LIMIT_BYTES)
    for key in "abc":
        memory.add(key, ord(key), 30).close()
    lease = memory.lease("a")
    assert lease is not None
    lease.close()
    memory.add("d", 4, 30).close()
    assert memory.keys() == ["c", "a", "d"]
    assert memory.used_bytes == 90


def test_values_in_use_stay_and_others_are_refused() -> None:
    memory = IndexMemory[str, int](LIMIT_BYTES)
    first = memory.add("a", 1, 60)
    part = first.of("part of it")
    with pytest.raises(CacheFullError):
        memory.add("b", 2, 60)
    first.close()
    first.close()
    with pytest.raises(CacheFullError):
        memory.add("b", 2, 60)
    part.close()
    memory.add("b", 2, 60).close()
    assert memory.keys() == ["b"]


def test_single_value_may_exceed_the_limit() -> None:
    memory = IndexMemory[str, int](LIMIT_BYTES)
    memory.add("a", 1, 60).close()
    lease = memory.add("large", 2, 1000)
    assert memory.keys() == ["large"]
    with pytest.raises(CacheFullError):
        memory.add("a", 1, 1)
    lease.close()
    memory.add("a", 1, 1).close()
    assert memory.used_bytes == 1


class Uses(RuleBasedStateMachine):
    """Adds, leases and drops values in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = IndexMemory[int, tuple[int, int]](LIMIT_BYTES)
        self.leases: list[Lease[tuple[int, int]]] = []
        self.added = 0

    @rule(key=st.integers(0, 5), size_bytes=st.integers(1, 60))
    def keep(self, key: int, size_bytes: int) -> None:
        self.added += 1
        in_use = {lease.value: lease.value[1] for lease in self.leases}
        try:
            self.leases.append(self.memory.add(key, (self.added, size_bytes), size_bytes))
        except CacheFullError:
            assert sum(in_use.values()) + size_bytes > LIMIT_BYTES

    @rule(key=st.integers(0, 5))
    def use(self, key: int) -> None:
        lease = self.memory.lease(key)
        if lease is not None:
            self.leases.append(lease)

    @rule(data=st.data())
    def use_again(self, data: st.DataObject) -> None:
        if self.leases:
            self.leases.append(data.draw(st.sampled_from(self.leases)).clone())

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.leases:
            lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
            lease.close()
            lease.close()

    @rule()
    def forget(self) -> None:
        self.memory.drop_all()
        assert self.memory.keys() == []

    @invariant()
    def all_memory_is_counted_and_bounded(self) -> None:
        in_use = {lease.value for lease in self.leases}
        assert self.memory.used_bytes <= LIMIT_BYTES
        assert self.memory.used_bytes >= sum(size_bytes for _, size_bytes in in_use)
        if not self.leases:
            self.memory.drop_all()
            assert self.memory.used_bytes == 0


TestUses = Uses.TestCase


@given(st.integers(1, 10))
def test_leases_are_counted(count: int) -> None:
    memory = IndexMemory[str, int](LIMIT_BYTES)
    leases = [memory.add("a", 1, 50)]
    leases += [leases[0].clone() for _ in range(count)]
    memory.drop_all()
    for lease in leases:
        assert memory.used_bytes == 50
        lease.close()
    assert memory.used_bytes == 0
