"""Journeys: signed stream names, signed as publishers do and sent by real players."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.mmdb_file import country, mmdb
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.rtmp.rtmp_client import (
    await_line,
    information,
    open_client,
    open_raw_client,
)
from tests.support.rtmp.rtmp_media import expected, sample_file
from tests.support.rtmp.rtmp_players import (
    FFMPEG_5,
    FFMPEG_9,
    expected_packets,
    ffmpeg,
    flv_packets,
    packets,
    rtmpdump,
)
from tests.support.rtmp.rtmp_signer import StreamSigner, changed, ecdsa_signer, rsa_signer

RSA, ECDSA = rsa_signer(), ecdsa_signer()
FILM = "dir/film.mp4"
FAILED = "NetStream.Play.Failed"


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    """cfx/st requires signatures, pages one page URL; here denies this machine's country."""
    folder = tmp_path_factory.mktemp("signed")
    films = folder / "films"
    (films / "dir").mkdir(parents=True)
    (films / FILM).write_bytes(sample_file("film.mp4"))
    (folder / "ecdsa.pem").write_text(ECDSA.pem)
    (folder / "countries.mmdb").write_bytes(mmdb({"127.0.0.0/8": country("FR")}))
    distributions = (
        f'[countries]\ndatabase = "{folder / "countries.mmdb"}"\n'
        f"[public_keys.{RSA.key_id}]\npem = '''\n{RSA.pem}'''\n"
        f'[public_keys.{ECDSA.key_id}]\nfile = "{folder / "ecdsa.pem"}"\n'
        f'[key_groups.site]\nkeys = ["{RSA.key_id}", "{ECDSA.key_id}"]\n'
        '[[distributions]]\nid = "ESIGNED"\ntype = "rtmp"\norigin = "main"\n'
        'trusted_key_groups = ["site"]\n'
        '[[distributions]]\nid = "EPAGES"\ntype = "rtmp"\norigin = "main"\n'
        'application = ["pages"]\npages = ["https://www.example.com/*"]\n'
        '[[distributions]]\nid = "EHERE"\ntype = "rtmp"\norigin = "main"\n'
        'application = ["here"]\ncountries = { deny = ["FR"] }\n'
    )
    origins = f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
    with run_edge(folder / "edge", origins, distributions=distributions) as running:
        yield running


def until_s() -> float:
    """When signatures expire: some are made long before their test runs."""
    return time.time() + 24 * 3600


def refusals(edge: EdgeProcess) -> list[str]:
    """The reasons of refused plays so far."""
    reasons = [str(line["reason"]) for line in edge.log("rtmp_stop")]
    return [reason for reason in reasons if reason.startswith(FAILED)]


def await_refusal(edge: EdgeProcess, before: int) -> str:
    """The reason of the next refused play after ``before`` others."""
    deadline_s = time.monotonic() + PATIENCE_S
    while len(reasons := refusals(edge)) <= before:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{len(reasons)} plays were refused")
        pause()
    return reasons[before].removeprefix(f"{FAILED}: ")


@pytest.mark.parametrize("signer", [RSA, ECDSA], ids=["rsa", "ecdsa"])
@pytest.mark.parametrize("exe", [FFMPEG_5, FFMPEG_9], ids=["ffmpeg 5", "ffmpeg 9"])
async def test_ffmpeg_plays_a_signed_name(
    edge: EdgeProcess, exe: str, signer: StreamSigner
) -> None:
    whole = expected_packets(expected("film.mp4"))
    for url in (
        edge.rtmp(signer.canned(FILM, until_s())),
        edge.rtmp(signer.canned(f"mp4:{FILM}", until_s())),
        signer.canned(edge.rtmp(FILM), until_s()),
        edge.rtmp(signer.custom(FILM, until_s(), covering="dir/*", network="127.0.0.0/8")),
    ):
        result = await ffmpeg(url, exe=exe)
        assert result.code == 0, result.stderr
        assert packets(result.output) == whole


async def test_ffmpeg_with_one_changed_character_is_refused(edge: EdgeProcess) -> None:
    name = RSA.canned(FILM, until_s())
    for at in (0, name.index("Expires=") + 9, name.index("Signature=") + 50, len(name) - 1):
        before = len(refusals(edge))
        result = await ffmpeg(edge.rtmp(changed(name, at)))
        assert result.code != 0
        assert "Not allowed" in result.stderr
        assert not result.output
        assert await_refusal(edge, before)
    assert "Signature=" not in (edge.folder / "edge.log").read_text()


@pytest.mark.parametrize("signer", [RSA, ECDSA], ids=["rsa", "ecdsa"])
@pytest.mark.parametrize("encoded", [False, True], ids=["plain", "encoded"])
async def test_rtmpdump_plays_a_signed_name(
    edge: EdgeProcess, tmp_path: Path, signer: StreamSigner, encoded: bool
) -> None:
    name = signer.canned(FILM, until_s())
    # librtmp decodes %3F in a URL; it sends a separate playpath unchanged.
    options = ("-a", "cfx/st", "-y", f"mp4:{quote(name, safe='/')}") if encoded else ()
    url = edge.rtmp("" if encoded else name)
    result = await rtmpdump(url, tmp_path / "film.flv", *options)
    assert result.code == 0, result.stderr
    assert flv_packets(tmp_path / "film.flv") == expected_packets(expected("film.mp4"))


async def test_rtmpdump_with_one_changed_character_is_refused(
    edge: EdgeProcess, tmp_path: Path
) -> None:
    name = RSA.canned(FILM, until_s())
    before = len(refusals(edge))
    url = edge.rtmp(changed(name, name.index("Signature=") + 50))
    result = await rtmpdump(url, tmp_path / "film.flv")
    assert result.code != 0
    assert await_refusal(edge, before) == "signature does not match"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (FILM, "not signed"),
        (RSA.canned(FILM, time.time() - 60), "expired"),
        (RSA.custom(FILM, until_s(), covering=FILM, from_s=until_s()), "not yet valid"),
        (RSA.custom(FILM, until_s(), covering="other/*"), "policy is for another resource"),
        (RSA.custom(FILM, until_s(), covering="*", network="192.0.2.1"), "address is not allowed"),
        (rsa_signer("KNOBODY").canned(FILM, until_s()), "key is not trusted"),
    ],
    ids=["unsigned", "expired", "early", "resource", "address", "key"],
)
async def test_play_without_a_valid_signature_is_refused(
    edge: EdgeProcess, name: str, reason: str
) -> None:
    before = len(refusals(edge))
    async with open_client(edge.rtmp_port) as client:
        client.play(name)
        status = information((await client.until_named(FAILED))[-1])
    assert status["description"] == "Not allowed."
    assert await_refusal(edge, before) == reason


@pytest.mark.parametrize(
    ("app", "page", "reason"),
    [
        ("pages", "https://www.example.com/films.html", ""),
        ("pages", "https://www.example.org/", "page 'https://www.example.org/' is none of pages"),
        ("pages", "", "the client sent no pageUrl"),
        ("here", "", "country FR is not allowed"),
    ],
)
async def test_connect_is_checked_against_pages_and_countries(
    edge: EdgeProcess, app: str, page: str, reason: str
) -> None:
    async with open_raw_client(edge.rtmp_port) as client:
        connecting = client.connect(app, tcUrl=edge.rtmp("", app), pageUrl=page)
        if not reason:
            await connecting
            return
        with pytest.raises(KeyError, match=r"NetConnection\.Connect\.Rejected"):
            await connecting
        await client.closed()
    assert await_line(edge, "rtmp_disconnect", client)["reason"] == reason
