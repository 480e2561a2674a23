"""Journeys: real clients over RTMP and RTMPS, on addresses of their own and on mixed ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.certificate_authority import CertificateAuthority
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, pause, run_edge
from tests.support.process.ports import free_ports
from tests.support.rtmp.rtmp_media import expected, sample_file, tags_flv
from tests.support.rtmp.rtmp_players import (
    FFMPEG_5,
    FFMPEG_9,
    as_other_user,
    expected_packets,
    ffmpeg,
    flv_packets,
    gstreamer,
    packets,
    rtmpdump,
    run,
    vlc,
)
from tests.support.rtmp.tunnel_client import open_connection

TEXT = b"text over HTTP\n"
STREAM = "cfx/st/mp4:film.mp4"
LONG_S, LONG_FRAME_BYTES = 20, 60_000


@dataclass(frozen=True)
class Ports:
    """A running edge with a mixed and an rtmps address; ``root`` is the CA's certificate."""

    edge: EdgeProcess
    mixed: int
    rtmps: int
    root: Path

    def base(self, transport: str) -> str:
        """The URL for a transport, of the mixed address; "own rtmps": of the other one."""
        if transport == "own rtmps":
            return f"rtmps://localhost:{self.rtmps}"
        return f"{transport}://localhost:{self.mixed}"


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("transports")
    films = folder / "films"
    films.mkdir()
    (films / "film.mp4").write_bytes(sample_file("film.mp4"))
    (films / "long.flv").write_bytes(tags_flv(LONG_S, frame_bytes=LONG_FRAME_BYTES))
    (films / "a.txt").write_bytes(TEXT)
    authority = CertificateAuthority(folder)
    mixed, rtmps = free_ports(2)
    with run_edge(
        folder / "edge",
        f'[origins.main]\ntype = "directory"\npath = "{films}"\n',
        limits='rtmp_ahead = "24h"\nrtmp_handshake = "2s"\ntls_handshake = "2s"',
        listen=f'mixed = ["127.0.0.1:{mixed}"]\nrtmps = ["127.0.0.1:{rtmps}"]',
        certificate=authority.issue("localhost"),
        workers=2,
    ) as edge:
        yield Ports(edge, mixed, rtmps, authority.root)


TRANSPORTS = ["rtmp", "rtmps", "own rtmps", "rtmpt", "rtmpts"]


@pytest.mark.parametrize(
    ("transport", "exe"),
    [
        (transport, exe)
        for transport in TRANSPORTS
        for exe in (FFMPEG_5, FFMPEG_9)
        if (transport, exe) != ("rtmpts", FFMPEG_9)
    ],
)
async def test_ffmpeg_receives_every_frame(ports: Ports, transport: str, exe: str) -> None:
    options = ("-ca_file", str(ports.root)) if "rtmps" in transport else ()
    result = await ffmpeg(f"{ports.base(transport)}/{STREAM}", exe=exe, options=options)
    assert result.code == 0, result.stderr
    assert packets(result.output) == expected_packets(expected("film.mp4"))


