"""streamedge/media/mp4/fragments.py: the samples of fragments, compared with FFmpeg's reading."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.errors import MediaError
from streamedge.media.flv.layout import FlvLayout
from streamedge.media.mp4.fragments import FAULTS_MAX
from streamedge.media.mp4.title import Title
from tests.support.media.ffmpeg_packets import differences, ffmpeg_packets, flv_packets
from tests.support.media.fragment_writer import (
    KEYFRAME,
    MUXERS,
    OTHER_FRAME,
    empty_track,
    fragment,
    fragmented_film,
    fragmented_moov,
    moof,
    muxed,
    tfdt,
    tfhd,
    trex,
    trun,
)
from tests.support.media.media_oracle import demux, flv_of, title_of
from tests.support.media.mp4_writer import TrackRecipe, box, esds, sound_entry, table, words

FRAMES = [bytes([number]) * (10 + number) for number in range(5)]
SOUND = sound_entry("mp4a", esds(0x40, b"\x12\x10"))


def sound_track(**changes: object) -> TrackRecipe:
    return empty_track(handler="soun", entry=SOUND, **changes)


def film(*fragments: bytes, moov: bytes | None = None) -> bytes:
    return box("ftyp", b"iso5") + (moov or fragmented_moov()) + b"".join(fragments)


def sent(data: bytes) -> list[bytes]:
    """The samples that the packager reads from a file."""
    title = title_of(data)
    spans = zip(title.offset.tolist(), title.size.tolist(), strict=True)
    return [data[start : start + size] for start, size in spans]


@pytest.mark.parametrize("muxer", MUXERS)
def test_samples_and_times_equal_ffmpegs(muxer: str) -> None:
    data = muxed(MUXERS[muxer])
    title, ffmpeg = title_of(data), demux(data)
    assert title.faults == ()
    for kind, rows in (("video", title.is_video), ("audio", ~title.is_video)):
        packets = ffmpeg.packets[kind]
        assert len(packets) > 100
        assert title.dts_ms[rows].tolist() == [packet.dts_ms for packet in packets]
        assert title.composition_ms[rows].tolist() == [
            packet.pts_ms - packet.dts_ms for packet in packets
        ]
        assert title.is_key[rows].tolist() == [packet.is_keyframe for packet in packets]


@pytest.mark.parametrize("muxer", MUXERS)
def test_packaged_frames_equal_ffmpegs(muxer: str, tmp_path: Path) -> None:
    data = muxed(MUXERS[muxer])
    (tmp_path / "film.mp4").write_bytes(data)
    packaged = flv_packets(flv_of(FlvLayout(title_of(data)), data))
    assert differences(ffmpeg_packets(tmp_path / "film.mp4"), packaged) == []


@pytest.mark.parametrize("stream", ["v", "a"])
def test_single_track_of_cmaf_equals_ffmpegs(stream: str) -> None:
    data = muxed(f"-map 0:{stream}? -map 1:{stream}? -movflags cmaf+frag_keyframe -use_editlist 1")
    title, ffmpeg = title_of(data), demux(data)
    (packets,) = (packets for packets in ffmpeg.packets.values() if packets)
    assert title.count == len(packets)
    assert title.dts_ms.tolist() == [packet.dts_ms for packet in packets]


def test_negative_composition_offsets_keep_sound_and_pictures_together() -> None:
    shifted = title_of(muxed("-movflags frag_keyframe+empty_moov+negative_cts_offsets"))
    video = shifted.is_video
    shown_ms = shifted.dts_ms.astype(int) + shifted.composition_ms
    # The first picture and the first sound are presented at 0, 40 ms after the first decoding.
    assert int(shown_ms[video].min()) == int(shown_ms[~video].min()) == 40
    assert (shifted.composition_ms[video] >= 0).all()


def test_boxes_between_fragments_are_skipped() -> None:
    between = box("styp", b"msdh") + box("sidx", bytes(40)) + box("emsg", bytes(30))
    between += box("prft", bytes(24)) + box("free") + box("uuid", bytes(16))
    data = film(between, fragment(FRAMES[:2], 0), between, fragment(FRAMES[2:], 80), between)
    assert sent(data) == FRAMES
    assert title_of(data).dts_ms.tolist() == [0, 40, 80, 120, 160]
    assert title_of(data).is_key.tolist() == [True, False, True, False, False]


def _two_track_film(flags: int) -> bytes:
    """Video and audio in one moof; ``flags`` of tfhd say what their positions are relative to."""
    moov_box = fragmented_moov(
        empty_track(), _numbered(sound_track(), 2), defaults=trex() + trex(2)
    )
    start = len(film(moov=moov_box))

    def write(moof_size: int) -> bytes:
        data_start = start + moof_size + 8
        base = (0, data_start) if flags & 0x000001 else ()
        video_offset = 0 if base else moof_size + 8
        audio_offset = video_offset + 21 if flags else 0  # by default, after the track before
        return moof(
            box("traf", tfhd(flags, *base), tfdt(0), trun(0x201, 2, video_offset, 10, 11)),
            box("traf", tfhd(flags, *base, track_id=2), tfdt(0), trun(0x201, 1, audio_offset, 12)),
        )

    head = write(len(write(0)))
    return film(head, box("mdat", *FRAMES[:3]), moov=moov_box)


class _Numbered(TrackRecipe):
    number = 1

    def write(self) -> bytes:
        written = bytearray(super().write())
        at = written.index(b"tkhd") + 16
        written[at : at + 4] = words(self.number)
        return bytes(written)


def _numbered(recipe: TrackRecipe, number: int) -> TrackRecipe:
    numbered = _Numbered(**recipe.__dict__)
    numbered.number = number
    return numbered


@pytest.mark.parametrize("flags", [0x020000, 0, 0x000001], ids=["moof", "track before", "stated"])
def test_positions_are_relative_to_the_stated_base(flags: int) -> None:
    data = _two_track_film(flags)
    assert sorted(sent(data)) == FRAMES[:3]


def test_runs_without_offset_follow_each_other() -> None:
    def write(offset: int) -> bytes:
        runs = trun(0x201, 2, offset, 10, 11) + trun(0x200, 1, 12) + trun(0x200, 2, 13, 14)
        return moof(box("traf", tfhd(), tfdt(0), runs))

    data = film(write(len(write(0)) + 8), box("mdat", *FRAMES))
    assert sent(data) == FRAMES
    assert title_of(data).dts_ms.tolist() == [0, 40, 80, 120, 160]


def test_defaults_come_from_tfhd_before_trex() -> None:
    defaults = trex(duration=100, size=10, flags=OTHER_FRAME)
    run = trun(0x1, 2, 8)
    of_trex = moof(box("traf", tfhd(), run))
    of_tfhd = moof(box("traf", tfhd(0x020038, 20, 5, KEYFRAME), run))
    title = title_of(film(of_trex, of_tfhd, moov=fragmented_moov(defaults=defaults)))
    assert title.dts_ms.tolist() == [0, 100, 200, 220]
    assert title.size.tolist() == [10, 10, 5, 5]
    assert title.is_key.tolist() == [False, False, True, True]


def test_fragment_without_a_time_continues_the_one_before() -> None:
    def untimed(offset: int) -> bytes:
        return moof(box("traf", tfhd(), trun(0x201, 2, offset, 10, 11)))

    late = fragment(FRAMES[:2], 400)
    data = film(fragment(FRAMES[:2], 0), late, untimed(len(untimed(0)) + 8), box("mdat", bytes(30)))
    assert title_of(data).dts_ms.tolist() == [0, 40, 400, 440, 480, 520]


def test_recording_of_a_stream_begins_at_zero() -> None:
    year_ms = 365 * 24 * 3600 * 1000
    data = film(fragment(FRAMES[:2], year_ms + 7), fragment(FRAMES[2:], year_ms + 87))
    assert title_of(data).dts_ms.tolist() == [0, 40, 80, 120, 160]


def test_empty_fragments_are_skipped() -> None:
    empty = (
        moof()
        + moof(box("traf", tfhd(0x030000)))
        + moof(box("traf", tfhd(), tfdt(40), trun(0x1, 0, 8)))
    )
    assert sent(film(empty, fragment(FRAMES, 0), empty, box("mdat"))) == FRAMES


def test_start_of_the_edit_list_applies_and_its_duration_does_not() -> None:
    edits = table("elst", (500, -1, 0x10000), (1, 40, 0x10000))
    moov_box = fragmented_moov(empty_track(edits=edits), _numbered(sound_track(), 2),
                               defaults=trex() + trex(2))  # fmt: skip
    sound = moof(box("traf", tfhd(track_id=2), tfdt(0), trun(0x201, 1, 8, 5)))
    title = title_of(film(fragment(FRAMES, 0), sound, moov=moov_box))
    assert title.dts_ms[title.is_video].tolist() == [460, 500, 540, 580, 620]
    assert title.dts_ms[~title.is_video].tolist() == [0]


def test_samples_in_moov_come_before_the_fragments() -> None:
    first = TrackRecipe(offset=48)
    data = film(fragment(FRAMES, 120), moov=fragmented_moov(first))
    title = title_of(data)
    assert title.dts_ms.tolist() == [0, 40, 80, 120, 160, 200, 240, 280]
    assert sent(data)[3:] == FRAMES


def test_last_fragment_that_is_cut_off_plays_up_to_there() -> None:
    data = muxed(MUXERS["dash"])
    whole = title_of(data)
    for size in (len(data) * 3 // 4, data.rindex(b"moof") + 20, data.rindex(b"mdat") + 10):
        title = title_of(data[:size])
        complete = whole.offset[whole.offset.astype(int) + whole.size <= size]
        assert title.count > 200
        assert set(title.offset.tolist()) == set(complete.tolist())


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (box("traf"), "no tfhd"),
        (box("traf", box("tfhd", bytes(3))), "tfhd box is cut off"),
        (box("traf", tfhd(track_id=9)), "no trex box for track 9"),
        (box("traf", tfhd(0x020001)), "tfhd box is cut off"),
        (box("traf", tfhd(), tfdt(1 << 62)), "impossible time"),
        (box("traf", tfhd(), trun(0x200, 0xFFFFFFFF, 1)), "claims 4294967295 samples"),
    ],
)
def test_damaged_fragment_does_not_affect_the_others(bad: bytes, fault: str) -> None:
    title = title_of(film(moof(bad), fragment(FRAMES, 0)))
    assert title.count == 5
    assert fault in title.faults[0]
    many = title_of(film(moof(bad) * 50, fragment(FRAMES, 0)))
    assert many.count == 5
    assert len(many.faults) == FAULTS_MAX + 1


@pytest.mark.parametrize("offset", [-(1 << 31), -100_000, 1 << 30])
def test_samples_outside_of_the_file_are_left_out(offset: int) -> None:
    outside = moof(box("traf", tfhd(), tfdt(200), trun(0x201, 1, offset, 10)))
    title = title_of(film(fragment(FRAMES, 0), outside))
    assert title.count == 5
    assert "past the file's end" in title.faults[0]


@pytest.mark.parametrize(
    "run",
    [trun(0, 0xFFFFFFFF), trun(0x1, 0x7FFFFFFF, 8), trun(0x4, 7_000_000, 0)],
)
def test_run_of_billions_of_samples_takes_no_memory(run: bytes) -> None:
    data = film(moof(box("traf", tfhd(), run)) * 3)
    tracemalloc.start()
    with pytest.raises(MediaError, match="samples, over the limit"):
        title_of(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20


def test_fragments_that_overlap_beyond_the_file_are_refused() -> None:
    run = moof(box("traf", tfhd(0x020010, 1000), tfdt(0), trun(0x1, 1, 0)))
    with pytest.raises(MediaError, match="larger than the file"):
        title_of(film(run * 10, box("mdat", bytes(2000))))


def test_film_without_fragments_is_refused() -> None:
    with pytest.raises(MediaError, match="not finished"):
        title_of(film())


def _play(data: bytes) -> Title | None:
    """A title whose bytes can all be built, or None if the file is refused."""
    try:
        title = title_of(data)
        layout = FlvLayout(title)
    except MediaError:
        return None
    assert len(flv_of(layout, data)) == layout.size_bytes
    return title


SEED = fragmented_film([FRAMES[:2], FRAMES[2:]], sidx=True, mfra=True).data
TWO_TRACKS = _two_track_film(0)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([SEED, TWO_TRACKS]),
    st.lists(
        st.tuples(st.integers(0, 4000), st.sampled_from([0, 1, 2, 8, 0x7F, 0x80, 0xFF])),
        max_size=6,
    ),
    st.integers(0, 4000),
)
def test_damaged_bytes_end_in_a_title_or_a_media_error(
    seed: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(seed)
    for position, value in changes:
        data[position % len(data)] = value
    _play(bytes(data[: len(data) - cut % 64]))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_fragments_of_any_shape_play_all_samples(draw: st.DataObject) -> None:
    """The same samples in one fragment and in several, with defaults or without, are one film."""
    random = Random(draw.draw(st.integers()))
    frames = [random.randbytes(random.randint(1, 40)) for _ in range(random.randint(1, 30))]
    fragments, at = [], 0
    while at < len(frames):
        size = random.randint(1, 8)
        fragments.append(frames[at : at + size])
        at += size
    data = fragmented_film(fragments, sidx=random.random() < 0.5, mfra=random.random() < 0.5).data
    assert sent(data) == frames
    assert title_of(data).dts_ms.tolist() == [40 * number for number in range(len(frames))]
    assert int(title_of(data).is_key.sum()) == len(fragments)
