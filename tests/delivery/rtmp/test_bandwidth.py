"""The bandwidth check: its rules, and the rate that a client on a slower link gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.delivery.rtmp.bandwidth import (
    CALL_BYTES,
    LIMIT_S,
    ROUND_BYTES_MAX,
    BandwidthCheck,
    Phase,
)
from streamedge.delivery.rtmp.protocol import amf0
from tests.support.rtmp.rtmp_client import open_client
from tests.support.rtmp.rtmp_edge import serve_rtmp


@given(
    st.floats(0.2, 100.0),
    st.floats(0.012, 0.5),
)
def test_rate_of_a_link_is_measured(megabits: float, rtt_s: float) -> None:
    """A link with a rate and a round-trip time, whose calls arrive one behind the other."""
    check, now_s = BandwidthCheck(), 100.0
    calls = check.begin(now_s)
    while not check.is_over(now_s):
        assert sum(calls) <= ROUND_BYTES_MAX
        bits = [8 * (size + CALL_BYTES) for size in calls]
        following: list[int] = []
        arrival_s = now_s
        for count in bits:
            arrival_s += count / (megabits * 1e6)
            now_s = arrival_s + rtt_s
            following = check.result(now_s)
        calls = following
    if check.phase is Phase.DONE:
        rate = check.rate(now_s)
        assert rate.kbit_per_s == pytest.approx(megabits * 1000, rel=0.1)
        assert rate.latency_ms == pytest.approx(
            1000 * (rtt_s + 8 * CALL_BYTES / (megabits * 1e6)), abs=1
        )


def test_client_without_results_gets_a_rate_of_zero_after_the_limit() -> None:
    check = BandwidthCheck()
    assert check.begin(0.0) == [0]
    assert not check.is_over(LIMIT_S)
    assert check.is_over(LIMIT_S + 0.1)
    assert check.rate(LIMIT_S + 0.1).kbit_per_s == 0.0
    assert check.result(LIMIT_S + 0.2) == []


@asynccontextmanager
async def slow_link(port: int, megabits: float) -> AsyncIterator[int]:
    """A proxy that passes the server's bytes on at a rate, those of 5 ms at a time.

    A token bucket of the test's own: the kernel of some machines has no netem.
    """
    loop = asyncio.get_running_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)

        async def upward() -> None:
            while data := await reader.read(65536):
                to_server.write(data)

        task = loop.create_task(upward())
        due_s = loop.time()
        while data := await from_server.read(int(megabits * 1e6 / 8 * 0.005) + 1):
            due_s = max(due_s, loop.time() - 0.02) + 8 * len(data) / (megabits * 1e6)
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            writer.write(data)
        task.cancel()
        to_server.close()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("megabits", [1.0, 5.0, 20.0])
async def test_client_gets_the_rate_of_its_link(megabits: float, cache_root: Path) -> None:
    async with (
        serve_rtmp(cache_root) as edge,
        slow_link(edge.port, megabits) as port,
        open_client(port, buffer_ms=None) as client,
    ):
        client.command("checkBandwidth", None, transaction=9.0)
        while True:
            (*_, message) = await client.until_named("onBWCheck", "onBWDone")
            name, transaction, _object, *values = amf0.decode_all(message.payload)
            if name == "onBWDone" and values:
                break
            if name == "onBWCheck":
                assert isinstance(transaction, float)
                client.command("_result", None, None, transaction=transaction)
        assert values[0] == pytest.approx(megabits * 1000, rel=0.1)
        assert len(values) == 4
