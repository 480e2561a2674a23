"""Journeys of mixed and rtmps addresses: proxies, limits, renewed certificates, the edge's end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import urllib.request
from functools import partial
from operator import eq
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.certificate_authority import CertificateAuthority
from tests.support.http.http_viewer import fetch
from tests.support.http.proxy_headers import proxy_v1, proxy_v2, relay
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import pause, run_edge
from tests.support.process.ports import free_ports
from tests.support.rtmp.rtmp_media import expected, sample_file
from tests.support.rtmp.rtmp_players import FFMPEG_5, expected_packets, packets, rtmpdump
from tests.support.rtmp.rtmp_players import ffmpeg as play_with_ffmpeg
from tests.support.rtmp.rtmp_renditions import SECONDS, rendition

STREAM = "cfx/st/mp4:film.mp4"
VIEWER = "192.0.2.1"


async def test_each_protocol_begins_with_a_proxy_header(tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    (films / "film.mp4").write_bytes(sample_file("film.mp4"))
    authority = CertificateAuthority(tmp_path)
    mixed, rtmps = free_ports(2)
    addresses = f'"127.0.0.1:{mixed}", "127.0.0.1:{rtmps}"'
    with run_edge(
        tmp_path / "edge",
        f'[origins.main]\ntype = "directory"\npath = "{films}"\n',
        limits='rtmp_ahead = "24h"',
        listen=(
            f'mixed = ["127.0.0.1:{mixed}"]\nrtmps = ["127.0.0.1:{rtmps}"]\n'
            f'proxies = ["127.0.0.1"]\nproxy_protocol = [{addresses}]'
        ),
        certificate=authority.issue("localhost"),
    ) as edge:
        plays = [("rtmp", mixed), ("rtmpt", mixed), ("rtmps", mixed), ("rtmps", rtmps)]
        for number, (transport, address) in enumerate(plays, start=4711):
            async with relay(address, proxy_v2(VIEWER, number)) as port:
                result = await play_with_ffmpeg(f"{transport}://localhost:{port}/{STREAM}")
            assert packets(result.output) == expected_packets(expected("film.mp4")), result.stderr
        seen = [line["client"] for line in await asyncio.to_thread(edge.await_log, "rtmp_play", 4)]
        assert [client.partition(":")[0] for client in seen] == [VIEWER] * len(plays)
        async with relay(mixed, proxy_v1(VIEWER, 5000)) as port:
            assert (await fetch(port, "/film.mp4")).status == 200
        (line,) = await asyncio.to_thread(edge.await_log, "response")
        assert line["client"] == f"{VIEWER}:5000"
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await fetch(mixed, "/film.mp4")
        (line,) = await asyncio.to_thread(edge.await_log, "proxy_header_refused")
        assert line["protocol"] == "mixed"


async def test_silent_connections_of_an_address_are_limited_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (mixed,) = free_ports(1)
    with run_edge(
        tmp_path / "edge",
        f'[origins.main]\ntype = "directory"\npath = "{tmp_path}"\n',
        limits=(
            "http_connections_per_address = 1\nrtmp_connections_per_address = 2\n"
            'tls_handshake = "5s"'
        ),
        listen=f'mixed = ["127.0.0.1:{mixed}"]',
    ) as edge:
        for _ in range(2):  # when silent ones are closed, others may come
            silent = [await asyncio.open_connection("127.0.0.1", mixed) for _ in range(3)]
            async with asyncio.timeout(PATIENCE_S):
                for reader, writer in silent:
                    with contextlib.suppress(ConnectionError):
                        assert await reader.read() == b""
                    writer.close()
        lines = await asyncio.to_thread(edge.await_log, "connections_per_address_refused")
        assert (lines[0]["protocol"], lines[0]["limit"]) == ("mixed", 2)
        for kind, count in (("first_byte", 4), ("mixed_connections_per_address", 2)):
            await asyncio.to_thread(
                edge.await_metric,
                "streamedge_errors_total",
                partial(eq, float(count)),
                f'"{kind}"',
            )
        assert (await fetch(mixed, "/a.txt")).status == 200
        # The limit is live.
        config = edge.folder / "config.toml"
        config.write_text(config.read_text().replace("per_address = 2", "per_address = 3"))
        url = f"http://127.0.0.1:{edge.admin_port}/reload"
        await asyncio.to_thread(urllib.request.urlopen, url, data=b"", timeout=PATIENCE_S)
        silent = [await asyncio.open_connection("127.0.0.1", mixed) for _ in range(3)]
        await asyncio.to_thread(
            edge.await_metric, "streamedge_errors_total", partial(eq, 7.0), '"first_byte"'
        )
        for _, writer in silent:
            writer.close()


def names_of(port: int, authority: CertificateAuthority, server_name: str) -> tuple[int, list[str]]:
    """The serial number and the names of the certificate that an address shows for a name."""
    context = authority.client()
    context.check_hostname = False
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection,
        context.wrap_socket(connection, server_hostname=server_name) as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    certificate = x509.load_der_x509_certificate(shown)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return certificate.serial_number, names.get_values_for_type(x509.DNSName)


async def test_renewed_certificate_is_shown_and_plays_go_on(tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    (films / "low.mp4").write_bytes(rendition("low"))
    authority = CertificateAuthority(tmp_path)
    pair, other = authority.issue("localhost"), authority.issue("two.example")
    mixed, rtmps = free_ports(2)
    with run_edge(
        tmp_path / "edge",
        f'[origins.main]\ntype = "directory"\npath = "{films}"\n'
        f'[[certificates]]\ncertificate = "{other.certificate}"\nkey = "{other.key}"\n',
        listen=f'mixed = ["127.0.0.1:{mixed}"]\nrtmps = ["127.0.0.1:{rtmps}"]',
        certificate=pair,
        workers=2,
    ) as edge:
        before = {}
        for port in (mixed, rtmps):
            for name in ("localhost", "two.example"):
                serial, names = await asyncio.to_thread(names_of, port, authority, name)
                assert names == [name]
                before[name] = serial
        # At the pace of the film, so that it lasts beyond the renewal.
        plays = [
            asyncio.create_task(
                play_with_ffmpeg(f"rtmps://localhost:{port}/cfx/st/mp4:low.mp4", buffer_ms=1000)
            )
            for port in (mixed, rtmps)
        ]
        await asyncio.to_thread(edge.await_log, "rtmp_play", 2)
        authority.issue("localhost", into=pair)
        edge.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(PATIENCE_S):
            for port in (mixed, rtmps):
                while (await asyncio.to_thread(names_of, port, authority, "localhost"))[
                    0
                ] == before["localhost"]:
                    await asyncio.to_thread(pause)
                two, _ = await asyncio.to_thread(names_of, port, authority, "two.example")
                assert two == before["two.example"]
        for result in await asyncio.gather(*plays):
            assert result.code == 0, result.stderr
            assert len(packets(result.output)["video"]) == SECONDS * 25
        target = tmp_path / "low.flv"
        result = await rtmpdump(f"rtmps://localhost:{rtmps}/cfx/st/mp4:low.mp4", target, "-B", "1")
        assert target.stat().st_size, result.stderr


@pytest.mark.parametrize("transport", ["rtmps", "rtmpt", "rtmpts"])
async def test_play_over_each_transport_outlives_sigterm(tmp_path: Path, transport: str) -> None:
    films = tmp_path / "films"
    films.mkdir()
    (films / "low.mp4").write_bytes(rendition("low"))
    authority = CertificateAuthority(tmp_path)
    (mixed,) = free_ports(1)
    with run_edge(
        tmp_path / "edge",
        f'[origins.main]\ntype = "directory"\npath = "{films}"\n',
        edge='drain = "60s"',
        listen=f'mixed = ["127.0.0.1:{mixed}"]',
        certificate=authority.issue("localhost"),
        workers=2,
    ) as edge:
        url = f"{transport}://localhost:{mixed}/cfx/st/mp4:low.mp4"
        play = asyncio.create_task(play_with_ffmpeg(url, exe=FFMPEG_5, buffer_ms=1000))
        await asyncio.to_thread(edge.await_log, "rtmp_play")
        edge.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(edge.await_log, "worker_draining")
        result = await play
        assert result.code == 0, result.stderr
        assert len(packets(result.output)["video"]) == SECONDS * 25
        assert await asyncio.to_thread(edge.process.wait, PATIENCE_S) == 0
