"""Journeys: files that other players accept play from a real edge, frame by frame.

Corpora of edited MP4s, FLVs and MP3s are compared with FFmpeg's reading of the same files. The
tests of the media folder compare more of them, without an edge.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.media import flv_corpus, mp3_corpus, mp4_corpus
from tests.support.media.ffmpeg_packets import Packet, Played, add_tag, differences, ffmpeg_packets
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_client import frames, message_name, open_client

EDITS_A_FILE = 3  # every third edit of an MP4: the others are compared without an edge
PICTURES = "-c:v libx264 -preset veryfast -g 12 -bf 2 -c:a aac -b:a 32k"
ENDINGS = (
    "NetStream.Play.Stop",
    "NetStream.Play.StreamNotFound",
    "NetStream.Play.Failed",
    "NetStream.Play.FileStructureInvalid",
    "NetStream.Play.NoSupportedTrackFound",
)


def encoded(path: Path, *options: str) -> bytes:
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=160x96:r=25:d=3",
         "-f", "lavfi", "-i", "sine=440:d=3:r=44100", *options, str(path)],
        check=True,
    )  # fmt: skip
    return path.read_bytes()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of all corpora."""
    folder = tmp_path_factory.mktemp("odd")
    seeds, films = folder / "seeds", folder / "films"
    seeds.mkdir()
    films.mkdir()
    film = encoded(seeds / "film.mp4", *PICTURES.split())
    flv = encoded(seeds / "film.flv", *PICTURES.split(), "-flvflags", "no_duration_filesize")
    song = encoded(seeds / "song.mp3", "-map", "1", "-b:a", "64k", "-id3v2_version", "0")
    corpora: dict[str, Sequence[tuple[str, bytes]]] = {
        "mp4": list(mp4_corpus.edited(film))[::EDITS_A_FILE],
        "flv": list(flv_corpus.edited(flv)),
        "mp3": [one for one in mp3_corpus.variants(song) if one.name in mp3_corpus.EXACT],
    }
    for kind, variants in corpora.items():
        for number, (name, data) in enumerate(variants):
            title = "".join(letter if letter.isalnum() else "-" for letter in name)
            (films / f"{number:02}-{title}.{kind}").write_bytes(data)
    return films


@pytest.fixture(scope="module")
def edge(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    distributions = '[[distributions]]\nid = "ESTREAM"\ntype = "rtmp"\norigin = "main"\n'
    folder = tmp_path_factory.mktemp("edge")
    with run_edge(folder, origins, distributions=distributions) as running:
        yield running


async def played(port: int, name: str) -> Played:
    """The packets that a viewer receives, and the final status."""
    async with open_client(port) as client:
        client.play(name)
        messages = await client.until_named(*ENDINGS)
    packets: dict[bool, list[Packet]] = {True: [], False: []}
    for frame in frames(messages):
        add_tag(packets, frame.kind, frame.time_ms, frame.body)
    return Played(packets[True], packets[False], message_name(messages[-1]))


@pytest.mark.parametrize("kind", ["mp4", "flv", "mp3"])
async def test_edge_plays_the_files_that_ffmpeg_plays(
    edge: EdgeProcess, films: Path, kind: str
) -> None:
    all_errors: list[str] = []
    paths = sorted(films.glob(f"*.{kind}"))
    assert len(paths) > 10
    for path in paths:
        received = await played(edge.rtmp_port, path.name)
        cut = "cut" in path.name or "past-the-end" in path.name
        errors = differences(ffmpeg_packets(path), received, may_have_more=cut)
        if received.error != "NetStream.Play.Stop":
            errors.append(f"ended with {received.error}")
        all_errors += [f"{path.name}: {difference}" for difference in errors]
    assert not all_errors, "\n".join(all_errors)
