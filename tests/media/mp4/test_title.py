"""streamedge/media/mp4/title.py: choosing tracks, edit lists and milliseconds."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable

import pytest

from streamedge.errors import MediaError, MediaFault
from streamedge.media.flv.layout import FlvLayout
from streamedge.media.mp4.moov import parse_moov
from streamedge.media.mp4.title import SAMPLE_MEMORY_BYTES, Title, build_title
from tests.support.media.media_oracle import demux, title_of
from tests.support.media.mp4_writer import (
    AVC_CONFIGURATION,
    TrackRecipe,
    avc1,
    box,
    esds,
    moov,
    sound_entry,
    table,
    visual_entry,
    words,
)

Media = Callable[[str], bytes]
FILE_SIZE_BYTES = 10_000
AAC = sound_entry("mp4a", esds(0x40, b"\x12\x10"))


def build(*tracks: TrackRecipe, extra: bytes = b"") -> Title:
    return build_title(parse_moov(moov(*tracks, extra=extra)), FILE_SIZE_BYTES)


def sound(**changes: object) -> TrackRecipe:
    recipe = TrackRecipe(handler="soun", entry=AAC, offset=500)
    for name, value in changes.items():
        setattr(recipe, name, value)
    return recipe


@pytest.mark.parametrize("name", ["film.mp4", "hevc", "mp3-in-mov", "h264-opus"])
def test_times_equal_ffmpegs(media: Media, name: str) -> None:
    title = title_of(media(name))
    ffmpeg = demux(media(name))
    for kind, rows in (("video", title.is_video), ("audio", ~title.is_video)):
        packets = ffmpeg.packets[kind]
        assert title.dts_ms[rows].tolist() == [packet.dts_ms for packet in packets]
        assert title.composition_ms[rows].tolist() == [
            packet.pts_ms - packet.dts_ms for packet in packets
        ]
        assert title.is_key[rows].tolist() == [packet.is_keyframe for packet in packets]
    assert abs(title.duration_ms - max(p.pts_ms for k in ffmpeg.packets.values() for p in k)) < 100


def test_samples_are_merged_video_first() -> None:
    title = build(sound(stts=table("stts", (3, 40))), TrackRecipe())
    assert title.dts_ms.tolist() == [0, 0, 40, 40, 80, 80]
    assert title.is_video.tolist() == [True, False] * 3
    assert title.offset.tolist() == [48, 500, 58, 510, 68, 520]
    assert title.duration_ms == 120
    assert title.frame_rate == 25.0
    assert title.memory_size_bytes > 6 * 22


def test_halves_are_rounded_away_from_zero() -> None:
    # 48 kHz: -312 is -6.5 ms, 648 is 13.5 ms; shifted so that -7 becomes 0.
    edits = table("elst", (100, 312, 0x10000))
    title = build(sound(timescale=48000, stts=table("stts", (3, 960)), edits=edits))
    assert title.dts_ms.tolist() == [0, 21, 41]


def test_negative_composition_offsets_move_decoding_back() -> None:
    title = build(
        TrackRecipe(ctts=table("ctts", (1, 0), (1, 40), (1, -40), (1, 0), (1, 0), version=1)),
        sound(),
    )
    video = title.is_video
    assert title.composition_ms[video].tolist() == [40, 80, 0]
    assert title.dts_ms[video].tolist() == [0, 40, 80]
    # Audio begins when the first video frame is shown.
    assert title.dts_ms[~video].tolist() == [40, 80, 120]


def test_empty_edit_delays_a_track() -> None:
    delayed = table("elst", (500, -1, 0x10000), (120, 0, 0x10000))
    title = build(TrackRecipe(), sound(edits=delayed))
    assert title.dts_ms.tolist() == [0, 40, 80, 500, 540, 580]


def test_hidden_samples_are_cut_back_to_a_keyframe() -> None:
    recipe = TrackRecipe(
        stsz=box("stsz", words(0, 10, 100)),
        stsc=table("stsc", (1, 100, 1)),
        stts=table("stts", (100, 100)),
        stss=table("stss", *[(number,) for number in range(1, 100, 10)]),
        edits=table("elst", (5000, 5500, 0x10000)),
    )
    title = build(recipe)
    assert title.offset[0] == 48 + 50 * 10
    assert title.is_key[0]
    assert title.dts_ms[:2].tolist() == [0, 100]
    recipe.handler, recipe.entry, recipe.stss = "soun", AAC, b""
    # Audio has a second of preroll for its decoder.
    assert build(recipe).offset[0] == 48 + 45 * 10


def test_empty_samples_are_dropped() -> None:
    title = build(TrackRecipe(stsz=box("stsz", words(0, 0, 3, 10, 0, 10))))
    assert title.dts_ms.tolist() == [0, 80]


def test_first_enabled_playable_track_is_chosen() -> None:
    other = visual_entry("mp4v")
    title = build(
        TrackRecipe(entry=other), TrackRecipe(offset=100, flags=2), TrackRecipe(offset=200)
    )
    assert title.offset[0] == 200
    assert build(TrackRecipe(offset=100, flags=2)).offset[0] == 100


def test_unplayable_audio_does_not_affect_the_video(media: Media) -> None:
    title = title_of(media("pcm-beside-h264"))
    assert title.audio is None
    assert title.video is not None


def test_file_without_supported_tracks_is_refused(media: Media) -> None:
    with pytest.raises(MediaError) as caught:
        title_of(media("unsupported"))
    assert caught.value.fault is MediaFault.NO_SUPPORTED_TRACK
    assert "jpeg, sowt" in str(caught.value)


@pytest.mark.parametrize("entry_type", ["encv", "enca"])
def test_encrypted_track_is_refused_with_the_reason(entry_type: str) -> None:
    handler = "vide" if entry_type == "encv" else "soun"
    with pytest.raises(MediaError, match=rf"{entry_type} \(encrypted\)") as caught:
        build(TrackRecipe(handler=handler, entry=visual_entry(entry_type)))
    assert caught.value.fault is MediaFault.NO_SUPPORTED_TRACK


def test_file_without_tracks_is_refused() -> None:
    with pytest.raises(MediaError, match="no audio or video at all"):
        build()


EMPTY = {
    "stsz": box("stsz", words(0, 0, 0)),
    "stts": table("stts"),
    "stsc": table("stsc"),
    "stco": table("stco"),
}


def test_empty_sample_tables_are_refused() -> None:
    with pytest.raises(MediaError, match="tracks are empty"):
        build(sound(**EMPTY))
    with pytest.raises(MediaError, match="fragmented"):
        build(sound(**EMPTY), extra=box("mvex"))
    # One empty track does not hide the other.
    assert build(TrackRecipe(), sound(**EMPTY)).audio is None


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (TrackRecipe(stts=table("stts", (3, 0x7FFFFFFF)), timescale=1), "is longer than"),
        (TrackRecipe(edits=table("elst", (0xFFFFFFFF, -1, 0), (1, 0, 0))), "starts too late"),
        (TrackRecipe(stco=table("stco", (20_000,))), "all of its samples lie past"),
        (TrackRecipe(stsz=box("stsz", words(0, 0, 3, 0, 0, 0))), "only empty samples"),
        (
            TrackRecipe(
                stsz=box("stsz", words(0, 6000, 3)), stco=table("stco", (0,), (0,), (0,)),
                stsc=table("stsc", (1, 1, 1)),
            ),
            "larger than the file",
        ),
    ],
)  # fmt: skip
def test_impossible_times_and_sizes_are_refused(recipe: TrackRecipe, message: str) -> None:
    with pytest.raises(MediaError, match=message) as caught:
        build(recipe)
    assert caught.value.fault is MediaFault.STRUCTURE_INVALID


def test_tracks_of_unsupported_codecs_are_not_read() -> None:
    """Tables of tracks that are not played are not read: PCM has a sample for each value."""
    pcm = TrackRecipe(
        handler="soun", entry=sound_entry("sowt"), stsz=box("stsz", words(0, 4, 0xFFFFFFFF))
    )
    assert build(TrackRecipe(entry=avc1()), pcm).count == 3


def test_samples_are_limited_over_all_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamedge.media.mp4.title.SAMPLES_MAX", 6)
    assert build(TrackRecipe(), sound()).count == 6
    monkeypatch.setattr("streamedge.media.mp4.title.SAMPLES_MAX", 5)
    with pytest.raises(MediaError, match="has 3 samples, over the limit of 2"):
        build(TrackRecipe(), sound())


def test_memory_of_an_index_is_limited_before_it_is_built() -> None:
    """Few bytes describe many samples: one size, one duration and one chunk for all of them."""
    recipe = sound(
        stsz=box("stsz", words(0, 1, 6_000_000)),
        stts=table("stts", (6_000_000, 1)),
        stsc=table("stsc", (1, 6_000_000, 1)),
    )
    movie = parse_moov(moov(recipe))
    tracemalloc.start()
    try:
        with pytest.raises(MediaError, match=r"limits\.media_index"):
            build_title(movie, 10_000_000, 64 << 20)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20


def test_index_takes_no_more_memory_than_counted() -> None:
    count = 10_000
    sizes = [random.Random(1).randrange(1 << 20) for _ in range(count)]
    recipe = TrackRecipe(
        stsz=box("stsz", words(0, 0, count, *sizes)),
        stts=table("stts", (count, 40)),
        ctts=table("ctts", *[(1, 40 * (n % 3)) for n in range(count)]),
        stsc=table("stsc", (1, count, 1)),
    )
    layout = FlvLayout(build_title(parse_moov(moov(recipe)), 1 << 40))
    assert layout.memory_size_bytes - 4096 - 2 * len(layout.head) <= count * SAMPLE_MEMORY_BYTES


def test_damaged_track_does_not_affect_the_others() -> None:
    for name, broken in (("entry", b""), ("stsz", b""), ("stts", table("stts"))):
        title = build(TrackRecipe(), sound(**{name: broken}))
        assert (title.count, title.audio) == (3, None)
        (fault,) = title.faults
        assert fault.startswith("audio track 1: ")
        recipe = TrackRecipe()
        setattr(recipe, name, broken)
        title = build(recipe, sound())
        assert (title.count, title.video) == (3, None)
    broken_descriptor = sound(entry=sound_entry("mp4a", box("esds", b"\xff\xff\xff\xff")))
    (fault,) = build(TrackRecipe(), broken_descriptor).faults
    assert "esds" in fault
    # Another track of the same kind replaces it.
    title = build(TrackRecipe(stsz=b""), TrackRecipe(offset=200))
    assert title.offset[0] == 200


def test_samples_past_the_files_end_do_not_affect_those_before() -> None:
    title = build(TrackRecipe(stco=table("stco", (FILE_SIZE_BYTES - 25,))))
    assert title.count == 2
    assert title.faults == ("1 of 3 video samples lie past the file's end",)


def test_composition_offsets_beyond_flvs_range_are_clipped() -> None:
    title = build(TrackRecipe(ctts=table("ctts", (1, 0), (1, 9_000_000), (1, 0))))
    assert title.composition_ms.tolist() == [0, (1 << 23) - 1, 0]
    assert title.duration_ms < 1000


def two_descriptions(second: bytes, *chunks: tuple[int, int, int]) -> TrackRecipe:
    """Three chunks of a sample each; ``chunks`` is the stsc table."""
    recipe = TrackRecipe(stsc=table("stsc", *chunks), stco=table("stco", (48,), (58,), (68,)))
    recipe.entry = avc1() + second
    return recipe


def test_configuration_changes_where_the_sample_description_changes() -> None:
    record = AVC_CONFIGURATION[:1] + b"\x42" + AVC_CONFIGURATION[2:]
    other = visual_entry("avc1", box("avcC", record))
    recipe = two_descriptions(other, (1, 1, 1), (2, 1, 2), (3, 1, 1))
    title = build(recipe)
    assert title.video is not None
    assert title.video.sequence_header == AVC_CONFIGURATION
    assert [(change.row, change.codec.sequence_header) for change in title.changes] == [
        (1, record),
        (2, AVC_CONFIGURATION),
    ]
    # The first codec is that of the first sample, not the first of the list.
    title = build(two_descriptions(other, (1, 1, 2)))
    assert title.video is not None
    assert title.video.sequence_header == record
    assert title.changes == ()


def test_samples_of_another_codec_are_left_out() -> None:
    hevc = visual_entry("hvc1", box("hvcC", bytes(23)))
    title = build(two_descriptions(hevc, (1, 1, 1), (2, 1, 2), (3, 1, 1)))
    assert title.dts_ms.tolist() == [0, 80]
    unsupported = visual_entry("mp4v")
    assert build(two_descriptions(unsupported, (1, 1, 1), (2, 1, 2))).count == 1
    # Two equal descriptions are no change.
    assert build(two_descriptions(avc1(), (1, 1, 1), (2, 1, 2))).changes == ()
