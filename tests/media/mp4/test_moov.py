"""streamedge/media/mp4/moov.py: finding the index, and its tracks."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamedge.errors import MediaError, MediaFault
from streamedge.media.mp4.moov import (
    COMPRESSED_MOOV_MAX_BYTES,
    FIRST_READ_BYTES,
    locate_moov,
    parse_moov,
)
from streamedge.spans import Span
from tests.support.media.media_oracle import MOOV_LIMIT_BYTES, demux, feed, title_of
from tests.support.media.mp4_writer import TrackRecipe, box, moov, table, words

Media = Callable[[str], bytes]
FTYP = box("ftyp", b"isom", bytes(4))
SMALL_MOOV = moov(TrackRecipe())


def locate(data: bytes, limit_bytes: int = MOOV_LIMIT_BYTES) -> tuple[Span, list[Span]]:
    return feed(locate_moov(len(data), limit_bytes), data)


def test_leading_moov_takes_one_read(media: Media) -> None:
    data = media("film.mp4")
    span, spans = locate(data)
    assert spans == [Span(0, FIRST_READ_BYTES)]
    assert data[span.start + 4 : span.start + 8] == b"moov"


def test_trailing_moov_is_found_by_skipping_the_media(media: Media) -> None:
    data = media("film-moov-last.mp4")
    span, spans = locate(data)
    assert spans == [Span(0, FIRST_READ_BYTES), Span(span.start, span.start + 16)]
    assert span.end == len(data)


@pytest.mark.parametrize("media_size", [0, 10, FIRST_READ_BYTES - 40, FIRST_READ_BYTES, 200_000])
def test_boxes_before_moov_and_a_64_bit_size_are_skipped(media_size: int) -> None:
    mdat = words(1) + b"mdat" + words(0, 16 + media_size) + bytes(media_size)
    before = FTYP + box("wide") + mdat + box("free", bytes(30)) + box("uuid", bytes(20))
    for data in (before + SMALL_MOOV, before + SMALL_MOOV + box("free", bytes(70_000))):
        span, spans = locate(data)
        assert span == Span(len(before), len(before) + len(SMALL_MOOV))
        assert all(each.size <= 16 for each in spans[1:])


def test_box_header_across_the_end_of_the_first_read_is_read() -> None:
    for missing in range(1, 17):
        before = FTYP + box("mdat", bytes(FIRST_READ_BYTES - len(FTYP) - 8 - missing))
        span, _ = locate(before + SMALL_MOOV)
        assert span.start == len(before)


def test_last_box_may_reach_to_the_end() -> None:
    data = FTYP + words(0) + SMALL_MOOV[4:]
    assert locate(data)[0] == Span(len(FTYP), len(data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"abc", "empty"),
        (b"FLV\x01\x05" + bytes(100), "no index"),
        (b"<html><body>404</body></html>", "no index"),
        (bytes(1000) + b"x", "first 256 boxes|no index"),
        (FTYP, "no index"),
        (FTYP + box("mdat", bytes(50)), "no index"),
        (FTYP + words(0) + b"mdat" + bytes(50), "no index"),
        (FTYP + box("mdat", bytes(50))[:-1], "no index"),
        (FTYP + words(3) + b"mdat", "cut off or damaged"),
        (FTYP + box("free") * 300 + SMALL_MOOV, "first 256 boxes"),
    ],
)
def test_file_without_a_usable_index_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=message) as caught:
        locate(data)
    assert caught.value.fault is MediaFault.STRUCTURE_INVALID


def test_index_over_the_limit_is_refused() -> None:
    data = FTYP + SMALL_MOOV
    assert locate(data, len(SMALL_MOOV))[0].size == len(SMALL_MOOV)
    with pytest.raises(MediaError, match="over the limit of"):
        locate(data, len(SMALL_MOOV) - 1)


def test_file_shorter_than_stated_is_refused() -> None:
    parser = locate_moov(10_000, MOOV_LIMIT_BYTES)
    next(parser)
    with pytest.raises(MediaError, match="shorter than its stated size"):
        parser.send(FTYP)


def test_tracks_of_a_real_file_are_read(media: Media) -> None:
    data = media("film.mp4")
    span, _ = locate(data)
    movie = parse_moov(data[span.start : span.end])
    video, audio = movie.tracks
    assert (video.handler, audio.handler) == ("vide", "soun")
    assert video.is_enabled
    assert audio.timescale == 44100
    assert not movie.is_fragmented
    # AAC's priming and the B-frames' delay are cut by edit lists.
    assert [edit.media_time for edit in audio.edits] == [1024]
    assert [edit.media_time > 0 for edit in video.edits] == [True]


def test_edit_list_is_read() -> None:
    edits = table("elst", (250, -1, 0x10000), (120, 30, 0x10000), (9, 9, 0))
    (track,) = parse_moov(moov(TrackRecipe(edits=edits, timescale=90_000))).tracks
    assert track.edits == ((250, -1), (120, 30), (9, 9))


def test_edit_list_of_64_bits_is_read() -> None:
    edits = box("elst", words(1 << 24, 2, 0, 500, -1, -1, 0x10000, 0, 120, 0, 30, 0x10000))
    (track,) = parse_moov(moov(TrackRecipe(edits=edits))).tracks
    assert track.edits == ((500, -1), (120, 30))


def test_edit_list_has_as_many_entries_as_its_box_holds() -> None:
    edits = box("elst", words(0, 1000, 120, 30, 0x10000), bytes(7))
    (track,) = parse_moov(moov(TrackRecipe(edits=edits))).tracks
    assert track.edits == ((120, 30),)


def test_timescales_of_0_count_in_seconds() -> None:
    movie = parse_moov(moov(TrackRecipe(timescale=0), timescale=0))
    assert (movie.timescale, movie.tracks[0].timescale) == (1, 1)


def test_damaged_track_does_not_affect_the_others() -> None:
    movie = parse_moov(moov(TrackRecipe(), extra=box("trak", bytes(20))))
    assert len(movie.tracks) == 1
    assert movie.faults == ("the MP4 has no mdia/hdlr box",)


def test_garbage_after_the_boxes_is_skipped() -> None:
    garbage = b"\xff\xff\xff\xf0junkjunkjunk"
    assert len(parse_moov(moov(TrackRecipe(), extra=garbage)).tracks) == 1
    assert len(parse_moov(moov(TrackRecipe(), extra=bytes(11))).tracks) == 1


def test_other_kinds_of_tracks_are_skipped() -> None:
    movie = parse_moov(moov(TrackRecipe(handler="text", entry=b""), TrackRecipe()))
    assert [track.handler for track in movie.tracks] == ["vide"]


def compressed(index: bytes) -> bytes:
    """A moov box with a compressed index."""
    size = len(index).to_bytes(4)
    cmvd = box("cmvd", size, zlib.compress(index))
    return box("moov", box("cmov", box("dcom", b"zlib"), cmvd))


def test_compressed_index_plays_as_by_ffmpeg(media: Media) -> None:
    data = media("film-moov-last.mp4")
    span, _ = locate(data)
    packed = data[: span.start] + compressed(data[span.start : span.end])
    assert demux(packed).packets == demux(data).packets
    title, plain = title_of(packed), title_of(data)
    assert title.offset.tolist() == plain.offset.tolist()
    assert title.dts_ms.tolist() == plain.dts_ms.tolist()
    assert title.video == plain.video


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (box("free"), "not an MP4 index"),
        (moov(*[TrackRecipe()] * 65), "65 tracks"),
        (moov(extra=box("cmov")), "no dcom box"),
        (moov(extra=box("cmov", box("dcom", b"lzw "))), "compressed by b'lzw '"),
        (moov(extra=box("cmov", box("dcom", b"zlib"))), "no cmvd box"),
        (compressed(b"x" * 9), "not an MP4 index"),
        (compressed(box("free")), "not an MP4 index"),
        (compressed(bytes(COMPRESSED_MOOV_MAX_BYTES + 1)), "has over 16777216 bytes"),
        (compressed(b""), "cut off"),
        (box("moov", box("cmov", box("dcom", b"zlib"), box("cmvd", b"no zlib data"))), "damaged"),
    ],
)
def test_impossible_index_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        parse_moov(data)


@pytest.mark.parametrize("name", ["h264", "flac", "aac-in-mov", "av1-opus", "fragmented"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_files_are_read_or_refused(media: Media, name: str, data: st.DataObject) -> None:
    original = media(name)
    span, _ = locate(original)
    # Damages the index and the boxes before it.
    damaged = bytearray(original)
    spots = st.one_of(st.integers(0, 60), st.integers(span.start, span.end - 1))
    for spot in data.draw(st.lists(spots, min_size=1, max_size=8)):
        damaged[spot] = data.draw(st.sampled_from((0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF)))
    length = data.draw(st.sampled_from((len(damaged), len(damaged) - 1, len(damaged) // 2)))
    try:
        title = title_of(bytes(damaged[:length]))
    except MediaError:
        return
    assert title.count > 0
    assert int((title.offset + title.size).max()) <= length


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_located(data: bytes) -> None:
    for candidate in (data, FTYP + data, FTYP + box("moov", data)):
        try:
            title_of(candidate)
        except MediaError:
            continue
