"""streamedge/media/sniffing.py: the kind of a file."""

from __future__ import annotations

import io
from collections.abc import Callable

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.errors import MediaError
from streamedge.media.sniffing import FIRST_READ_BYTES, FileKind, sniff
from tests.support.media.media_oracle import feed
from tests.support.media.mp4_writer import box, words

Media = Callable[[str], bytes]
FTYP = box("ftyp", b"isom")


def kind_of(data: bytes) -> FileKind:
    return feed(sniff(len(data)), data)[0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("film.mp4", FileKind.MP4), ("film.flv", FileKind.FLV), ("song.mp3", FileKind.MP3)],
)
def test_kind_of_a_real_file_is_detected(media: Media, name: str, kind: FileKind) -> None:
    assert kind_of(media(name)) is kind
    assert kind_of(media(name)[:2000]) is kind


@pytest.mark.parametrize(
    "before",
    [
        box("uuid", bytes(30)),
        box("PICT", bytes(30)),
        box("junk", bytes(30)),
        box("junk", bytes(300_000)),
        box("meta") + box("©abc".replace("©", "\xa9"), bytes(3)),
        words(1) + b"none" + words(0, 40) + bytes(24),
    ],
    ids=["uuid", "PICT", "junk", "large", "two", "64-bit size"],
)
def test_unknown_boxes_before_an_mp4_are_skipped(before: bytes) -> None:
    assert kind_of(before + FTYP + bytes(200)) is FileKind.MP4


def test_id3_tag_before_a_file_is_skipped(media: Media) -> None:
    for size in (10, 100_000):
        digits = bytes([0, size >> 14, size >> 7 & 127, size & 127])
        tag = b"ID3\3\0\0" + digits + bytes(size)
        assert kind_of(tag + media("film.flv")) is FileKind.FLV
        assert kind_of(tag + media("song.mp3")) is FileKind.MP3


@pytest.mark.parametrize("data", [b"", b"plain text", bytes(5000), b"<html>" * 900, box("junk")])
def test_unknown_file_is_refused(data: bytes) -> None:
    with pytest.raises(MediaError, match="empty" if not data else "none of MP4, FLV"):
        kind_of(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_of_a_kind_or_refused(data: bytes) -> None:
    for candidate in (data, box("junk") + data, b"\xff\xfb\x90\x00" * 30 + data):
        try:
            assert kind_of(candidate) in FileKind
        except MediaError:
            continue


@pytest.mark.parametrize(
    ("container", "options", "kind"),
    [
        ("matroska", {}, FileKind.MATROSKA),
        ("webm", {}, FileKind.MATROSKA),
        ("mpegts", {}, FileKind.MPEG_TS),
        ("mpegts", {"mpegts_m2ts_mode": "1"}, FileKind.MPEG_TS),
        ("adts", {}, FileKind.ADTS),
    ],
    ids=["matroska", "webm", "ts", "m2ts", "adts"],
)
def test_first_read_tells_a_container(
    media: Media, container: str, options: dict[str, str], kind: FileKind
) -> None:
    source = media("av1-opus") if container == "webm" else media("film.mp4")
    data = remuxed(source, container, options) + bytes(2 * FIRST_READ_BYTES)
    parser = sniff(len(data))
    first = next(parser)
    with pytest.raises(StopIteration) as result:
        parser.send(data[first.start : first.end])
    assert result.value.value is kind


def remuxed(mp4: bytes, container: str, options: dict[str, str]) -> bytes:
    """The first audio track of an MP4 in another container."""
    target = io.BytesIO()
    with (
        av.open(io.BytesIO(mp4), "r") as source,
        av.open(target, "w", format=container, container_options=options) as output,
    ):
        track = source.streams.audio[0]
        stream = output.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    return target.getvalue()
