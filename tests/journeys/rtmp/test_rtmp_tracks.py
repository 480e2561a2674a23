"""Journeys: films with several audio tracks, of which players get the default one, the chosen one,
or, if they announce that they play multitrack, all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from streamedge.media.flv import tags as flv
from tests.support.media.multitrack import digests, multitrack_film
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_client import (
    Frame,
    RtmpClient,
    frames,
    information,
    message_name,
    open_client,
)
from tests.support.rtmp.rtmp_players import FFMPEG_5, FFMPEG_9, ffmpeg, packets, rtmpdump, run
from tests.support.rtmp.rtmp_signer import ecdsa_signer

STOP, FAILED = "NetStream.Play.Stop", "NetStream.Play.Failed"
MULTITRACK = 2.0  # capsEx
SIGNER = ecdsa_signer()
DISTRIBUTIONS = f"""
[public_keys.{SIGNER.key_id}]
pem = '''{SIGNER.pem}'''

[key_groups.group]
keys = ["{SIGNER.key_id}"]

[[distributions]]
id = "ESTREAM"
type = "rtmp"
origin = "main"

[[distributions]]
id = "EONE"
type = "rtmp"
origin = "main"
application = ["one"]
tracks = "one"

[[distributions]]
id = "EALL"
type = "rtmp"
origin = "main"
application = ["all"]
tracks = "all"

