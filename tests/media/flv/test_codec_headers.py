"""streamedge/media/flv/codec_headers.py: the headers that apply at a position."""

from __future__ import annotations

from streamedge.media.flv import head as flv_head
from streamedge.media.flv import tags as flv
from streamedge.media.flv.codec_headers import COLD_BYTES_MAX, CodecHeaders
from streamedge.media.flv.scan_index import ScanIndex
from streamedge.media.flv.tags import TagType
from tests.support.media.media_oracle import feed
from tests.support.media.memory_reader import MemoryReader

VIDEO_ONLY = flv.file_header(has_audio=False, has_video=True)


def video_tag(time_ms: int, *, is_key: bool = False, size_bytes: int = 500) -> bytes:
    body = (b"\x17" if is_key else b"\x27") + b"\x01\0\0\0" + bytes(size_bytes)
    return flv.tag(TagType.VIDEO, body, time_ms)


def avc_header(time_ms: int, record: bytes) -> bytes:
    return flv.tag(TagType.VIDEO, b"\x17\0\0\0\0" + record, time_ms)


def second(start_ms: int, size_bytes: int = 500) -> bytes:
    return b"".join(
        video_tag(start_ms + at, is_key=at == 0, size_bytes=size_bytes) for at in range(0, 1000, 40)
    )


def opened(data: bytes) -> ScanIndex:
    head, _ = feed(flv_head.read_head(len(data)), data)
    return ScanIndex(head, len(data))


async def headers_at(index: ScanIndex, reader: MemoryReader, time_ms: int) -> dict[int, bytes]:
    mark = await index.locate(reader.as_reader, time_ms)
    return dict(index.sequence_headers(mark))


def joined() -> bytes:
    """Three recordings of ten seconds."""
    parts = [VIDEO_ONLY]
    for number in range(3):
        start_ms = number * 10_000
        parts.append(avc_header(start_ms, b"record %d" % number))
        parts += [second(start_ms + at) for at in range(0, 10_000, 1000)]
    return b"".join(parts)


async def test_header_before_the_position_applies() -> None:
    data = joined()
    for order in ((25_000, 15_000, 5_000, 25_500), (5_000, 29_000, 12_000)):
        index = opened(data)
        for time_ms in order:
            headers = await headers_at(index, MemoryReader(data), time_ms)
            assert headers[TagType.VIDEO] == b"\x17\0\0\0\0record %d" % (time_ms // 10_000)
    index = opened(data)
    mark = await index.locate_after(MemoryReader(data).as_reader, 15_000)
    assert dict(index.sequence_headers(mark))[TagType.VIDEO].endswith(b"record 1")


async def test_late_audio_has_its_header() -> None:
    aac = b"\xaf\0\x12\x10"
    sound = b"".join(
        flv.tag(TagType.AUDIO, b"\xaf\x01sound", 2000 + at) for at in range(0, 3000, 20)
    )
    data = VIDEO_ONLY + avc_header(0, b"record") + second(0) + second(1000)
    data += flv.tag(TagType.AUDIO, aac, 2000) + sound + second(5000) + second(6000)
    index = opened(data)
    assert await headers_at(index, MemoryReader(data), 0) == {9: b"\x17\0\0\0\0record"}
    late = await headers_at(index, MemoryReader(data), 6500)
    assert late == {9: b"\x17\0\0\0\0record", 8: aac}


async def test_searched_part_is_not_read_again() -> None:
    data = joined()
    head, _ = feed(flv_head.read_head(len(data)), data)
    headers = CodecHeaders(head)
    await headers.search_before(MemoryReader(data).as_reader, len(data))
    reader = MemoryReader(data)
    await headers.search_before(reader.as_reader, len(data))
    assert reader.reads == []


async def test_header_search_reads_little_from_the_origin() -> None:
    data = VIDEO_ONLY + avc_header(0, b"record")
    data += b"".join(second(at, size_bytes=20_000) for at in range(0, 30_000, 1000))
    head, _ = feed(flv_head.read_head(len(data)), data)
    headers = CodecHeaders(head)
    reader = MemoryReader(data, 0)
    await headers.search_before(reader.as_reader, len(data))
    assert reader.read_bytes <= COLD_BYTES_MAX + (512 << 10)
    assert all(span.end > len(data) - COLD_BYTES_MAX - (512 << 10) for span in reader.reads)
    # Cached bytes need no request: all of them are searched.
    reader = MemoryReader(data)
    await headers.search_before(reader.as_reader, len(data))
    assert min(span.start for span in reader.reads) < 1000


async def test_last_of_many_headers_applies() -> None:
    data = VIDEO_ONLY + avc_header(0, b"record") + second(0)
    data += b"".join(avc_header(1000, b"%d" % number) for number in range(2000)) + second(2000)
    headers = await headers_at(opened(data), MemoryReader(data), 2500)
    assert headers[TagType.VIDEO] == b"\x17\0\0\0\0" + b"1999"
