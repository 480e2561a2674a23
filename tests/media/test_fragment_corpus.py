"""The packager sends the same samples of edited fragmented MP4s as FFmpeg, at the same times."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamedge.media.flv.layout import FlvLayout
from tests.support.media.ffmpeg_packets import differences, ffmpeg_packets, flv_packets
from tests.support.media.fragment_corpus import edited
from tests.support.media.fragment_writer import MUXERS, muxed
from tests.support.media.media_oracle import flv_of, title_of


@pytest.mark.parametrize("muxer", ["base is moof", "cmaf with edit list", "a moof for each track"])
def test_fragments_with_one_edit_are_played_as_by_ffmpeg(muxer: str, tmp_path: Path) -> None:
    wrong: list[str] = []
    path = tmp_path / "film.mp4"
    for name, data in edited(muxed(MUXERS[muxer])):
        path.write_bytes(data)
        title = title_of(data)
        sent = flv_packets(flv_of(FlvLayout(title), data))
        assert len(sent.video) > 40
        differing = differences(ffmpeg_packets(path), sent, may_have_more=bool(title.faults))
        wrong += [f"{name}: {difference}" for difference in differing]
    assert not wrong, "\n".join(wrong)
