"""A body that ends with its TLS connection is complete only with close_notify (RFC 8446 §6.1).

The test runs on the event loop of the edge; asyncio's own TLS accepts any end as close_notify.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
import uvloop

from streamedge.errors import OriginError, OriginFailure
from streamedge.origin.http_client.client import Client
from streamedge.origin.http_client.tls import TlsRules
from tests.support.certificate_authority import CertificateAuthority
from tests.support.patience import PATIENCE_S

LOOP_FACTORIES = {"uvloop": uvloop.new_event_loop}


@pytest.mark.parametrize("has_close_notify", [True, False])
async def test_tls_connection_cut_without_close_notify_breaks_the_body(
    tmp_path: Path, has_close_notify: bool
) -> None:
    authority = CertificateAuthority(tmp_path)
    pair = authority.issue("localhost")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)

    def serve(listener: socket.socket) -> None:
        with tls.wrap_socket(listener.accept()[0], server_side=True) as connection:
            connection.settimeout(PATIENCE_S)
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
            if has_close_notify:
                connection.unwrap()
            else:
                socket.socket.shutdown(connection, socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass

    client = Client(
        connect_timeout_s=PATIENCE_S,
        read_timeout_s=PATIENCE_S,
        connections_max=1,
        tls=TlsRules(ca=authority.root).context,
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = asyncio.create_task(asyncio.to_thread(serve, listener))
        try:
            url = f"https://localhost:{listener.getsockname()[1]}/"
            body = (await client.send("it", "GET", url, {})).body()
            if has_close_notify:
                assert b"".join([piece async for piece in body]) == b"half of it"
            else:
                with pytest.raises(OriginError) as caught:
                    assert [piece async for piece in body]
                assert caught.value.failure is OriginFailure.BROKEN
        finally:
            await client.close()
            await server
