"""Any bytes in any pieces: no unhandled exception, bounded memory, and the next client is served.

The bytes are requests of CORPUS with mutations, so that all states of a connection are reached.
``{}`` is an open session of this worker, ``{other}`` one of another worker.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streamedge.delivery.rtmp.tunnel.connection import BODY_BYTES_MAX, HEAD_BYTES_MAX, HEAD_S
from streamedge.delivery.rtmp.tunnel.session import SILENCE_S, WAIT_S
from tests.delivery.rtmp.tunnel.test_server import Tunnels, tunnels
from tests.support.event_loop import until
from tests.support.mutations import Mutation, mutated, mutations
from tests.support.rtmp.tunnel_client import open_connection

LENGTH = b" HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n\0"
CHUNKED = b" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
CORPUS = (
    b"POST /open/1" + LENGTH,
    b"POST /fcs/ident2" + LENGTH,
    b"POST /send/{}/0" + LENGTH,
    b"POST /send/{}/0" + CHUNKED,
    b"POST /send/{}/1" + LENGTH,
    b"POST /send/{}/99999999999" + LENGTH,
    b"POST /idle/{}/0" + LENGTH,
    b"POST /idle/{}/1 HTTP/1.0\r\nContent-Length: 1\r\n\r\n\0",
    b"POST /close/{}/1" + LENGTH,
    b"POST /close/{}" + LENGTH,
    b"POST /send/{other}/0" + LENGTH,
    b"POST /close/{other}" + LENGTH,
    b"GET /idle/{}/0 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /idle/ff{}/0" + LENGTH,
    b"POST /send/{}/0 HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1),
    b"POST /idle/{}/0 HTTP/1.1\r\nX: " + bytes(HEAD_BYTES_MAX).replace(b"\0", b"x"),
    b"POST /send/{}/0 HTTP/1.1\r\nX-Forwarded-For: a, b\r\nUpgrade: websocket\r\n"
    b"Connection: upgrade\r\nContent-Length: 1\r\n\r\n\0",
    b"POST /send/{}/0 HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n\0",
)
PIECES = (b"/", b"\r\n", b"\r\n\r\n", b"0", b"-1", b":", b"\xff", b"POST ", b"\0", b"9" * 30)
NEXT = b"abc"  # what the next client sends
ENDS = ("abort", "end of input", "stop", "sweep")


async def feed(running: Tunnels, data: bytes, places: list[float], end: str) -> None:
    """Gives one connection ``data`` in pieces, and ends it. The next client is served."""
    now_s = asyncio.get_running_loop().time()
    async with open_connection(running.ports[0]) as client:
        own = await client.open()
        async with open_connection(running.ports[1]) as elsewhere:
            other = await elsewhere.open()
        data = data.replace(b"{}", own.encode()).replace(b"{other}", other.encode())
        cuts = sorted({0, len(data), *(int(place * len(data)) for place in places)})
        for start, stop in pairwise(cuts):
            client.send_raw(data[start:stop])
            await asyncio.sleep(0)
        if end == "end of input":
            client.send_end()
        elif end == "stop":
            running.servers[0].stop()
        elif end == "sweep":
            running.servers[0].sweep(now_s + HEAD_S + 1)
        if end != "abort":
            await asyncio.sleep(0)
        client.close()
    if end != "stop":
        async with open_connection(running.ports[0]) as client:
            session = await client.open()
            assert await client.request(f"/send/{session}/0", NEXT) == (200, b"\1" + NEXT)
    for server in running.servers:
        server.sweep(now_s + WAIT_S + 1)
    await until(lambda: all(server.stats()[1] == 0 for server in running.servers))
    for server in running.servers:
        server.sweep(now_s + 2 * SILENCE_S + 10)
        assert server.stats() == (0, 0)
    assert all(session.lost for session in running.sessions)
    received_max = max(len(data), len(NEXT))
    assert all(len(session.received) <= received_max for session in running.sessions)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(CORPUS), st.lists(mutations(PIECES), max_size=2)),
        min_size=1,
        max_size=5,
    ),
    st.lists(st.floats(0, 1), max_size=6),
    st.sampled_from(ENDS),
)
@example([(CORPUS[6], [])] * 40, [0.5], "abort")
@example([(CORPUS[2], []), (CORPUS[10], []), (CORPUS[4], [])], [0.1, 0.2], "stop")
@example([(CORPUS[0], [])] * 9, [], "end of input")
@example([(CORPUS[12], [Mutation(0.0, 40, b"/")])], [], "abort")
def test_any_bytes_in_any_pieces_do_no_harm(
    requests: list[tuple[bytes, list[Mutation]]], places: list[float], end: str
) -> None:
    data = b"".join(mutated(request, changes) for request, changes in requests)
    failures: list[dict[str, Any]] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: failures.append(context))
        async with tunnels(2, sessions_max=16) as running:
            await feed(running, data, places, end)

    asyncio.run(run())
    assert failures == []
