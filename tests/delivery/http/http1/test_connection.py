"""One HTTP connection: order, keep-alive, limits and invalid input."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.delivery.http.request.request import HEAD_BYTES_MAX, HOST_BYTES_MAX
from streamedge.ops.metrics import Counter
from streamedge.spans import Span
from tests.support.http.http_viewer import Response, Viewer, fetch, open_viewer, request
from tests.support.http.web_edge import WebEdge, connections, serve_web
from tests.support.origins.scripted_origin import Pattern, Reply

PACKET_MAX_BYTES = 256 << 10  # the size of asyncio's reads
FILM = Pattern(300_000, seed=1)
WHOLE = FILM.read(Span(0, FILM.size_bytes))


def put_film(edge: WebEdge) -> None:
    edge.origin.put("film.mp4", FILM, etag='"v1"', content_type="video/mp4")


async def test_connection_carries_several_requests(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        for expected in ("Miss", "Hit", "Hit"):
            response = await viewer.get("/film.mp4")
            assert response.status == 200
            assert response.body == WHOLE
            assert response.cache == expected
        head = await viewer.get("/film.mp4", "HEAD")
        assert head.fields["content-length"] == str(len(WHOLE))
        assert (await viewer.get("/film.mp4", range="bytes=5-9")).body == WHOLE[5:10]


async def test_pipelined_requests_are_answered_in_order(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        edge.origin.put("cold.mp4", b"cold")
        await viewer.get("/film.mp4")
        requests = [
            ("/film.mp4", "GET", {"range": "bytes=0-9"}),
            ("/cold.mp4", "GET", {}),
            ("/film.mp4", "HEAD", {}),
            ("/none.mp4", "GET", {}),
            ("/film.mp4", "GET", {}),
            ("/cold.mp4", "HEAD", {}),
            ("/film.mp4", "POST", {"content_length": "0"}),
            ("/film.mp4", "GET", {"if_none_match": '"v1"'}),
            ("/film.mp4", "GET", {"range": "bytes=-3"}),
        ]
        await viewer.send(b"".join(request(path, verb, **more) for path, verb, more in requests))
        answers = [await viewer.receive(verb) for _path, verb, _more in requests]
        results = [(answer.status, answer.body) for answer in answers]
        assert results[:3] == [(206, WHOLE[:10]), (200, b"cold"), (200, b"")]
        assert [status for status, _body in results[3:]] == [404, 200, 200, 405, 304, 206]
        assert results[4][1] == WHOLE
        assert results[8][1] == WHOLE[-3:]
        assert answers[2].fields["content-length"] == str(len(WHOLE))
        assert answers[6].fields["allow"] == "GET, HEAD"


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
async def test_requests_are_parsed_however_they_are_split(
    tmp_path: Path, data: st.DataObject
) -> None:
    from streamedge.cache.storage.store import prepare_folder

    prepare_folder(tmp_path)
    async with serve_web(tmp_path) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        spans = data.draw(
            st.lists(
                st.tuples(st.integers(0, 299_999), st.integers(0, 299_999)).map(
                    lambda pair: (min(pair), max(pair))
                ),
                min_size=1,
                max_size=6,
            )
        )
        raw = b"".join(request("/film.mp4", range=f"bytes={a}-{b}") for a, b in spans)
        cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=5)))
        for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            await viewer.send(raw[start:end])
            await asyncio.sleep(0)
        for first, last in spans:
            assert (await viewer.receive()).body == WHOLE[first : last + 1]


async def test_connection_close_closes_after_the_response(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge:
        put_film(edge)
        for _cold_then_warm in range(2):
            async with open_viewer(edge.port) as viewer:
                response = await viewer.get("/film.mp4", connection="close")
                assert response.body == WHOLE
                assert response.fields["connection"] == "close"
                assert await viewer.receive_rest() == b""


@pytest.mark.parametrize("more", [b"", b"Connection: keep-alive\r\n"])
async def test_http_1_0_connection_is_closed_after_the_response(
    cache_root: Path, more: bytes
) -> None:
    async with serve_web(cache_root) as edge:
        put_film(edge)
        for _cold_then_warm in range(2):
            async with open_viewer(edge.port) as viewer:
                await viewer.send(b"GET /film.mp4 HTTP/1.0\r\nHost: edge\r\n" + more + b"\r\n")
                response = await viewer.receive()
                assert response.body == WHOLE
                assert response.fields["connection"] == "close"
                assert await viewer.receive_rest() == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
async def test_other_methods_are_refused(cache_root: Path, method: str) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        response = await viewer.get("/film.mp4", method)
        assert response.status == 405
        assert response.fields["allow"] == "GET, HEAD"
        assert edge.origin.requests == []
        assert (await viewer.get("/film.mp4")).status == 200


@pytest.mark.parametrize("size", [10, 100_000, 1_000_000])
async def test_body_of_a_refused_request_is_skipped(cache_root: Path, size: int) -> None:
    """Its length does not matter: it is no header, and the next request follows it."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        await viewer.send(request("/film.mp4", "PUT", content_length=str(size)) + b"x" * size)
        assert (await viewer.receive()).status == 405
        assert (await viewer.get("/film.mp4")).body == WHOLE