[[distributions]]
id = "ESIGNED"
type = "rtmp"
origin = "main"
application = ["signed"]
trusted_key_groups = ["group"]
"""


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    folder = tmp_path_factory.mktemp("tracks")
    films = folder / "films"
    films.mkdir()
    (films / "film.mp4").write_bytes(multitrack_film())
    (films / "english.mp4").write_bytes(multitrack_film("mp4", 1))
    (films / "fragmented.mp4").write_bytes(
        multitrack_film("mp4", 0, "-movflags", "frag_keyframe+empty_moov")
    )
    (films / "film.flv").write_bytes(multitrack_film("flv"))
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    with run_edge(
        folder / "edge", origins, distributions=DISTRIBUTIONS, limits='rtmp_ahead = "24h"'
    ) as running:
        yield running


def flv_file(received: Sequence[Frame]) -> bytes:
    """The FLV of a client that saves what it receives."""
    written = [flv.tag(frame.kind, frame.body, frame.time_ms) for frame in received]
    return flv.file_header(has_audio=True, has_video=True) + b"".join(written)


async def received(
    edge: EdgeProcess, name: str, app: str = "cfx/st", *, capabilities: float = 0.0
) -> list[Frame]:
    async with open_client(edge.rtmp_port, app, capsEx=capabilities) as client:
        client.play(name)
        messages = await client.until_named(STOP, FAILED)
        assert message_name(messages[-1]) == STOP, information(messages[-1])
        return frames(messages)


async def refusal(client: RtmpClient, name: str) -> str:
    client.play(name)
    return str(information((await client.until_named(STOP, FAILED))[-1])["description"])


def is_multitrack(frame: Frame) -> bool:
    return frame.kind == 8 and frame.body[0] == 0x95


@pytest.mark.parametrize("exe", [FFMPEG_5, FFMPEG_9], ids=["ffmpeg-5.1", "ffmpeg-9"])
@pytest.mark.parametrize(
    ("name", "number"),
    [("film.mp4", 0), ("english.mp4", 1), ("film.mp4?audio=deu", 0), ("film.mp4?audio=en", 1),
     ("film.mp4?audio=fre", 2), ("film.mp4?audio=2", 2), ("english.mp4?audio=0", 0),
     ("fragmented.mp4?audio=fra", 2), ("film.flv", 0)],
)  # fmt: skip
async def test_ffmpeg_plays_the_default_or_chosen_audio(
    edge: EdgeProcess, name: str, number: int, exe: str
) -> None:
    result = await ffmpeg(edge.rtmp(name), exe=exe)
    assert result.code == 0, result.stderr
    # Each film is encoded apart, and two encodings of the same pictures may differ.
    source = edge.folder.parent / "films" / name.partition("?")[0]
    video, *audio = digests(source.read_bytes())
    played = packets(result.output)
    assert {kind: [packet.digest for packet in stream] for kind, stream in played.items()} == {
        "video": video,
        "audio": audio[number],
    }


@pytest.mark.parametrize(("name", "number"), [("film.mp4", 0), ("film.mp4?audio=eng", 1)])
async def test_rtmpdump_saves_the_default_or_chosen_audio(
    edge: EdgeProcess, tmp_path: Path, name: str, number: int
) -> None:
    await rtmpdump(edge.rtmp(name), tmp_path / "film.flv")
    video, *audio = digests(multitrack_film())
    assert digests((tmp_path / "film.flv").read_bytes()) == [video, audio[number]]


@pytest.mark.parametrize("name", ["film.mp4", "film.mp4?audio=eng", "film.flv"])
async def test_mpv_plays_picture_and_sound(edge: EdgeProcess, name: str) -> None:
    result = await run(
        "mpv", "--no-config", "--vo=null", "--ao=null", "--untimed", "--length=2", edge.rtmp(name)
    )
    assert result.code == 0, result.output
    assert b"VO: [null] 160x96" in result.output
    assert b"AO: [null] 44100Hz" in result.output
    assert result.output.count(b"Audio  --aid=") == 1 or result.output.count(b"--aid=") == 1


@pytest.mark.parametrize("name", ["film.mp4", "film.flv"])
async def test_client_that_announces_multitrack_gets_all_tracks(
    edge: EdgeProcess, name: str
) -> None:
    first = await received(edge, name, capabilities=MULTITRACK)
    assert digests(flv_file(first)) == digests(multitrack_film())
    assert await received(edge, name, capabilities=MULTITRACK) == first  # from the cache


@pytest.mark.parametrize("name", ["film.mp4", "film.flv"])
async def test_other_clients_get_no_multitrack_tags(edge: EdgeProcess, name: str) -> None:
    for app, capabilities in (("cfx/st", 0.0), ("cfx/st", 1.0), ("one", MULTITRACK)):
        plain = await received(edge, name, app, capabilities=capabilities)
        assert not any(map(is_multitrack, plain))
        assert digests(flv_file(plain)) == digests(multitrack_film())[:2]


async def test_all_sends_every_track_to_every_client(edge: EdgeProcess) -> None:
    sent = await received(edge, "film.mp4", "all")
    assert digests(flv_file(sent)) == digests(multitrack_film())


async def test_chosen_audio_is_sent_alone_to_every_client(edge: EdgeProcess) -> None:
    video, *audio = digests(multitrack_film())
    for app in ("cfx/st", "all"):
        sent = await received(edge, "film.mp4?audio=eng", app, capabilities=MULTITRACK)
        assert digests(flv_file(sent)) == [video, audio[1]]


async def test_metadata_describe_the_other_tracks(edge: EdgeProcess) -> None:
    for capabilities, languages in ((MULTITRACK, ["eng", "fra"]), (0.0, [])):
        async with open_client(edge.rtmp_port, capsEx=capabilities) as client:
            client.play("film.mp4")
            metadata = information((await client.until_named("onMetaData"))[-1])
        tracks = metadata.get("audioTrackIdInfoMap", {})
        assert [track["language"] for track in tracks.values()] == languages


@pytest.mark.parametrize("name", ["film.mp4", "film.flv"])
@pytest.mark.parametrize("capabilities", [0.0, MULTITRACK])
async def test_seek_repeats_the_headers_of_the_sent_tracks(
    edge: EdgeProcess, name: str, capabilities: float
) -> None:
    async with open_client(edge.rtmp_port, capsEx=capabilities) as client:
        client.play(name)
        await client.until(lambda message: any(frame.is_keyframe for frame in frames([message])))
        client.seek(2500)
        await client.until_named("NetStream.Seek.Notify")
        sent = frames(await client.until_named(STOP))
    assert next(frame for frame in sent if frame.is_keyframe).time_ms == 2000
    video, *audio = digests(flv_file(sent))
    whole_video, *whole_audio = digests(multitrack_film())
    assert video == whole_video[-len(video) :]
    assert len(audio) == (3 if capabilities else 1)
    for track, whole in zip(audio, whole_audio, strict=False):
        assert track == whole[-len(track) :]
        assert len(track) < len(whole)


async def test_wrong_choice_lists_the_languages(edge: EdgeProcess) -> None:
    async with open_client(edge.rtmp_port) as client:
        for choice in ("spa", "7"):
            description = await refusal(client, f"film.mp4?audio={choice}")
            assert choice in description
            assert "0 (deu), 1 (eng), 2 (fra)" in description
        assert "none that can be chosen" in await refusal(client, "film.flv?audio=deu")


async def test_signature_covers_the_choice_as_the_rest_of_the_name(edge: EdgeProcess) -> None:
    until_s = time.time() + 600
    video, *audio = digests(multitrack_film())
    signed = SIGNER.canned("film.mp4?audio=eng", until_s)
    assert digests(flv_file(await received(edge, signed, "signed"))) == [video, audio[1]]
    custom = SIGNER.custom("film.mp4?audio=fra", until_s, covering="film.mp4*")
    assert digests(flv_file(await received(edge, custom, "signed"))) == [video, audio[2]]
    async with open_client(edge.rtmp_port, "signed") as client:
        for name in (
            SIGNER.canned("film.mp4", until_s) + "&audio=eng",
            signed.replace("audio=eng", "audio=fra"),
            signed.replace("audio=eng&", ""),
        ):
            assert "Not allowed" in await refusal(client, name)
