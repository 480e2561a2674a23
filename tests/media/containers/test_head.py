"""streamedge/media/containers/head.py: the helper's JSON, and the choice of tracks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import MediaError, MediaFault
from streamedge.media.containers.head import (
    ContainerHead,
    choose_tracks,
    medium_head,
    parse_head,
)
from streamedge.media.track_choice import TrackChoice

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


def track(kind: str, **values: Any) -> dict[str, Any]:
    return {
        "index": 0, "kind": kind, "language": "und", "is_default": False, "four_cc": "avc1",
        "classic_id": 7, "record": "0164", "width": 320, "height": 180, "sample_rate": 0,
        "channels": 0, "frame_rate": 25.0,
    } | values  # fmt: skip


def head_of(*tracks: dict[str, Any]) -> ContainerHead:
    numbered = [each | {"index": number} for number, each in enumerate(tracks)]
    value = {"duration_ms": 5000, "segment_ms": 2000, "tracks": numbered}
    return parse_head(json.dumps(value).encode())


def audio(language: str = "und", **values: Any) -> dict[str, Any]:
    codec = {"four_cc": "mp4a", "classic_id": 10, "sample_rate": 48000, "channels": 2}
    return track("audio", language=language, **{**codec, **values})


@given(st.binary(max_size=100))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    with pytest.raises(MediaError):
        parse_head(data)


@given(JSON, JSON, st.sampled_from(sorted(track("video"))))
def test_any_values_are_a_head_or_refused(value: Any, other: Any, field: str) -> None:
    heads = [
        value,
        {"duration_ms": other, "segment_ms": 2000, "tracks": value},
        {"duration_ms": 1, "segment_ms": 2000, "tracks": [track("video") | {field: value}]},
    ]
    for each in heads:
        try:
            head = parse_head(json.dumps(each).encode())
        except MediaError:
            continue
        try:
            chosen = choose_tracks(head, TrackChoice())
        except MediaError:
            continue
        assert medium_head(head, chosen).duration_ms == head.duration_ms


def test_playable_tracks_are_chosen_default_ones_first() -> None:
    head = head_of(
        track("video", reason="mpeg2video"),
        track("video"),
        track("video", is_default=True, four_cc="hvc1", classic_id=None),
        audio("deu"),
        audio("eng", is_default=True),
        audio("fra", reason="vorbis"),
    )
    chosen = choose_tracks(head, TrackChoice())
    assert chosen.indexes == (2, 4)
    assert chosen.selection == ""
    assert medium_head(head, chosen).enhanced == {"hvc1"}
    chosen = choose_tracks(head, TrackChoice("deu"))
    assert (chosen.indexes, chosen.selection) == ((2, 3), "audio0")
    assert choose_tracks(head, TrackChoice("1")).selection == ""
    with pytest.raises(MediaError, match="vorbis") as failed:
        choose_tracks(head, TrackChoice("fra"))
    assert failed.value.fault is MediaFault.NO_SUPPORTED_TRACK
    with pytest.raises(MediaError) as failed:
        choose_tracks(head, TrackChoice("spa"))
    assert failed.value.fault is MediaFault.NO_SUCH_TRACK
    assert head.faults == (
        "a track that cannot be played: mpeg2video",
        "a track that cannot be played: vorbis",
    )


@pytest.mark.parametrize("tracks", [[], [track("video", reason="theora")]])
def test_file_without_a_playable_track_is_refused(tracks: list[dict[str, Any]]) -> None:
    with pytest.raises(MediaError, match="no track that can be played") as failed:
        choose_tracks(head_of(*tracks), TrackChoice())
    assert failed.value.fault is MediaFault.NO_SUPPORTED_TRACK