async def test_get_with_a_body_is_refused_and_the_next_request_answered(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        inner = request("/other.mp4")  # a body that looks like a request is still a body
        for _cold_then_warm in range(2):
            await viewer.send(request("/film.mp4", content_length=str(len(inner))) + inner)
            assert (await viewer.receive()).status == 403
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
        await viewer.send(request("/film.mp4", transfer_encoding="chunked") + chunked)
        assert (await viewer.receive()).status == 403
        assert (await viewer.get("/film.mp4")).body == WHOLE
        assert {seen.name for seen in edge.origin.requests} == {"film.mp4"}


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS ClientHello
    b"nonsense\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nHost: edge\r\n\r\n",
    b"GET / HTTP/1.1\nHost: edge\n\n",
    b"GET / HTTP/1.1\r\nHost : edge\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: edge\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: ed\0ge\r\n\r\n",
    b"GET /\0 HTTP/1.1\r\nHost: edge\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: edge\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: edge\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: edge\r\nContent-Length: +1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: edge\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"CONNECT edge:80 HTTP/1.1\r\nHost: edge\r\n\r\n",
]


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_invalid_http_gets_a_400_and_is_closed(cache_root: Path, garbage: bytes) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await viewer.send(garbage)
        response = await viewer.receive()
        assert response.status == 400
        assert response.fields["connection"] == "close"
        assert await viewer.receive_rest() == b""
        (line,) = edge.lines()
        assert (line["status"], line["cache"]) == (400, "Error")
        assert line["client"].startswith("127.0.0.1:")
        assert edge.origin.requests == []


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.binary(max_size=200), max_size=5))
async def test_any_bytes_leave_the_server_running(tmp_path: Path, packets: list[bytes]) -> None:
    from streamedge.cache.storage.store import prepare_folder

    prepare_folder(tmp_path)
    failures: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: failures.append(context))
    async with serve_web(tmp_path) as edge:
        put_film(edge)
        async with open_viewer(edge.port) as viewer:
            with contextlib.suppress(ConnectionError):  # the edge may have closed the connection
                for packet in packets:
                    await viewer.send(packet)
                    await asyncio.sleep(0)
        assert (await fetch(edge.port, "/film.mp4")).body == WHOLE
    assert failures == []


