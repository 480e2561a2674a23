"""streamedge/media/mp4/edit_list.py: which samples are played, and when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import MediaError
from streamedge.media.mp4.edit_list import EDITS_MAX, Edit, Edited, apply_edits, parse_elst
from streamedge.media.mp4.sample_table import SampleTable
from tests.support.media.mp4_writer import words


def table(count: int = 20, *, key_every: int = 5, composition: int = 0) -> SampleTable:
    """Samples of 100 units each."""
    return SampleTable(
        offset=np.arange(count) * 10,
        size_bytes=np.full(count, 10, np.uint32),
        dts=np.arange(count) * 100,
        composition=np.full(count, composition, np.int64),
        is_sync=np.arange(count) % key_every == 0,
        description=np.zeros(count, np.uint32),
        end=count * 100,
        decode_shift=0,
        composed=count if composition else 0,
        is_overfull=False,
        has_sync_flags=True,
    )


def edited(
    samples: SampleTable, *edits: tuple[int, int], is_audio: bool = False, rows_max: int = 1000
) -> Edited:
    return apply_edits(
        samples,
        tuple(Edit(*edit) for edit in edits),
        timescale=100,
        movie_timescale=100,
        is_audio=is_audio,
        rows_max=rows_max,
    )


def test_all_samples_are_played_without_edits() -> None:
    result = edited(table(3))
    assert (result.rows.tolist(), result.pts.tolist()) == ([0, 1, 2], [0, 100, 200])


def test_edit_ends_at_its_duration() -> None:
    result = edited(table(), (500, 500))
    assert result.rows.tolist() == [5, 6, 7, 8, 9]
    assert result.pts.tolist() == [0, 100, 200, 300, 400]


def test_edit_begins_with_the_samples_its_decoder_needs() -> None:
    result = edited(table(), (300, 700))
    assert result.rows.tolist() == [5, 6, 7, 8, 9]
    assert result.pts.tolist() == [-200, -100, 0, 100, 200]


def test_audio_edit_has_a_second_of_preroll() -> None:
    result = edited(table(key_every=1), (300, 700), is_audio=True)
    assert result.rows.tolist() == [6, 7, 8, 9]
    assert result.pts.tolist() == [-100, 0, 100, 200]


def test_empty_edit_delays_the_samples_after_it() -> None:
    result = edited(table(), (250, -1), (50, -1), (200, 0))
    assert (result.rows.tolist(), result.pts.tolist()) == ([0, 1], [300, 400])


def test_edits_play_in_any_order_and_repeatedly() -> None:
    result = edited(table(), (200, 1000), (200, 0), (200, 1000))
    assert result.rows.tolist() == [10, 11, 0, 1, 10, 11]
    assert result.pts.tolist() == [0, 100, 200, 300, 400, 500]


def test_edit_list_without_samples_is_ignored() -> None:
    for edits in (((100, 9000),), ((0, 0),), ((100, -1),)):
        assert edited(table(), *edits).rows.tolist() == list(range(20))


def test_edit_does_not_begin_at_a_guessed_keyframe() -> None:
    samples = table(key_every=1)
    unknown = SampleTable(
        samples.offset, samples.size_bytes, samples.dts, samples.composition, samples.is_sync,
        samples.description, samples.end, 0, 0, is_overfull=False, has_sync_flags=False,
    )  # fmt: skip
    assert edited(unknown, (200, 700)).rows.tolist() == list(range(9))
    assert edited(samples, (200, 700)).rows.tolist() == [7, 8]


def test_repeated_samples_are_limited() -> None:
    with pytest.raises(MediaError, match="more than 50 samples"):
        edited(table(), *[(2000, 0)] * 3, rows_max=50)


def test_number_of_edits_is_limited() -> None:
    with pytest.raises(MediaError, match="over the limit"):
        parse_elst(memoryview(words(0, 0) + bytes(12 * (EDITS_MAX + 1))))


@given(st.binary(max_size=200))
def test_any_bytes_are_edits_or_refused(data: bytes) -> None:
    edits = parse_elst(memoryview(data))
    result = apply_edits(
        table(), edits, timescale=90_000, movie_timescale=1, is_audio=False, rows_max=10_000
    )
    assert len(result.rows) == len(result.dts) == len(result.pts) > 0
    assert set(result.rows.tolist()) <= set(range(20))


@given(
    st.lists(
        st.tuples(st.integers(0, (1 << 64) - 1), st.integers(-(1 << 63), (1 << 63) - 1)), max_size=8
    ),
    st.booleans(),
    st.integers(-300, 300),
)
def test_any_edits_play_samples_that_exist(
    edits: list[tuple[int, int]], is_audio: bool, composition: int
) -> None:
    samples = table(composition=composition)
    result = edited(samples, *edits, is_audio=is_audio)
    assert set(result.rows.tolist()) <= set(range(20))
    assert np.array_equal(result.pts - result.dts, samples.composition[result.rows])
