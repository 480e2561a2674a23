"""Journeys: a URL means the same object in every player, wherever the player splits it.

FFmpeg, rtmpdump and GStreamer play from folders of any depth; nginx-rtmp pulls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.process.ports import free_ports
from tests.support.rtmp.rtmp_media import avc_mp4, expected, keyframe, sample_file
from tests.support.rtmp.rtmp_players import (
    FFMPEG_5,
    FFMPEG_9,
    expected_packets,
    ffmpeg,
    flv_packets,
    gstreamer,
    packets,
    rtmpdump,
    run,
)
from tests.support.rtmp.rtmp_signer import ecdsa_signer

SIGNER = ecdsa_signer()
NAMES = {
    "mp4:film.mp4": "film.mp4",
    "mp4:dir/film.mp4": "film.mp4",
    "mp4:dir/sub/film.mp4": "film.mp4",
    "dir/sub/deep/film.mp4": "film.mp4",
    "dir/mp4:film.mp4": "film.mp4",
    "mp4:dir/sub/film": "film.mp4",
    "mp4:dir/clip.mov.mp4": "film.mp4",
    "dir/film.flv": "film.flv",
    "flv:dir/film": "film.flv",
    "mp3:dir/song.mp3": "song.mp3",
    "_definst_/mp4:dir/film.mp4": "film.mp4",
}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    """Applications cfx/st and vod are public; signed/st requires signatures."""
    folder = tmp_path_factory.mktemp("urls")
    films = folder / "films"
    for below in ("", "dir", "dir/sub", "dir/sub/deep", "a folder"):
        (films / below).mkdir(parents=True, exist_ok=True)
        for name in ("film.mp4", "film.flv", "song.mp3"):
            (films / below / name).write_bytes(sample_file(name))
    (films / "dir" / "clip.mov.mp4").write_bytes(sample_file("film.mp4"))
    # One second of it has 10 MB.
    (films / "large.mp4").write_bytes(avc_mp4([keyframe(400_000)] * 50, 40))
    distributions = (
        f"[public_keys.{SIGNER.key_id}]\npem = '''\n{SIGNER.pem}'''\n"
        f'[key_groups.site]\nkeys = ["{SIGNER.key_id}"]\n'
        '[[distributions]]\nid = "EOPEN"\ntype = "rtmp"\norigin = "main"\n'
        'application = ["cfx/st", "vod"]\n'
        '[[distributions]]\nid = "ESIGNED"\ntype = "rtmp"\norigin = "main"\n'
        'application = ["signed/st"]\ntrusted_key_groups = ["site"]\n'
    )
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    with run_edge(folder / "edge", origins, distributions=distributions) as running:
        yield running


@pytest.mark.parametrize("application", ["cfx/st", "vod"])
@pytest.mark.parametrize("name", NAMES)
async def test_rtmpdump_plays_from_folders(
    edge: EdgeProcess, tmp_path: Path, name: str, application: str
) -> None:
    result = await rtmpdump(edge.rtmp(name, application), tmp_path / "got.flv")
    assert "NetStream.Play.StreamNotFound" not in result.stderr
    assert flv_packets(tmp_path / "got.flv") == expected_packets(expected(NAMES[name]))


@pytest.mark.parametrize("application", ["cfx/st", "vod"])
@pytest.mark.parametrize("name", NAMES)
async def test_ffmpeg_plays_from_folders(edge: EdgeProcess, name: str, application: str) -> None:
    result = await ffmpeg(edge.rtmp(name, application))
    assert result.code == 0, result.stderr
    assert packets(result.output) == expected_packets(expected(NAMES[name]))


@pytest.mark.parametrize("element", ["rtmpsrc", "rtmp2src"])
@pytest.mark.parametrize("application", ["cfx/st", "vod"])
@pytest.mark.parametrize("name", ["mp4:film.mp4", "mp4:dir/sub/film.mp4", "flv:dir/film"])
async def test_gstreamer_plays_from_folders(
    edge: EdgeProcess, tmp_path: Path, name: str, application: str, element: str
) -> None:
    received = await gstreamer(element, edge.rtmp(name, application), tmp_path / "got.flv")
    assert received == expected_packets(expected(NAMES[name]))


@pytest.mark.parametrize("application", ["cfx/st", "vod", "cfx/st/", "cfx/st/_definst_"])
async def test_rtmpdump_plays_a_name_given_as_playpath(
    edge: EdgeProcess, tmp_path: Path, application: str
) -> None:
    url = edge.rtmp("", application).removesuffix("/")
    await rtmpdump(url, tmp_path / "got.flv", "-y", "mp4:dir/film.mp4")
    assert flv_packets(tmp_path / "got.flv") == expected_packets(expected("film.mp4"))


async def test_ffmpeg_plays_with_application_and_playpath_options(edge: EdgeProcess) -> None:
    host = edge.rtmp("", "").removesuffix("//")
    for options in (
        ("-rtmp_app", "cfx/st", "-rtmp_playpath", "mp4:dir/film.mp4"),
        ("-rtmp_app", "cfx", "-rtmp_playpath", "st/mp4:dir/film.mp4"),
        ("-rtmp_app", "cfx", "-rtmp_tcurl", f"{host}/cfx/st", "-rtmp_playpath", "dir/film.mp4"),
    ):
        result = await ffmpeg(f"{host}/cfx/st", options=options)
        assert result.code == 0, result.stderr
        assert packets(result.output) == expected_packets(expected("film.mp4"))


@pytest.mark.parametrize(
    "resource",
    ["dir/sub/film.mp4", "mp4:dir/sub/film", "mp4:dir/sub/film.mp4", "a folder/film.mp4",
     "a%20folder/film.mp4", "mp4:a%20folder/film.mp4"],
)  # fmt: skip
async def test_signed_names_in_folders_play_in_every_player(
    edge: EdgeProcess, tmp_path: Path, resource: str
) -> None:
    signed = SIGNER.canned(resource, time.time() + 600)
    url = edge.rtmp(signed.replace(" ", "%20"), "signed/st")
    received = tmp_path / "got.flv"
    film = expected_packets(expected("film.mp4"))
    await rtmpdump(url, received)
    assert flv_packets(received) == film
    for element in ("rtmpsrc", "rtmp2src"):
        assert await gstreamer(element, url, received) == film
    # FFmpeg puts no "mp4:" before a name with a query.
    for exe in (FFMPEG_5, FFMPEG_9):
        result = await ffmpeg(url, exe=exe)
        assert result.code == 0, result.stderr
        assert packets(result.output) == film
    other = url.replace("film", "song", 1)
    assert "NetStream.Play.Failed" in (await rtmpdump(other, received)).stderr


@asynccontextmanager
async def nginx_pulling(folder: Path, source: str) -> AsyncIterator[str]:
    """nginx-rtmp that pulls ``source`` for viewers of the yielded URL."""
    (port,) = free_ports(1)
    folder.mkdir()
    (folder / "nginx.conf").write_text(
        "load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;\n"
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log info;\n"
        "events { worker_connections 64; }\n"
        f"rtmp {{ server {{ listen 127.0.0.1:{port}; application relay {{\n"
        f"live on; pull {source} name=film; }} }} }}\n"
    )
    process = await asyncio.create_subprocess_exec(
        "/usr/sbin/nginx", "-c", f"{folder}/nginx.conf", "-p", str(folder),
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        yield f"rtmp://127.0.0.1:{port}/relay/film"
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize(
    ("application", "name", "codecs"),
    [
        ("vod", "film.mp4", ["aac", "h264"]),
        ("cfx/st", "mp4:dir/sub/film.mp4", ["aac", "h264"]),
        ("vod", "large.mp4", ["h264"]),
    ],
)
async def test_nginx_rtmp_pulls_a_stream(
    edge: EdgeProcess, tmp_path: Path, application: str, name: str, codecs: list[str]
) -> None:
    async with nginx_pulling(tmp_path / "nginx", edge.rtmp(name, application)) as url:
        result = await run(
            "ffprobe", "-v", "error", "-analyzeduration", "1000000", "-probesize", "1000000",
            "-show_entries", "stream=codec_name", "-of", "csv=p=0", url,
        )  # fmt: skip
    assert sorted(result.output.decode().split()) == codecs
    error_log = (tmp_path / "nginx" / "error.log").read_text()
    assert "too big" not in error_log
