"""Journeys: real clients over RTMPE and RTMPTE get the frames of plain RTMP; off by default."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.certificate_authority import CertificateAuthority
from tests.support.event_loop import until
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.process.ports import free_ports
from tests.support.rtmp.rtmp_media import expected, sample_file
from tests.support.rtmp.rtmp_players import (
    FFMPEG_9,
    expected_packets,
    ffmpeg,
    flv_packets,
    gstreamer,
    packets,
    rtmpdump,
)
from tests.support.rtmp.rtmp_signer import rsa_signer

STREAM = "cfx/st/mp4:film.mp4"
SIGNER = rsa_signer()


@dataclass(frozen=True)
class Ports:
    """A running edge with ``rtmpe = true`` and a mixed address; ``root``: the CA's certificate."""

    edge: EdgeProcess
    mixed: int
    root: Path

    def base(self, transport: str) -> str:
        """The URL of an address: the mixed one, or for "own rtmpe" that of ``listen.rtmp``."""
        if transport.startswith("own "):
            return f"{transport[4:]}://localhost:{self.edge.rtmp_port}"
        return f"{transport}://localhost:{self.mixed}"


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("encrypted")
    films = folder / "films"
    films.mkdir()
    (films / "film.mp4").write_bytes(sample_file("film.mp4"))
    authority = CertificateAuthority(folder)
    (mixed,) = free_ports(1)
    with run_edge(
        folder / "edge",
        f'[origins.main]\ntype = "directory"\npath = "{films}"\n',
        distributions=(
            f"[public_keys.{SIGNER.key_id}]\npem = '''\n{SIGNER.pem}'''\n"
            f'[key_groups.site]\nkeys = ["{SIGNER.key_id}"]\n'
            '[[distributions]]\nid = "EOPEN"\ntype = "rtmp"\norigin = "main"\n'
            '[[distributions]]\nid = "ESIGNED"\ntype = "rtmp"\norigin = "main"\n'
            'application = ["signed"]\ntrusted_key_groups = ["site"]\n'
        ),
        limits='rtmp_ahead = "24h"\nrtmp_handshake = "2s"',
        listen=f'mixed = ["127.0.0.1:{mixed}"]\nrtmpe = true',
        certificate=authority.issue("localhost"),
        workers=2,
    ) as edge:
        yield Ports(edge, mixed, authority.root)


ENCRYPTED = ["rtmpe", "own rtmpe", "rtmpte"]
# The others are served on the same addresses as without RTMPE.
TRANSPORTS = [*ENCRYPTED, "own rtmp", "rtmp", "rtmpt", "rtmps"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_ffmpeg_receives_every_frame(ports: Ports, transport: str) -> None:
    options = ("-ca_file", str(ports.root)) if transport == "rtmps" else ()
    result = await ffmpeg(f"{ports.base(transport)}/{STREAM}", exe=FFMPEG_9, options=options)
    assert result.code == 0, result.stderr
    assert packets(result.output) == expected_packets(expected("film.mp4"))


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_rtmpdump_receives_every_frame(ports: Ports, transport: str, tmp_path: Path) -> None:
    await rtmpdump(f"{ports.base(transport)}/{STREAM}", tmp_path / "got.flv")
    assert flv_packets(tmp_path / "got.flv") == expected_packets(expected("film.mp4"))


@pytest.mark.parametrize("transport", [*ENCRYPTED, "own rtmp", "rtmpt"])
async def test_gstreamer_receives_every_frame(ports: Ports, transport: str, tmp_path: Path) -> None:
    url = f"{ports.base(transport)}/{STREAM}"
    received = await gstreamer("rtmpsrc", url, tmp_path / "got.flv")
    assert received == expected_packets(expected("film.mp4"))


@pytest.mark.parametrize("transport", ENCRYPTED)
async def test_ffmpeg_seeks_as_over_plain_rtmp(ports: Ports, transport: str) -> None:
    """With a small buffer, so that the film has not ended before FFmpeg seeks."""
    seek = ("-ss", "7", "-t", "2")
    received = []
    for each in (transport, "rtmp"):
        url = f"{ports.base(each)}/{STREAM}"
        result = await ffmpeg(url, exe=FFMPEG_9, options=seek, buffer_ms=1_000)
        assert result.code == 0, result.stderr
        received.append(packets(result.output))
    assert received[0] == received[1]
    film = expected_packets(expected("film.mp4"))
    assert 40 < len(received[0]["video"]) < len(film["video"]) / 2


@pytest.mark.parametrize("transport", ENCRYPTED)
async def test_rtmpdump_plays_a_part_as_over_plain_rtmp(
    ports: Ports, transport: str, tmp_path: Path
) -> None:
    parts = []
    for each in (transport, "rtmp"):
        target = tmp_path / f"{each}.flv"
        await rtmpdump(f"{ports.base(each)}/{STREAM}", target, "-A", "5", "-B", "12")
        parts.append(flv_packets(target))
    assert parts[0] == parts[1]
    assert 100 < len(parts[0]["video"]) < len(expected("film.mp4").packets["video"])


@pytest.mark.parametrize("transport", ENCRYPTED)
async def test_signed_stream_plays_and_a_changed_one_does_not(
    ports: Ports, transport: str, tmp_path: Path
) -> None:
    signed = SIGNER.canned("film.mp4", time.time() + 600)
    film = expected_packets(expected("film.mp4"))
    url = f"{ports.base(transport)}/signed/{signed}"
    result = await ffmpeg(url, exe=FFMPEG_9)
    assert result.code == 0, result.stderr
    assert packets(result.output) == film
    await rtmpdump(url, tmp_path / "got.flv")
    assert flv_packets(tmp_path / "got.flv") == film
    other = url.replace("Signature=", "Signature=A")
    refused = await ffmpeg(other, exe=FFMPEG_9)
    assert refused.code != 0
    assert "Not allowed" in refused.stderr


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_log_names_the_transport(ports: Ports, transport: str, tmp_path: Path) -> None:
    page = f"https://example.org/{transport.replace(' ', '-')}"
    url = f"{ports.base(transport)}/cfx/st/mp4:none"
    await rtmpdump(url, tmp_path / "none.flv", "-p", page)

    def transports() -> set[str]:
        lines = ports.edge.log("rtmp_connect")
        return {line["transport"] for line in lines if line.get("page") == page}

    await until(lambda: bool(transports()))
    assert transports() == {transport.removeprefix("own ")}