async def test_garbage_after_a_request_gets_its_400_after_the_response(cache_root: Path) -> None:
    """It neither replaces the response nor appears in it."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        edge.origin.hold("film.mp4", at=1000)
        await viewer.send(request("/film.mp4") + request("/film.mp4", "HEAD") + b"nonsense\r\n\r\n")
        head = await viewer.receive_head()
        body = await viewer.receive_body(1000)
        await viewer.send(b"more nonsense\r\n\r\n")
        edge.origin.release("film.mp4")
        body += await viewer.receive_body(int(head.fields["content-length"]) - 1000)
        assert body == WHOLE
        assert (await viewer.receive("HEAD")).status == 200
        assert (await viewer.receive()).status == 400
        assert await viewer.receive_rest() == b""


@pytest.mark.parametrize("packets", [1, 4])
async def test_too_many_header_bytes_are_refused(cache_root: Path, packets: int) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        await viewer.get("/film.mp4")
        raw = request("/film.mp4", cookie="x" * HEAD_BYTES_MAX)
        step = -(-len(raw) // packets)
        for start in range(0, len(raw), step):
            await viewer.send(raw[start : start + step])
            await asyncio.sleep(0)
        assert (await viewer.receive()).status == 431
        assert await viewer.receive_rest() == b""
        assert edge.lines()[-1]["status"] == 431
        assert edge.counts.gathered(Counter.STATUSES, "431") == 1


async def test_endless_headers_are_refused(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        await viewer.send(b"GET /" + b"a" * (HEAD_BYTES_MAX + 1))
        assert (await viewer.receive()).status == 431


async def test_headers_within_the_limit_are_accepted(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        raw_cookie = "x" * (HEAD_BYTES_MAX - 200)
        for _cold_then_warm in range(2):
            assert (await viewer.get("/film.mp4", cookie=raw_cookie)).status == 200


async def test_large_header_after_a_running_response_does_not_break_it(
    cache_root: Path,
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        edge.origin.hold("film.mp4", at=1000)
        await viewer.send_request("/film.mp4")
        head = await viewer.receive_head()
        await viewer.receive_body(1000)
        await viewer.send(b"GET /" + b"a" * 2 * HEAD_BYTES_MAX)
        edge.origin.release("film.mp4")
        rest = await viewer.receive_body(int(head.fields["content-length"]) - 1000)
        assert rest == WHOLE[1000:]
        assert (await viewer.receive()).status == 431


async def test_pipelined_requests_are_queued_up_to_a_limit(
    cache_root: Path,
) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        await viewer.get("/film.mp4")
        raw_request = request("/film.mp4", "HEAD")
        sending = asyncio.ensure_future(
            viewer.send(raw_request * (8 * PACKET_MAX_BYTES // len(raw_request)))
        )
        for _response in range(100):
            assert (await viewer.receive("HEAD")).status == 200
            (connection,) = connections(edge)
            assert connection.stats().queued <= PACKET_MAX_BYTES // len(raw_request)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /film.mp4 HTTP/1.1\r\n\r\n",
        b"GET /film.mp4 HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /film.mp4 HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET /film.mp4 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http://other/film.mp4 HTTP/1.1\r\nHost: edge\r\n\r\n",
        b"GET /film.mp4 HTTP/1.1\r\nHost: " + b"a" * (HOST_BYTES_MAX + 1) + b"\r\n\r\n",
        b"HEAD http://other/film.mp4 HTTP/1.1\r\nHost: edge\r\n\r\n",
    ],
)
async def test_ambiguous_host_is_refused(cache_root: Path, raw: bytes) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        await viewer.get("/film.mp4")
        await viewer.send(raw)
        response = await viewer.receive(raw.split()[0].decode())
        assert response.status == 400
        assert edge.lines()[-1]["status"] == 400
        assert (
            await viewer.get("/film.mp4")
        ).status == 200  # it was valid HTTP: the connection stays open


@pytest.mark.parametrize("host", [b"edge", b"EDGE:8080", b"edge."])
async def test_absolute_form_is_accepted(cache_root: Path, host: bytes) -> None:
    """RFC 9112 §3.2.2: a server accepts it, although only clients of proxies send it."""
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        await viewer.send(b"GET http://Edge:8080/film.mp4 HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert (await viewer.receive()).body == WHOLE


async def test_query_does_not_change_the_object(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        assert (await viewer.get("/film.mp4?a=1")).cache == "Miss"
        assert (await viewer.get("/film.mp4?b=/../c")).cache == "Hit"
        assert [seen.path for seen in edge.origin.requests] == ["/film.mp4"]


async def test_upgrades_are_ignored(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        for protocol in ("websocket", "h2c", "TLS/1.2"):
            for _cold_then_warm in range(2):
                fields = {"connection": "Upgrade", "upgrade": protocol}
                response = await viewer.get("/film.mp4", **fields)
                assert response.status == 200
                assert response.body == WHOLE


async def test_viewer_that_leaves_is_logged_and_the_fill_continues(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge:
        put_film(edge)
        edge.origin.hold("film.mp4", at=1000)
        async with open_viewer(edge.port) as viewer:
            await viewer.send_request("/film.mp4")
            await viewer.receive_head()
            assert await viewer.receive_body(1000) == WHOLE[:1000]
            viewer.reset()
        edge.origin.release("film.mp4")
        await edge.origin.until(lambda: edge.origin.body_bytes_sent == len(WHOLE))
        response = await fetch(edge.port, "/film.mp4")
        assert response.body == WHOLE
        assert len(edge.origin.requests) == 1
        left, served = edge.lines()
        assert left["reason"] == "viewer left"
        assert left["bytes"] < len(WHOLE)
        assert "reason" not in served, served


async def test_viewer_that_leaves_before_the_response_is_logged(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge:
        put_film(edge)
        edge.origin.hold_responses()
        async with open_viewer(edge.port) as viewer:
            await viewer.send(request("/film.mp4") + request("/film.mp4", "HEAD"))
            await edge.origin.wait_for_requests(1)
        edge.origin.release_responses()
        assert (await fetch(edge.port, "/film.mp4")).body == WHOLE
        assert len(edge.origin.requests) == 1


async def test_permanent_origin_failure_cuts_the_response(cache_root: Path) -> None:
    async with serve_web(cache_root, limits={"origin_retries": 0}) as edge:
        put_film(edge)
        edge.origin.script(Reply(reset_at=100_000))
        edge.origin.script(Reply(status=404), times=3)
        async with open_viewer(edge.port) as viewer:
            await viewer.send_request("/film.mp4")
            head = await viewer.receive_head()
            assert head.fields["content-length"] == str(len(WHOLE))
            received = await viewer.receive_rest()
            assert len(received) < len(WHOLE)
            assert received == WHOLE[: len(received)]
        (line,) = edge.lines()
        assert line["status"] == 200
        assert "reason" in line
        assert edge.counts.gathered(Counter.ERRORS, "response_cut") == 1


async def test_each_response_writes_one_log_line(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as viewer:
        put_film(edge)
        await viewer.get("/film.mp4", user_agent="test/1")
        await viewer.get("/film.mp4", range="bytes=0-9")
        await viewer.get("/film.mp4", "HEAD")
        await viewer.get("/none.mp4")
        lines = edge.lines()
        results = [(line["method"], line["path"], line["status"], line["cache"]) for line in lines]
        assert results == [
            ("GET", "/film.mp4", 200, "Miss"),
            ("GET", "/film.mp4", 206, "Hit"),
            ("HEAD", "/film.mp4", 200, "Hit"),
            ("GET", "/none.mp4", 404, "Error"),
        ]
        assert lines[0]["agent"] == "test/1"
        assert lines[0]["distribution"] == "EWEB"
        assert lines[0]["bytes"] >= len(WHOLE)
        assert 10 <= lines[1]["bytes"] < 1000
        assert lines[1]["range"] == "bytes=0-9"
        assert "404" in lines[3]["reason"]
        assert len({line["client"] for line in lines}) == 1


async def first_bytes(viewer: Viewer, count: int) -> tuple[Response, bytes]:
    return await viewer.receive_head(), await viewer.receive_body(count)


async def test_first_byte_is_sent_while_the_origin_still_sends(cache_root: Path) -> None:
    async with serve_web(cache_root) as edge, open_viewer(edge.port) as one:
        put_film(edge)
        edge.origin.hold("film.mp4", at=1)
        await one.send_request("/film.mp4")
        head, first = await first_bytes(one, 1)
        assert (head.status, head.cache, first) == (200, "Miss", WHOLE[:1])
        async with open_viewer(edge.port) as other:
            await other.send_request("/film.mp4")
            assert (await first_bytes(other, 1))[1] == WHOLE[:1]
            edge.origin.release("film.mp4", 99_999)
            assert await other.receive_body(99_999) == WHOLE[1:100_000]
            edge.origin.release("film.mp4")
            assert await other.receive_body(200_000) == WHOLE[100_000:]
        assert await one.receive_body(299_999) == WHOLE[1:]
        assert len(edge.origin.requests) == 1


async def test_absolute_form_without_a_path_means_the_root(cache_root: Path) -> None:
    rules = {"default_root_object": "index.html"}
    async with serve_web(cache_root, rules=rules) as edge, open_viewer(edge.port) as viewer:
        edge.origin.put("index.html", b"root")
        for target in ("http://edge", "http://edge/", "http://edge?x=1"):
            await viewer.send(f"GET {target} HTTP/1.1\r\nHost: edge\r\n\r\n".encode())
            assert (await viewer.receive()).body == b"root", target
