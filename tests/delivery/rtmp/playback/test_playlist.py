"""streamedge/delivery/rtmp/playback/playlist.py against a model: a list of names and a cursor."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamedge.delivery.rtmp.playback.playlist import (
    ITEMS_MAX,
    PLAY_FAILED,
    Added,
    Begin,
    Playlist,
    Refusal,
    Replaced,
    Switch,
)
from streamedge.delivery.rtmp.protocol.events import Offset, Play, Play2, Start, Transition

NAMES = st.sampled_from(["a", "b", "c", "low", "high"])
OFFSETS = st.one_of(st.sampled_from(list(Offset)), st.integers(0, 10_000))


def play(name: str, **fields: Any) -> Play:
    values = {"start": Start.ANY, "duration_ms": None, "reset": False, **fields}
    return Play(1, name, **values)


def play2(
    name: str,
    transition: Transition,
    old_name: str = "",
    offset: int | Offset = Offset.AFTER_SENT,
) -> Play2:
    return Play2(1, name, old_name, Start.ANY, None, transition, offset)


class PlaylistModel(RuleBasedStateMachine):
    """``names`` are all items, ``cursor`` is the current one, ``begins`` are their times."""

    def __init__(self) -> None:
        super().__init__()
        self.playlist = Playlist()
        self.names: list[str] = []
        self.begins: list[int] = []
        self.cursor = -1
        self.waits = False
        self.is_over = False
        self.switch: str | None = None

    def add(self, name: str, decision: object) -> bool:
        if len(self.names) == ITEMS_MAX and self.cursor <= 0:
            assert isinstance(decision, Refusal)
            assert decision.code == PLAY_FAILED
            return False
        assert isinstance(decision, Added)
        if len(self.names) == ITEMS_MAX:
            del self.names[0], self.begins[0]
            self.cursor -= 1
        self.names.append(name)
        return True

    @property
    def has_next(self) -> bool:
        return not self.waits and self.cursor + 1 < len(self.names)

    @rule(name=NAMES, count=st.sampled_from([1, 1, 1, 30]))
    def play_without_reset(self, name: str, count: int) -> None:
        for _ in range(count):
            if self.add(name, self.playlist.play(play(name))):
                self.waits = False

    @rule(name=NAMES)
    def append_and_wait(self, name: str) -> None:
        is_idle = (self.cursor < 0 or self.is_over) and not self.has_next
        decision = self.playlist.play2(play2(name, Transition.APPEND_AND_WAIT))
        if self.add(name, decision) and is_idle:
            self.waits = True

    @rule(name=NAMES, offset=OFFSETS)
    def resume(self, name: str, offset: int | Offset) -> None:
        if self.add(name, self.playlist.play2(play2(name, Transition.RESUME, offset=offset))):
            self.waits = False

    @rule()
    def resume_without_a_name(self) -> None:
        decision = self.playlist.play2(play2("", Transition.RESUME))
        if self.cursor + 1 < len(self.names):
            assert decision == Added()
            self.waits = False
        else:
            assert isinstance(decision, Refusal)

    def row_to_come(self, name: str) -> int | None:
        rows = range(self.cursor + 1, len(self.names))
        return next((row for row in rows if self.names[row] == name), None)

    @rule(name=NAMES, old=NAMES)
    def swap(self, name: str, old: str) -> None:
        decision = self.playlist.play2(play2(name, Transition.SWAP, old))
        row = self.row_to_come(old)
        if row is None:
            assert isinstance(decision, Refusal)
            assert ("has begun" in decision.description) == (old in self.names)
        else:
            assert isinstance(decision, Replaced)
            assert decision.item.is_swapped
            self.names[row] = name

    @rule(name=NAMES, old=st.one_of(st.just(""), NAMES), offset=OFFSETS)
    def switch_to(self, name: str, old: str, offset: int | Offset) -> None:
        decision = self.playlist.play2(play2(name, Transition.SWITCH, old, offset))
        row = self.row_to_come(old)
        if self.cursor >= 0 and self.names[self.cursor] == old:
            row = None
        if row is None and self.cursor < 0 and self.names:
            row = 0
        if row is not None:
            assert isinstance(decision, Replaced)
            self.names[row] = name
        elif self.cursor < 0:
            self.add(name, decision)
        elif self.is_over and offset is Offset.AFTER_SENT:
            assert isinstance(decision, Refusal)
        else:
            assert isinstance(decision, Switch)
            assert (decision.item.name, decision.offset) == (name, offset)
            self.switch = name

    @rule(length_ms=st.integers(1, 5000))
    def end_of_item(self, length_ms: int) -> None:
        item = self.playlist.advance()
        if not self.has_next:
            assert item is None
            self.is_over = True
            return
        self.cursor += 1
        self.is_over = False
        assert item is not None
        at_ms = self.begins[-1] + length_ms if self.begins else 0
        self.begins.append(at_ms)
        self.playlist.begin(at_ms, -at_ms)

    @precondition(lambda self: self.cursor >= 0)
    @rule()
    def failure_of_item(self) -> None:
        self.playlist.fail()
        del self.names[self.cursor], self.begins[self.cursor]
        self.cursor -= 1
        self.switch = None

    @precondition(lambda self: self.switch is not None and self.playlist.switch is not None)
    @rule()
    def seam_of_switch(self) -> None:
        assert self.switch is not None
        self.playlist.complete_switch()
        self.names[self.cursor] = self.switch
        self.is_over = False

    @precondition(lambda self: self.cursor >= 0)
    @rule(time_ms=st.integers(0, 50_000))
    def seek(self, time_ms: int) -> None:
        begin = self.playlist.seek(time_ms)
        while self.cursor > 0 and self.begins[self.cursor] > time_ms:
            self.cursor -= 1
            self.begins.pop()
        self.is_over = False
        assert begin == Begin(self.begins[self.cursor], -self.begins[self.cursor])
        assert self.playlist.switch is None

    @invariant()
    def playlist_is_as_the_model(self) -> None:
        assert len(self.playlist) == len(self.names) <= ITEMS_MAX
        current = self.playlist.current
        assert (current.name if current else None) == (
            self.names[self.cursor] if self.cursor >= 0 else None
        )
        assert [item.name for item in self.playlist.upcoming] == self.names[self.cursor + 1 :]
        assert self.playlist.has_next == self.has_next


PlaylistModel.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestPlaylistModel = PlaylistModel.TestCase


def test_item_65_is_refused_and_played_items_make_room() -> None:
    playlist = Playlist()
    for number in range(ITEMS_MAX):
        assert playlist.play(play(f"{number}")) == Added()
    assert isinstance(playlist.play(play("65")), Refusal)
    playlist.advance()
    assert isinstance(playlist.play(play("65")), Refusal)
    playlist.advance()
    assert playlist.play(play("65")) == Added()
    assert len(playlist) == ITEMS_MAX
    assert [item.name for item in playlist.upcoming][-1] == "65"


def test_switch_keeps_start_and_length_of_the_item_that_it_replaces() -> None:
    playlist = Playlist()
    playlist.play(play("low", start=3000, duration_ms=5000))
    playlist.advance()
    decision = playlist.play2(play2("high", Transition.SWITCH))
    assert isinstance(decision, Switch)
    assert (decision.item.start_ms, decision.item.duration_ms) == (3000, 5000)
    playlist.complete_switch()
    assert playlist.current is decision.item


def test_switch_of_an_item_to_come_replaces_that_one() -> None:
    playlist = Playlist()
    for name in ("a", "low", "b"):
        playlist.play(play(name))
    playlist.advance()
    assert isinstance(playlist.play2(play2("high", Transition.SWITCH, "low")), Replaced)
    assert [item.name for item in playlist.upcoming] == ["high", "b"]
    assert playlist.switch is None


def test_resume_holds_its_place_until_the_first_item_begins() -> None:
    playlist = Playlist()
    for name in ("a", "b"):
        assert playlist.play2(play2(name, Transition.APPEND_AND_WAIT)) == Added()
    assert not playlist.has_next
    assert playlist.advance() is None
    assert playlist.play2(play2("c", Transition.RESUME, offset=12_000)) == Added()
    assert playlist.resume_ms == 12_000
    assert playlist.has_next
