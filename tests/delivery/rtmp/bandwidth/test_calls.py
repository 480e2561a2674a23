"""checkBandwidth: what a client gets, on the test's own event loop. No figures of a link."""

from __future__ import annotations

import contextlib
from pathlib import Path

from streamedge.delivery.rtmp.bandwidth.check import (
    CALL_BYTES,
    GROWTH_BYTES_MAX,
    LATENCY_GROUP,
    MEASURED_BYTES_MAX,
    TEXT_BYTES_MAX,
    TEXT_BYTES_MIN,
    WINDOW_MAX_BYTES,
)
from streamedge.delivery.rtmp.protocol import amf0
from streamedge.delivery.rtmp.protocol.amf_values import AmfValue
from tests.support.rtmp.rtmp_client import COMMAND, ClosedError, RtmpClient, open_client
from tests.support.rtmp.rtmp_edge import serve_rtmp


async def next_call(client: RtmpClient) -> tuple[str, float, list[AmfValue]]:
    """The next call of the server: its name, its transaction and its arguments."""
    (*_, message) = await client.until(lambda m: m.type_id == COMMAND)
    name, transaction, _object, *values = amf0.decode_all(message.payload)
    assert isinstance(name, str)
    assert isinstance(transaction, float)
    return name, transaction, values


async def check(client: RtmpClient) -> tuple[list[int], list[AmfValue]]:
    """Runs a check; returns the sizes of the texts, and the arguments of onBWDone."""
    assert await client.call("checkBandwidth") is None
    sizes: list[int] = []
    while True:
        name, transaction, values = await next_call(client)
        if name == "onBWDone":
            return sizes, values
        assert name == "onBWCheck"
        assert transaction > 0
        texts = [value for value in values if isinstance(value, str)]
        sizes.append(sum(map(len, texts)))
        client.command("_result", None, None, transaction=transaction)


async def test_client_gets_calls_and_the_rate(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge, open_client(edge.port, buffer_ms=None) as client:
        for _ in range(2):  # one after the other
            sizes, values = await check(client)
            texts = [size for size in sizes if size]
            assert sizes == [0] * (len(sizes) - len(texts)) + texts
            assert texts[:2] == [TEXT_BYTES_MIN, TEXT_BYTES_MIN]
            assert max(texts) <= TEXT_BYTES_MAX
            kbit_per_s, kilobytes, seconds, milliseconds = values
            assert isinstance(kbit_per_s, float)
            assert kbit_per_s > 0
            assert isinstance(kilobytes, float)
            assert 0 < 1024 * kilobytes < sum(texts) + len(texts) * CALL_BYTES + 1024
            assert isinstance(seconds, float)
            assert isinstance(milliseconds, float)


async def test_second_check_at_the_same_time_is_part_of_the_first(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge, open_client(edge.port, buffer_ms=None) as client:
        client.command("checkBandwidth", None)
        client.command("checkBandwidth", None)
        assert len(await client.read_pending()) == LATENCY_GROUP


async def test_client_that_gives_no_results_gets_a_rate_of_zero(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge, open_client(edge.port, buffer_ms=None) as client:
        client.command("checkBandwidth", None)
        for _ in range(LATENCY_GROUP):
            assert (await next_call(client))[0] == "onBWCheck"
        client.command("_result", None, None, transaction=99.0)  # of another call
        name, transaction, values = await next_call(client)
        assert (name, transaction) == ("onBWDone", 0.0)
        assert values[:2] == [0.0, 0.0]


async def test_client_that_invents_results_gets_a_bounded_check(cache_root: Path) -> None:
    async with serve_rtmp(cache_root) as edge, open_client(edge.port, buffer_ms=None) as client:
        client.command("checkBandwidth", None)
        await next_call(client)
        for _ in range(2000):  # of calls that it did not get
            client.command("_result", None, None, transaction=3.0)
        with contextlib.suppress(ClosedError):  # it may have read too slowly
            await client.until(lambda m: b"onBWDone" in m.payload)
        sent_bytes = sum(len(m.payload) for m in client.messages)
        assert sent_bytes < GROWTH_BYTES_MAX + MEASURED_BYTES_MAX + 2 * WINDOW_MAX_BYTES
