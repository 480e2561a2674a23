"""streamedge/media/mp4/fragment_search.py: walks between hints that may be wrong."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.errors import MediaError
from streamedge.media.mp4 import fragment_search as search
from streamedge.media.mp4.fragment_search import Budget, Section
from streamedge.spans import Span
from tests.support.media.fragment_writer import MUXERS, fragmented_film, muxed
from tests.support.media.media_oracle import feed, fragments_of
from tests.support.media.mp4_writer import box, words

FILM = fragmented_film([[bytes([number]) * 300] * 3 for number in range(40)], sidx=True, mfra=True)
LIMIT_BYTES = 1 << 20


def joined(data: bytes, first: int, hints: Sequence[int]) -> Section:
    """The fragments, read from all hints first."""
    budget = Budget(LIMIT_BYTES)
    sections: dict[Span, Section | None] = {}
    for span in search.split(first, tuple(hints), len(data)):
        try:
            sections[span] = feed(search.walk_section(len(data), span, budget), data)[0]
        except MediaError:
            sections[span] = None
    return feed(search.join(sections, len(data), budget), data)[0]


def positions(section: Section) -> list[int]:
    return [moof.position for moof in section.moofs]


def test_sidx_and_mfra_list_all_fragments() -> None:
    start, requests = feed(search.read_start(len(FILM.data), 24, Budget(LIMIT_BYTES)), FILM.data)
    assert start.first_moof == FILM.positions[0]
    assert start.hints == FILM.positions
    assert start.listed_end > FILM.positions[-1]
    assert len(requests) == 1
    mfra, _ = feed(search.read_mfra(len(FILM.data), Budget(LIMIT_BYTES)), FILM.data)
    assert mfra == FILM.positions


@pytest.mark.parametrize("muxer", ["global sidx", "dash", "empty moov", "a moof for each track"])
def test_indexes_of_ffmpeg_list_positions_of_its_fragments(muxer: str) -> None:
    data = muxed(MUXERS[muxer])
    moov_end = data.index(b"moov") - 4
    moov_end += int.from_bytes(data[moov_end : moov_end + 4])
    start, _ = feed(search.read_start(len(data), moov_end, Budget(LIMIT_BYTES)), data)
    mfra, _ = feed(search.read_mfra(len(data), Budget(LIMIT_BYTES)), data)
    moofs = positions(fragments_of(data, moov_end))
    assert len(moofs) >= 6
    assert start.first_moof == moofs[0]
    assert set(mfra) <= set(moofs)
    hints = {*mfra, *start.hints}
    assert len(hints) >= 6
    if muxer == "global sidx":
        assert len(start.hints) >= 6


def test_section_takes_one_read_for_its_fragment() -> None:
    for span in search.split(FILM.positions[0], FILM.positions, len(FILM.data)):
        walk = search.walk_section(len(FILM.data), span, Budget(LIMIT_BYTES))
        section, requests = feed(walk, FILM.data)
        assert len(requests) == 1
        assert positions(section) == [span.start]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(FILM.positions), st.integers(0, len(FILM.data) + 100)),
             max_size=30)
)  # fmt: skip
def test_any_hints_lead_to_the_same_fragments(hints: list[int]) -> None:
    section = joined(FILM.data, FILM.positions[0], hints)
    assert positions(section) == list(FILM.positions)
    assert section.fault == ""


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(0, 500), max_size=8))
def test_any_bytes_end_in_a_section_or_a_media_error(tail: bytes, hints: list[int]) -> None:
    data = FILM.data[: FILM.positions[2]] + tail
    try:
        section = joined(data, FILM.positions[0], hints)
    except MediaError:
        return
    assert positions(section)[:2] == list(FILM.positions[:2])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_damaged_index_gives_hints_or_none(content: bytes) -> None:
    assert all(hint >= 0 for hint in search.parse_sidx(memoryview(content), 1000))
    for kind in "tfra", "free":
        assert all(
            hint >= 0 for hint in search.parse_mfra(memoryview(box("mfra", box(kind, content))))
        )
    data = box("mfra", content) + box("mfro", words(0, len(content) + 24))
    feed(search.read_mfra(len(data), Budget(LIMIT_BYTES)), data)


def test_search_returns_the_first_fragment_behind_a_position() -> None:
    first, second = FILM.positions[3:5]
    for start, expected in ((first, first), (first + 1, second), (FILM.positions[-1] + 1, None)):
        position, _ = feed(
            search.search_moof(Span(start, len(FILM.data)), Budget(LIMIT_BYTES)), FILM.data
        )
        assert position == expected


def test_search_finds_a_header_on_the_border_of_two_windows() -> None:
    header = FILM.data[FILM.positions[0] :][:24]
    for before in range(search.SEARCH_WINDOW_BYTES - 30, search.SEARCH_WINDOW_BYTES + 4):
        data = bytes(before) + header + bytes(100)
        position, _ = feed(search.search_moof(Span(0, len(data)), Budget(LIMIT_BYTES)), data)
        assert position == before


@pytest.mark.parametrize("size", [-7, -400])
def test_file_that_is_cut_off_ends_with_a_fault_or_at_a_sample(size: int) -> None:
    data = FILM.data[: FILM.positions[-1] + 40] if size == -7 else FILM.data[:size]
    section = joined(data, FILM.positions[0], FILM.positions)
    assert positions(section)[:38] == list(FILM.positions[:38])
    assert ("cut off" in section.fault) == (size == -7)


def test_damage_ends_the_fragments_with_its_position() -> None:
    at = FILM.positions[20]
    data = bytearray(FILM.data)
    data[at : at + 4] = words(3)
    section = joined(bytes(data), FILM.positions[0], FILM.positions)
    assert positions(section) == list(FILM.positions[:20])
    assert f"damaged at byte {at}" in section.fault


def test_index_beyond_its_limits_is_refused() -> None:
    whole = Span(FILM.positions[0], len(FILM.data))
    with pytest.raises(MediaError, match=r"over 500 bytes \(limits.moov\)"):
        feed(search.walk_section(len(FILM.data), whole, Budget(500)), FILM.data)
    padding = box("free") * (search.BOXES_MAX + 1)
    with pytest.raises(MediaError, match="boxes"):
        feed(search.walk_section(len(padding), Span(0, len(padding)), Budget(500)), padding)
