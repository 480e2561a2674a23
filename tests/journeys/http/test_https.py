"""Journeys: a real edge over TLS: real clients, several certificates, and their renewal."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamedge.spans import Span
from tests.support.certificate_authority import CertificateAuthority, Pair
from tests.support.http.http_viewer import TruncatedError, Viewer, request
from tests.support.origins.scripted_origin import Pattern, ScriptedOrigin
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.process.ports import free_ports

FILM_BYTES = 9_000_001
FILM = Pattern(FILM_BYTES, seed=11)
WHOLE = FILM.read(Span(0, FILM_BYTES))
SMALL = b"a small object\n"
ONE, TWO = "one.example", "www.two.example"


@dataclass(frozen=True, slots=True)
class SecureEdge:
    """A running edge, its HTTPS port, and the authority of its certificates."""

    edge: EdgeProcess
    port: int
    authority: CertificateAuthority
    one: Pair
    two: Pair

    def curl(self, *arguments: str, name: str = ONE) -> subprocess.CompletedProcess[bytes]:
        """Runs curl; the last argument is a path."""
        *options, path = arguments
        return subprocess.run(
            [
                *("curl", "--silent", "--show-error", "--fail", "--noproxy", "*"),
                *("--cacert", str(self.authority.root)),
                *("--resolve", f"{name}:{self.port}:127.0.0.1"),
                *options,
                f"https://{name}:{self.port}{path}",
            ],
            check=False,
            capture_output=True,
            timeout=PATIENCE_S,
        )

    def connect(self, name: str = ONE, receive_buffer_bytes: int | None = None) -> ssl.SSLSocket:
        connection = socket.socket()
        connection.settimeout(PATIENCE_S)
        if receive_buffer_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        connection.connect(("127.0.0.1", self.port))
        return self.authority.client().wrap_socket(connection, server_hostname=name)

    @asynccontextmanager
    async def viewer(self) -> AsyncIterator[Viewer]:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.authority.client(), server_hostname=ONE
        )
        try:
            yield Viewer(reader, writer)
        finally:
            writer.transport.abort()


@contextmanager
def serve(folder: Path, origin: str, *, workers: int = 1, limits: str = "") -> Iterator[SecureEdge]:
    folder.mkdir(parents=True, exist_ok=True)
    authority = CertificateAuthority(folder)
    one, two = authority.issue(ONE), authority.issue("two.example", "*.two.example")
    certificates = "".join(
        f'[[certificates]]\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
        for pair in (one, two)
    )
    (port,) = free_ports(1)
    listen = f'https = ["127.0.0.1:{port}"]'
    with run_edge(
        folder / "edge", certificates + origin, workers=workers, listen=listen, limits=limits
    ) as edge:
        yield SecureEdge(edge, port, authority, one, two)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureEdge]:
    """An edge with two workers and a folder."""
    folder = tmp_path_factory.mktemp("https")
    media = folder / "media"
    media.mkdir()
    (media / "film.mp4").write_bytes(WHOLE)
    (media / "small").write_bytes(SMALL)
    origin = f'[origins.main]\ntype = "directory"\npath = "{media}"\n'
    with serve(folder, origin, workers=2) as running:
        yield running


@pytest.mark.parametrize("http", ["--http1.1", "--http2"])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl_receives_every_byte(secure: SecureEdge, version: str, http: str) -> None:
    only = ["--tlsv" + version, "--tls-max", version, http]
    for _again in range(2):  # a miss and hits, from either worker
        assert secure.curl(*only, "/film.mp4").stdout == WHOLE
        assert secure.curl(*only, "/small").stdout == SMALL
        part = secure.curl(*only, "--range", "1000000-7999999", "/film.mp4").stdout
        assert part == WHOLE[1_000_000:8_000_000]
        assert secure.curl(*only, "--range", "-10", "/film.mp4").stdout == WHOLE[-10:]
    head = secure.curl(*only, "--head", "/film.mp4").stdout
    assert head.startswith(b"HTTP/2" if http == "--http2" else b"HTTP/1.1")
    assert f"content-length: {FILM_BYTES}\r\n".encode() in head
    assert secure.curl(*only, "/missing").returncode == 22


def test_each_server_name_gets_its_certificate(secure: SecureEdge) -> None:
    assert secure.curl("/small", name=ONE).stdout == SMALL
    assert secure.curl("/small", name=TWO).stdout == SMALL
    unknown = secure.curl("/small", name="three.example")
    assert unknown.returncode == 60  # the first certificate, which is not for that name
    assert b"three.example" in unknown.stderr


def _status(connection: ssl.SSLSocket, host: str) -> int:
    """Requests /small; returns the status."""
    connection.sendall(request("/small", host=host))
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


def test_connection_serves_only_hosts_of_its_certificate(secure: SecureEdge) -> None:
    """A host that the certificate does not cover is a 421, cached or not, on either path."""
    with secure.connect(ONE) as one, secure.connect(TWO) as two:
        for _again in range(3):
            assert [_status(one, host) for host in (ONE, TWO, "127.0.0.1")] == [200, 421, 200]
            assert [_status(two, host) for host in (TWO, ONE, "two.example:1")] == [200, 421, 200]


def test_client_without_sni_may_request_any_host(secure: SecureEdge) -> None:
    """curl -k by address, and old clients; they received the first certificate."""
    context = secure.authority.client()
    context.check_hostname = False
    with (
        socket.create_connection(("127.0.0.1", secure.port), 30) as plain,
        context.wrap_socket(plain) as connection,
    ):
        assert [_status(connection, host) for host in (ONE, TWO, "other")] == [200, 200, 200]


def test_http_and_https_share_the_cache(secure: SecureEdge) -> None:
    plain = http.client.HTTPConnection("127.0.0.1", secure.edge.http_port, timeout=PATIENCE_S)
    plain.request("GET", "/film.mp4", headers={"Host": ONE, "Range": "bytes=5-9"})
    response = plain.getresponse()
    assert response.read() == WHOLE[5:10]
    plain.close()
    fields = secure.curl("--dump-header", "-", "--range", "5-9", "/film.mp4").stdout
    assert b"x-cache: Hit from streamedge\r\n" in fields


def test_old_tls_versions_are_refused_and_logged(secure: SecureEdge) -> None:
    result = secure.curl("--tlsv1.0", "--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0", "/small")
    assert result.returncode == 35
    (line, *_) = secure.edge.await_log("tls_handshake_failed")
    assert line["reason"] == "UNSUPPORTED_PROTOCOL"
    assert line["client"].startswith("127.0.0.1:")


def test_session_resumes_on_any_worker(secure: SecureEdge) -> None:
    context = secure.authority.client()
    with socket.create_connection(("127.0.0.1", secure.port), 30) as connection:
        first = context.wrap_socket(connection, server_hostname=ONE)
        first.sendall(request("/small", host=ONE))
        assert first.recv(1000).startswith(b"HTTP/1.1 200")
        session = first.session
        assert session is not None
        first.close()
    for _connection in range(8):  # the kernel spreads them over both workers
        with socket.create_connection(("127.0.0.1", secure.port), 30) as connection:
            again = context.wrap_socket(connection, server_hostname=ONE, session=session)
            assert again.session_reused
            again.close()


async def test_pipelined_requests_are_answered_in_order(secure: SecureEdge) -> None:
    async with secure.viewer() as viewer:
        requests = [("/small", ""), ("/film.mp4", "bytes=100-2000000"), ("/small", "bytes=2-4")] * 3
        raw = b""
        for path, range_value in requests:
            raw += request(path, host=ONE, **({"range": range_value} if range_value else {}))
        await viewer.send(raw)
        for path, range_value in requests:
            body = SMALL if path == "/small" else WHOLE
            if range_value:
                first, last = range_value.removeprefix("bytes=").split("-")
                body = body[int(first) : int(last) + 1]
            assert (await viewer.receive()).body == body


def test_slow_reader_receives_every_byte(secure: SecureEdge) -> None:
    with secure.connect(receive_buffer_bytes=4096) as viewer:
        viewer.sendall(request("/film.mp4", host=ONE, connection="close"))
        received = bytearray()
        while piece := viewer.recv(3000):
            received += piece
    assert received.partition(b"\r\n\r\n")[2] == WHOLE


def test_renewed_certificates_are_loaded_while_connections_continue(secure: SecureEdge) -> None:
    with secure.connect(TWO) as before:
        old = before.getpeercert(binary_form=True)
        before.sendall(request("/film.mp4", host=TWO))
        received = bytearray(before.recv(1000))
        secure.authority.issue("two.example", "*.two.example", into=secure.two)
        lines = secure.edge.await_log("certificate_loaded", 2)
        assert lines[0]["names"] == ["two.example", "*.two.example"]
        with secure.connect(TWO) as after:
            assert after.getpeercert(binary_form=True) != old
        head_bytes = received.index(b"\r\n\r\n") + 4
        while len(received) < head_bytes + FILM_BYTES:
            received += before.recv(1 << 20)
        assert received[head_bytes:] == WHOLE
        before.sendall(request("/small", host=TWO))
        response = before.recv(1000)
        while not response.endswith(SMALL):
            response += before.recv(1000)
    old_key = secure.two.key.read_bytes()
    secure.two.key.write_bytes(b"no key")
    lines = secure.edge.await_log("certificate_refused", 2)
    assert str(secure.two.certificate) in lines[0]["reason"]
    assert secure.curl("/small", name=TWO).stdout == SMALL
    secure.two.key.write_bytes(old_key)


def test_plain_http_on_the_https_port_is_a_400(secure: SecureEdge) -> None:
    plain = http.client.HTTPConnection("127.0.0.1", secure.port, timeout=PATIENCE_S)
    plain.request("GET", "/small")
    assert plain.getresponse().status == 400
    plain.close()


async def test_truncated_response_is_detected_by_the_client(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.put("film", FILM)
        toml = f'[origins.main]\ntype = "http"\nurl = "{origin.url}"\n'
        with serve(tmp_path, toml, limits="origin_retries = 0") as secure:
            origin.hold("film", at=1_000_000)
            async with secure.viewer() as viewer:
                await viewer.send_request("/film", host=ONE)
                head = await viewer.receive_head()
                assert head.fields["content-length"] == str(FILM_BYTES)
                assert await viewer.receive_body(1_000_000) == WHOLE[:1_000_000]
                await origin.refuse()
                with pytest.raises(TruncatedError):
                    await viewer.receive_body(FILM_BYTES - 1_000_000)


def test_handshake_times_out(tmp_path: Path) -> None:
    toml = f'[origins.main]\ntype = "directory"\npath = "{tmp_path}"\n'
    with (
        serve(tmp_path, toml, limits='tls_handshake = "100ms"') as secure,
        socket.create_connection(("127.0.0.1", secure.port), 30) as silent,
    ):
        silent.sendall(b"\x16\x03\x01")
        assert silent.recv(100) == b""
        (line,) = secure.edge.await_log("tls_handshake_failed")
        assert line["reason"] == "it took too long"
