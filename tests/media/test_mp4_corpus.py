"""The packager sends the same samples of an MP4 as FFmpeg, at the same times."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from streamedge.errors import MediaError
from streamedge.media.flv.layout import FlvLayout
from tests.support.media.ffmpeg_packets import Played, differences, ffmpeg_packets, flv_packets
from tests.support.media.media_oracle import flv_of, title_of
from tests.support.media.mp4_corpus import Variant, edited, mixed

SEEDS = {
    "in order": "-c:v libx264 -preset ultrafast -g 12 -bf 0 -c:a aac -b:a 32k",
    "reordered": "-c:v libx264 -preset veryfast -g 12 -bf 2 -c:a aac -b:a 32k",
}


@pytest.fixture(scope="module", params=list(SEEDS))
def seed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("seed") / "film.mp4"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=160x96:r=25:d=3",
         "-f", "lavfi", "-i", "sine=440:d=3:r=44100", *SEEDS[request.param].split(), str(path)],
        check=True,
    )  # fmt: skip
    return path.read_bytes()


def played(data: bytes) -> tuple[Played, tuple[str, ...]]:
    try:
        title = title_of(data)
    except MediaError as exc:
        return Played([], [], str(exc)), ()
    return flv_packets(flv_of(FlvLayout(title), data)), title.faults


def check(variants: Iterable[Variant], folder: Path) -> None:
    wrong: list[str] = []
    for name, data in variants:
        path = folder / "film.mp4"
        path.write_bytes(data)
        sent, faults = played(data)
        # FFmpeg ends at the first sample past the end; the edge continues with the other track.
        differing = differences(ffmpeg_packets(path), sent, may_have_more=bool(faults))
        wrong += [f"{name}: {difference} ({sent.error or faults})" for difference in differing]
    assert not wrong, "\n".join(wrong)


def test_file_with_one_edit_is_played_or_refused(seed: bytes, tmp_path: Path) -> None:
    check(edited(seed), tmp_path)


def test_file_with_several_edits_is_played_or_refused(
    seed: bytes, tmp_path: Path, corpus_size: int
) -> None:
    check(mixed(seed, count=corpus_size, random_seed=corpus_size), tmp_path)