async def test_current_ffmpeg_does_not_speak_rtmpts(
    ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is its own, from version 7.1 on: it opens HTTPS and then joins HTTP."""
    monkeypatch.setenv("SSL_CERT_FILE", str(ports.root))
    result = await ffmpeg(f"{ports.base('rtmpts')}/{STREAM}", exe=FFMPEG_9)
    assert "Cannot read RTMP handshake response" in result.stderr


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_rtmpdump_receives_every_frame(ports: Ports, transport: str, tmp_path: Path) -> None:
    """Over TLS 1.3, whose session tickets it cannot read: the edge sends none."""
    await rtmpdump(f"{ports.base(transport)}/{STREAM}", tmp_path / "got.flv")
    assert flv_packets(tmp_path / "got.flv") == expected_packets(expected("film.mp4"))


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_vlc_receives_every_frame(ports: Ports, transport: str) -> None:
    received = await vlc(f"{ports.base(transport)}/{STREAM}")
    assert received == expected_packets(expected("film.mp4"))


@pytest.mark.parametrize(
    ("element", "transport"),
    [
        *(("rtmpsrc", transport) for transport in TRANSPORTS),
        *(("rtmp2src", transport) for transport in ("rtmp", "rtmps", "own rtmps")),
    ],
)
async def test_gstreamer_receives_every_frame(
    ports: Ports, element: str, transport: str, tmp_path: Path
) -> None:
    url = f"{ports.base(transport)}/{STREAM}"
    options = ("tls-validation-flags=0",) if element == "rtmp2src" else ()
    received = await gstreamer(element, url, tmp_path / "got.flv", *options)
    assert received == expected_packets(expected("film.mp4"))


VLC = ("cvlc", "-I", "dummy", "--no-xlib")
RTMP2SRC = ("timeout", "30", "gst-launch-1.0", "rtmp2src")  # it may hang after its error
MPV = ("mpv", "--no-config", "--ytdl=no", "--vo=null", "--ao=null")


@pytest.mark.parametrize(
    ("command", "transport", "error_text"),
    [
        ((FFMPEG_5, "-v", "error", "-i", "{}"), "rtmpe", "Protocol not found"),
        ((*MPV, "{}"), "rtmpe", "Protocol not found"),
        ((*VLC, "{}", "vlc://quit"), "rtmpe", "Failed to open rtmpe://"),
        *(
            ((*RTMP2SRC, "location={}", "!", "fakesink"), transport, "Host is not set")
            for transport in ("rtmpt", "rtmpts", "rtmpe")
        ),
    ],
)
async def test_client_without_a_transport_names_it(
    ports: Ports, command: tuple[str, ...], transport: str, error_text: str
) -> None:
    """The documentation has these texts; a client that gets further belongs into the matrix."""
    url = f"{transport}://localhost:{ports.mixed}/{STREAM}"
    user = as_other_user() if command[0] == "cvlc" else ()
    result = await run(*user, *(argument.format(url) for argument in command))
    assert error_text in result.output.decode() + result.stderr


@pytest.mark.parametrize("transport", ["rtmpt", "rtmpts"])
async def test_long_film_is_the_same_as_over_rtmp(
    ports: Ports, transport: str, tmp_path: Path
) -> None:
    """librtmp fails at a response whose head is cut by the end of its buffer of 16 KiB."""
    films = []
    for each in ("rtmp", transport):
        target = tmp_path / f"{each}.flv"
        await rtmpdump(f"{ports.base(each)}/cfx/st/long", target)
        films.append(target.read_bytes())
    assert len(films[0]) > LONG_S * 25 * LONG_FRAME_BYTES
    assert films[0] == films[1]


@pytest.mark.parametrize("is_secure", [False, True], ids=["rtmpt", "rtmpts"])
async def test_each_request_of_a_session_may_use_another_connection(
    ports: Ports, is_secure: bool
) -> None:
    """The kernel gives connections to any worker; the session is in one."""
    context = ssl.create_default_context(cafile=ports.root) if is_secure else None

    async def post(target: str, body: bytes) -> bytes:
        async with open_connection(ports.mixed, context) as client:
            status, received = await client.request(target, body)
        assert status == 200
        return received

    session = (await post("/open/1", b"\0")).decode().strip()
    c1 = bytes(8) + bytes(range(256)) * 5 + bytes(248)
    received = (await post(f"/send/{session}/0", b"\x03" + c1))[1:]
    for number in range(1, 20):
        received += (await post(f"/send/{session}/{number}", b""))[1:]
    assert len(received) == 1 + 2 * len(c1)
    assert received[:1] == b"\x03"
    assert received[1 + len(c1) + 8 :] == c1[8:]
    assert len(await post(f"/close/{session}/20", b"\0")) == 1


@pytest.mark.parametrize("transport", ["rtmp", "rtmps", "rtmpt", "rtmpts"])
def test_mpv_decodes_every_frame_as_over_plain_rtmp(
    ports: Ports, transport: str, tmp_path: Path
) -> None:
    reports = []
    for each in ("rtmp", transport):
        report = tmp_path / f"{each}.md5"
        completed = subprocess.run(
            [
                *("mpv", "--no-config", "--ytdl=no", "--tls-verify=no", "--no-audio"),
                *("--ovc=rawvideo", "--of=framemd5", f"--o={report}"),
                f"{ports.base(each)}/{STREAM}",
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout
        lines = report.read_text().splitlines()
        reports.append([line for line in lines if not line.startswith("#")])
    assert len(reports[0]) == len(expected("film.mp4").packets["video"])
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("scheme", "option", "version"),
    [
        ("http", "--http1.1", "1.1"),
        ("https", "--http1.1", "1.1"),
        ("https", "--http2", "2"),
        ("https", "--no-alpn", "1.1"),
    ],
)
def test_curl_gets_objects_of_a_mixed_address(
    ports: Ports, scheme: str, option: str, version: str
) -> None:
    completed = subprocess.run(
        [
            *("curl", "-sSf", option, "--cacert", str(ports.root)),
            *("-w", "%{http_version}", f"{scheme}://localhost:{ports.mixed}/a.txt"),
        ],
        capture_output=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert completed.stdout == TEXT + version.encode()


def test_tls_for_rtmp_alone_does_not_serve_http(ports: Ports) -> None:
    completed = subprocess.run(
        ["curl", "-sS", "--cacert", str(ports.root), f"https://localhost:{ports.rtmps}/a.txt"],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert completed.returncode != 0
    ports.edge.await_log("protocol_unknown")


async def test_session_of_a_killed_player_expires(ports: Ports) -> None:
    def expired() -> int:
        lines = ports.edge.log("rtmp_disconnect")
        return sum("the tunnel's client sends no requests" in line["reason"] for line in lines)

    before = await asyncio.to_thread(expired)
    player = await asyncio.create_subprocess_exec(
        *("rtmpdump", "-q", "-r", f"{ports.base('rtmpt')}/cfx/st/long", "-b", "1000", "-o", "-"),
        stdout=subprocess.PIPE,
    )
    assert player.stdout is not None
    await player.stdout.readexactly(LONG_FRAME_BYTES)
    player.kill()  # so it sends no close
    await player.wait()
    async with asyncio.timeout(PATIENCE_S):
        while await asyncio.to_thread(expired) == before:
            await asyncio.to_thread(pause)


@pytest.mark.parametrize("address", ["rtmps", "mixed"])
def test_clients_get_no_session_tickets(ports: Ports, address: str) -> None:
    port = ports.rtmps if address == "rtmps" else ports.mixed
    completed = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-ign_eof"],
        input=b"",
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert b"TLSv1.3" in completed.stdout
    assert b"Session Ticket arrived" not in completed.stdout


async def test_wrong_first_byte_costs_one_line_and_one_counter(ports: Ports) -> None:
    before = ports.edge.metric("streamedge_errors_total", "protocol_unknown")
    reader, writer = await asyncio.open_connection("127.0.0.1", ports.mixed)
    writer.write(b"\x00" * 100)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    await asyncio.to_thread(
        ports.edge.await_metric,
        "streamedge_errors_total",
        lambda value: value >= before + 1,
        "protocol_unknown",
    )


@pytest.mark.parametrize("player", ["ffmpeg", "rtmpdump"])
@pytest.mark.parametrize(
    ("address", "event", "text", "counter"),
    [
        ("mixed", "protocol_unknown", '"protocol": "rtmpe"', "protocol_unknown"),
        ("own", "rtmp_disconnect", "listen.rtmpe is off", "rtmp_protocol"),
    ],
)
async def test_rtmpe_is_refused_by_name_while_it_is_off(
    ports: Ports, tmp_path: Path, address: str, event: str, text: str, counter: str, player: str
) -> None:
    edge = ports.edge
    before, seen = edge.metric("streamedge_errors_total", counter), len(edge.log(event))
    url = f"rtmpe://localhost:{ports.mixed if address == 'mixed' else edge.rtmp_port}/{STREAM}"
    is_logged = False
    async with asyncio.timeout(PATIENCE_S):
        while not is_logged:  # of equal events in one second, only the first has a line
            if player == "ffmpeg":
                result = await ffmpeg(url, exe=FFMPEG_9)
            else:
                result = await rtmpdump(url, tmp_path / "none.flv")
            assert result.code != 0
            is_logged = any(text in json.dumps(line) for line in edge.log(event)[seen:])
    await asyncio.to_thread(
        edge.await_metric, "streamedge_errors_total", lambda value: value > before, counter
    )


async def test_silent_connections_are_closed(ports: Ports) -> None:
    context = ssl.create_default_context(cafile=ports.root)
    plain = await asyncio.open_connection("127.0.0.1", ports.mixed)
    secure = await asyncio.open_connection("localhost", ports.mixed, ssl=context)
    for reader, writer in (plain, secure):
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
