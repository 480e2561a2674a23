"""streamedge/media/flv/timeline.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.media.flv.tags import TagFlag
from streamedge.media.flv.timeline import (
    FALL_BACK_MS,
    JUMP_AHEAD_MS,
    STEP_MS,
    Timeline,
    place_tags,
    start_shift_ms,
)

MEDIA = TagFlag.MEDIA
V, A, S = int(TagFlag.VIDEO | MEDIA), int(TagFlag.AUDIO | MEDIA), int(TagFlag.SCRIPT)
HEADER = int(TagFlag.VIDEO | TagFlag.SEQUENCE_HEADER)


def place(*tags: tuple[int, int], timeline: Timeline = Timeline()) -> list[int]:  # noqa: B008
    flags = np.array([kind for kind, _ in tags], np.uint8)
    times = np.array([time for _, time in tags], np.int64)
    medium_times, _ = place_tags(timeline, times, flags)
    return [int(time) for time in medium_times]


@pytest.mark.parametrize(
    ("first_ms", "shift_ms"), [(0, 0), (80, 0), (-33, 33), (3_132_000, -3_132_000)]
)
def test_file_with_another_start_time_begins_at_0(first_ms: int, shift_ms: int) -> None:
    assert start_shift_ms(first_ms) == shift_ms


def test_steady_times_are_unchanged() -> None:
    tags = ((V, 0), (A, 10), (V, 40), (A, 33), (V, 80))
    assert place(*tags) == [0, 10, 40, 33, 80]


def test_restarted_recording_continues_the_time_line() -> None:
    medium_times = place((V, 0), (A, 5), (V, 20_000), (A, 20_005), (V, 0), (A, 5), (V, 40), (A, 25))
    second = 20_005 + STEP_MS
    assert medium_times[4:] == [second, second + 5, second + 40, second + 25]


def test_late_audio_of_the_first_recording_does_not_move_the_second() -> None:
    medium_times = place((V, 20_000), (A, 19_900), (V, 0), (A, 19_950), (A, 10), (V, 40))
    start = 20_000 + STEP_MS
    assert medium_times == [20_000, 19_900, start, 19_950, start + 10, start + 40]


def test_forward_jump_is_removed() -> None:
    medium_times = place((V, 0), (A, 0), (V, 3_600_000), (A, 3_600_010), (V, 3_600_040))
    assert medium_times == [0, 0, STEP_MS, STEP_MS + 10, STEP_MS + 40]
    # Rare video frames are no jump while audio continues.
    sparse = [(V, 0)] + [(A, time) for time in range(0, 100_000, 20_000)] + [(V, 99_000)]
    assert place(*sparse)[-1] == 99_000


def test_script_tag_has_the_time_of_its_position() -> None:
    assert place((V, 5000), (S, 0), (V, 5040)) == [5000, 5000, 5040]
    assert place((V, 5000), (S, 5020)) == [5000, 5020]
    assert place((S, 0), (V, 0)) == [0, 0]


def test_single_odd_tag_is_not_a_jump() -> None:
    assert place((V, 5000), (V, 100), (V, 5080), (V, 5120))[2:] == [5080, 5120]
    assert place((V, 5000), (HEADER, 0), (V, 5080)) == [5000, 5000, 5080]
    assert place((V, 5000), (A, 5000), (V, 900_000), (V, 5080), (A, 5020))[3:] == [5080, 5020]


def test_no_time_is_negative() -> None:
    assert place((V, -33), (A, -10), (V, 7)) == [0, 0, 7]


TAGS = st.lists(
    st.tuples(st.sampled_from([V, A, S]), st.integers(-(1 << 31), (1 << 31) - 1)),
    min_size=1, max_size=30,
)  # fmt: skip


@given(TAGS, st.data())
def test_times_never_fall_back_far_nor_jump(
    tags: list[tuple[int, int]], data: st.DataObject
) -> None:
    medium_times = place(*tags)
    cut = data.draw(st.integers(1, len(tags)))
    flags = np.array([kind for kind, _ in tags], np.uint8)
    times = np.array([time for _, time in tags], np.int64)
    before, timeline = place_tags(Timeline(), times[:cut], flags[:cut])
    after = place(*tags[cut:], timeline=timeline) if cut < len(tags) else []
    assert before.tolist() + after == medium_times  # in runs of any size
    last_times: dict[int, int] = {}
    for at, (kind, _) in enumerate(tags):
        assert medium_times[at] >= 0
        if kind == S:
            continue
        if kind in last_times:
            assert medium_times[at] >= last_times[kind] - FALL_BACK_MS
        if last_times:
            assert medium_times[at] <= max(last_times.values()) + JUMP_AHEAD_MS
        last_times[kind] = medium_times[at]
