"""The edge plays the same samples of an FLV as FFmpeg, at the same times."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from streamedge.errors import MediaError
from streamedge.media.flv import head as flv_head
from streamedge.media.flv import tags as flv
from streamedge.media.flv.medium import FlvMedium, medium_head
from streamedge.media.flv.scan_index import ScanIndex
from streamedge.media.medium import RUN_MS, End, Run, Skip
from tests.support.media.ffmpeg_packets import Packet, Played, add_tag, differences, ffmpeg_packets
from tests.support.media.flv_corpus import Variant, damaged, edited, mixed
from tests.support.media.media_oracle import feed
from tests.support.media.memory_reader import MemoryReader

SEED = (
    "-c:v libx264 -preset veryfast -g 12 -bf 2 -c:a aac -b:a 32k"
    " -flvflags no_duration_filesize"
)  # fmt: skip


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("seed") / "film.flv"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=160x96:r=25:d=3",
         "-f", "lavfi", "-i", "sine=440:d=3:r=44100", *SEED.split(), str(path)],
        check=True,
    )  # fmt: skip
    return path.read_bytes()


async def played(data: bytes, length_ms: int) -> Played:
    """The tags of the runs that a viewer is sent."""
    try:
        head, _ = feed(flv_head.read_head(len(data)), data)
    except MediaError as exc:
        return Played([], [], str(exc))
    reader = MemoryReader(data)
    index = ScanIndex(head, len(data))
    medium = FlvMedium("film", medium_head(head), index, reader.as_reader, reader.as_reader)
    packets: dict[bool, list[Packet]] = {True: [], False: []}
    mark = await medium.locate(0)
    while True:
        run = medium.next_run(mark, length_ms, None)
        if isinstance(run, End):
            return Played(packets[True], packets[False], "")
        if isinstance(run, Skip):
            assert run.following.position > mark.position
            mark = run.following
            continue
        assert isinstance(run, Run)
        body = data[run.span.start : run.span.end] if run.body is None else run.body
        # Sub-tags of an aggregate count from the message's time.
        position, first_ms = 0, None
        while position < len(body):
            header = flv.parse_tag_header(body[position : position + 11])
            first_ms = header.timestamp_ms if first_ms is None else first_ms
            assert header.type in (8, 9, 18)
            payload = body[position + 11 : position + 11 + header.size_bytes]
            time_ms = run.time_ms + header.timestamp_ms - first_ms
            add_tag(packets, header.type, time_ms, payload)
            position += 15 + header.size_bytes
            if run.tag_type is None:
                assert (
                    int.from_bytes(body[position - 4 : position], "big") == header.size_bytes + 11
                )
        mark = run.following


async def check(variants: Iterable[Variant], folder: Path, *, may_have_more: bool = False) -> None:
    wrong: list[str] = []
    for name, data in variants:
        path = folder / "film.flv"
        path.write_bytes(data)
        expected = ffmpeg_packets(path)
        for length_ms in (0, RUN_MS):
            sent = await played(data, length_ms)
            faults = differences(expected, sent, may_have_more=may_have_more)
            wrong += [f"{name}: {difference} ({sent.error})" for difference in faults]
    assert not wrong, "\n".join(wrong)


async def test_file_with_one_edit_is_played_or_refused(seed: bytes, tmp_path: Path) -> None:
    await check(edited(seed), tmp_path)


async def test_file_with_several_edits_is_played_or_refused(
    seed: bytes, tmp_path: Path, corpus_size: int
) -> None:
    # FFmpeg ends at some of them, where the edge continues.
    files = mixed(seed, corpus_size, random_seed=corpus_size)
    await check(files, tmp_path, may_have_more=True)


async def test_damage_affects_only_the_tags_it_touches(seed: bytes) -> None:
    whole = await played(seed, RUN_MS)
    for name, data in damaged(seed):
        sent = await played(data, RUN_MS)
        lost = len(whole.video) + len(whole.audio) - len(sent.video) - len(sent.audio)
        assert lost <= (1 if name == "zeros for a tag" else 0), name
